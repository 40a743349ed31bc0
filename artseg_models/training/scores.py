"""The scale of anomaly scores, taken from validation images: no mask is read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from artseg_models.networks.scores import ScoreScale
from artseg_models.training.fields import Array

#: of the pixels of clean validation images, that lie below the score which becomes 0.5
_CLEAN_QUANTILE = 0.999
#: pixels of an image that are looked at: more change a quantile little
_PIXELS = 20_000


def fit_scale(scale: ScoreScale, scores: Iterable[Array], artifact: NDArray[np.bool_]) -> None:
    """Set a scale by the scores of the validation images.

    Parameters
    ----------
    scale : ScoreScale
        Set in place.
    scores : iterable of ndarray
        (y, x) float32 for each validation image, at least 0.
    artifact : ndarray
        (images,) bool: which of them hold an artifact; their pixels count only for the range.
    """
    low, high = np.inf, 0.0
    clean: list[Array] = []
    for map_, holds_artifact in zip(scores, artifact, strict=True):
        low, high = min(low, float(map_.min())), max(high, float(map_.max()))
        if not holds_artifact:
            clean.append(map_.ravel()[:: max(1, map_.size // _PIXELS)])
    if scale.kind == "clean":
        high = float(np.quantile(np.concatenate(clean), _CLEAN_QUANTILE))
    scale.low.copy_(torch.tensor(low))
    scale.high.copy_(torch.tensor(max(high, 1e-12)))
