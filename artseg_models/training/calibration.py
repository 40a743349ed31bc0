"""Probabilities that mean what they say, chosen on validation: a temperature (Guo et al. 2017), an offset (Platt 1999).

A network that is too sure of itself has its logits divided by one number above 1, one that is too unsure by one below;
the U-Net's are moved by another, since pixels that no pseudo-label marks counted less as it learned. The order of
images and of pixels stays. Both go into the last layer, so that every exported format has them.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize  # pyright: ignore[reportUnknownVariableType]
from scipy.special import expit  # pyright: ignore[reportUnknownVariableType]
from torch import nn

from artseg_models.files import whole_file
from artseg_models.networks.resnet import ResNet
from artseg_models.networks.unet import UNet
from artseg_models.training.fields import Split, as_batch
from artseg_models.training.loop import save_state
from artseg_models.training.sampling import PixelLabel

logger = logging.getLogger(__name__)

#: a tenth to ten times: beyond, validation is too small or too easy to tell
_RANGE = (float(np.log(0.1)), float(np.log(10)))
#: pixels of an image that are looked at
_PIXELS = 20_000


class Calibration(NamedTuple):
    """What makes logits right: divided by the temperature, the offset added."""

    temperature: float = 1.0
    offset: float = 0.0


def best_calibration(
    logits: NDArray[np.float64],
    truth: NDArray[np.bool_],
    *,
    weights: NDArray[np.float64] | None = None,
    offset: bool = False,
) -> Calibration:
    """Find the calibration with the smallest cross-entropy.

    Before any image is seen, none is the likeliest (the temperature's logarithm and the offset are normal around 0,
    with a deviation of 1): a few labels that are all told right, for which the sum is the smaller the smaller the
    temperature, do not make a network infinitely sure.

    Parameters
    ----------
    logits : ndarray
        (n,) of artifact against clean.
    truth : ndarray
        (n,) bool.
    weights : ndarray, optional
        (n,) 0..1: how much each counts; all the same by default.
    offset : bool
        Whether there may be one.

    Returns
    -------
    Calibration
        The temperature 0.1 to 10; none where one class is missing.
    """
    if truth.all() or not truth.any():
        return Calibration()
    counted = np.ones(len(logits)) if weights is None else weights
    signs = np.where(truth, 1.0, -1.0)

    def loss(asked: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        divided = logits / np.exp(asked[0])
        moved = divided + asked[1]
        value = np.dot(counted, np.logaddexp(0, -signs * moved)) + np.square(asked).sum() / 2
        off = counted * (cast("NDArray[np.float64]", expit(moved)) - truth)
        return float(value), asked + np.array([-np.dot(off, divided), off.sum()])

    limits = [_RANGE, (-np.inf, np.inf) if offset else (0.0, 0.0)]
    found = cast(Any, minimize(loss, np.zeros(2), jac=True, bounds=limits, method="L-BFGS-B"))
    return Calibration(float(np.exp(found.x[0])), float(found.x[1]))


def calibrate_classifier(
    network: ResNet, validation: Split, folder: Path, *, device: str, kinds: NDArray[np.float32] | None = None
) -> None:
    """Calibrate a trained classifier by the labels of validation images, without offset; see `calibrate_unet`.

    Its answers for kinds of artifact have a temperature of their own, one for all of them, by `kinds`: (images, kinds)
    float32 as `artseg_models.training.kinds.named_kinds` gives it.
    """
    _restore(network, folder)
    with torch.inference_mode():
        given = [network.logits_and_kinds(as_batch(validation.images[i], device)) for i in range(len(validation))]
    pairs = torch.cat([logits for logits, _ in given]).double().cpu().numpy()
    found = best_calibration(pairs[:, 1] - pairs[:, 0], validation.artifact)
    _apply(network.fc, slice(2), found)
    logger.info("Classifier: logits divided by %.2f", found.temperature)
    if kinds is not None:
        of_kinds = torch.cat([logits for _, logits in given]).double().cpu().numpy()
        known = ~np.isnan(kinds)
        of_kind = best_calibration(of_kinds[known], kinds[known] > 0)
        _apply(network.fc, slice(2, None), of_kind)
        logger.info("Classifier: logits of kinds divided by %.2f", of_kind.temperature)
    _save(network, folder)


def calibrate_unet(
    network: UNet, validation: Split, labels: Sequence[PixelLabel], folder: Path, *, device: str, unmarked: float = 1.0
) -> None:
    """Calibrate a trained U-Net by the pixel labels of validation images.

    Parameters
    ----------
    network : UNet
        Changed in place.
    validation : Split
        The images.
    labels : sequence of ndarray
        (y, x) for each; unsure pixels do not count.
    folder : Path
        Of the network: ``network.pt`` is written anew, ``uncalibrated.pt`` keeps what training left, so that a call
        that was killed repeats bit for bit.
    device : str
        Where the network is.
    unmarked : float
        How much pixels of artifact images count, 0..1, that no label marks.
    """
    _restore(network, folder)
    logits: list[NDArray[np.float64]] = []
    truth: list[NDArray[np.bool_]] = []
    weights: list[NDArray[np.float64]] = []
    for index, label in enumerate(labels):
        with torch.inference_mode():
            found = network.logits_of_any_size(as_batch(validation.images[index], device))[0, 0].cpu().numpy()
        step = max(1, found.size // _PIXELS)
        values, marks = found.ravel()[::step], label.ravel()[::step]
        logits.append(values[marks >= 0].astype(np.float64))
        truth.append(marks[marks >= 0] > 0)
        weights.append(np.where(truth[-1] | ~validation.artifact[index], 1.0, unmarked))
    best = best_calibration(np.concatenate(logits), np.concatenate(truth), weights=np.concatenate(weights), offset=True)
    _apply(network.head, slice(1), best)
    _save(network, folder)
    logger.info("U-Net: logits divided by %.2f and moved by %+.2f", best.temperature, best.offset)


def _restore(network: nn.Module, folder: Path) -> None:
    kept = folder / "uncalibrated.pt"
    if not kept.exists():
        with whole_file(kept) as temporary:
            shutil.copyfile(folder / "network.pt", temporary)
    network.load_state_dict(torch.load(kept, weights_only=True))
    network.eval()


def _apply(last: nn.Linear | nn.Conv2d, outputs: slice, found: Calibration) -> None:
    with torch.no_grad():
        for parameter in last.parameters():
            parameter[outputs].div_(found.temperature)
        cast(torch.Tensor, last.bias)[outputs].add_(found.offset)


def _save(network: nn.Module, folder: Path) -> None:
    save_state(folder / "network.pt", {key: value.cpu() for key, value in network.state_dict().items()})
