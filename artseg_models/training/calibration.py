"""Probabilities that mean what they say: a temperature for each network, chosen on validation (Guo et al. 2017).

A network that is too sure of itself has its logits divided by one number above 1, one that is too unsure by one below;
the order of images and of pixels stays. The division goes into the last layer, so that every exported format has it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # pyright: ignore[reportUnknownVariableType]
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


def best_temperature(logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Find the number by which to divide logits for the smallest cross-entropy.

    Before any image is seen, 1 is the likeliest (its logarithm is normal around 0, with a deviation of 1): a few labels
    that are all told right, for which the sum is the smaller the smaller the number, do not make a network infinitely
    sure.

    Parameters
    ----------
    logits : ndarray
        (n,) of artifact against clean.
    truth : ndarray
        (n,) bool.

    Returns
    -------
    float
        0.1 to 10; 1 where one class is missing.
    """
    if truth.all() or not truth.any():
        return 1.0
    signed = np.where(truth, logits, -logits)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).sum()) + log_temperature**2 / 2

    found = cast(Any, minimize_scalar(loss, bounds=_RANGE, method="bounded", options={"xatol": 1e-4}))
    return float(np.exp(found.x))


def calibrate_classifier(
    network: ResNet, validation: Split, folder: Path, *, device: str, kinds: NDArray[np.float32] | None = None
) -> float:
    """Calibrate a trained classifier by the labels of validation images; see `calibrate_unet`.

    Its answers for kinds of artifact have a temperature of their own, one for all of them, by `kinds`: (images, kinds)
    float32 as `artseg_models.training.kinds.named_kinds` gives it. That of clean and artifact is returned.
    """
    _restore(network, folder)
    with torch.inference_mode():
        given = [network.logits_and_kinds(as_batch(validation.images[i], device)) for i in range(len(validation))]
    pairs = torch.cat([logits for logits, _ in given]).double().cpu().numpy()
    temperature = best_temperature(pairs[:, 1] - pairs[:, 0], validation.artifact)
    _divide(network.fc, slice(2), temperature)
    logger.info("Classifier: logits divided by %.2f", temperature)
    if kinds is not None:
        of_kinds = torch.cat([logits for _, logits in given]).double().cpu().numpy()
        known = ~np.isnan(kinds)
        of_kind = best_temperature(of_kinds[known], kinds[known] > 0)
        _divide(network.fc, slice(2, None), of_kind)
        logger.info("Classifier: logits of kinds divided by %.2f", of_kind)
    _save(network, folder)
    return temperature


def calibrate_unet(
    network: UNet, validation: Split, labels: Sequence[PixelLabel], folder: Path, *, device: str
) -> float:
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

    Returns
    -------
    float
        The temperature.
    """
    _restore(network, folder)
    logits: list[NDArray[np.float64]] = []
    truth: list[NDArray[np.bool_]] = []
    for index, label in enumerate(labels):
        with torch.inference_mode():
            found = network.logits_of_any_size(as_batch(validation.images[index], device))[0, 0].cpu().numpy()
        step = max(1, found.size // _PIXELS)
        values, marks = found.ravel()[::step], label.ravel()[::step]
        logits.append(values[marks >= 0].astype(np.float64))
        truth.append(marks[marks >= 0] > 0)
    temperature = best_temperature(np.concatenate(logits), np.concatenate(truth))
    _divide(network.head, slice(1), temperature)
    _save(network, folder)
    logger.info("U-Net: logits divided by %.2f", temperature)
    return temperature


def _restore(network: nn.Module, folder: Path) -> None:
    kept = folder / "uncalibrated.pt"
    if not kept.exists():
        with whole_file(kept) as temporary:
            shutil.copyfile(folder / "network.pt", temporary)
    network.load_state_dict(torch.load(kept, weights_only=True))
    network.eval()


def _divide(last: nn.Linear | nn.Conv2d, outputs: slice, temperature: float) -> None:
    with torch.no_grad():
        for parameter in last.parameters():
            parameter[outputs].div_(temperature)


def _save(network: nn.Module, folder: Path) -> None:
    save_state(folder / "network.pt", {key: value.cpu() for key, value in network.state_dict().items()})
