"""Whether a trained model tells images apart at all, or only as a guess would."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

logger = logging.getLogger(__name__)

_TOLD_APART, _BY_CHANCE = 0.8, 0.05
"""Few images leave p high: a model that tells them well (area under the ROC curve from the first on) passes by that;
one that does neither that nor has a p up to the second has learned nothing, or too little."""


def warn_of_chance(scores: NDArray[np.floating[Any]], artifact: NDArray[np.bool_]) -> None:
    """Warn where validation images are told apart about as well as by guessing.

    F1 would not show it: where nearly all images hold artifacts, calling all of them so is hard to beat.

    Parameters
    ----------
    scores : ndarray
        (images,) how much each image looks like one with an artifact.
    artifact : ndarray
        (images,) bool: whether it is one. Where all are, or none is, nothing can be told.
    """
    of_artifact, of_clean = scores[artifact], scores[~artifact]
    if not len(of_artifact) or not len(of_clean):
        return
    test: Any = mannwhitneyu(of_artifact, of_clean, alternative="greater")
    area = float(test.statistic) / (len(of_artifact) * len(of_clean))
    if area < _TOLD_APART and float(test.pvalue) > _BY_CHANCE:
        logger.warning(
            "Of %d validation images this model tells clean from artifact about as well as guessing would (area under "
            "the ROC curve %.2f, guessing 0.50): do not trust its masks. Check the labels, give more images, or train "
            "longer (such as --set classifier.schedule.epochs=100).",
            len(scores),
            area,
        )
