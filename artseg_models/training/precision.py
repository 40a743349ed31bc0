"""Whether bf16 is used in training: as asked, or where a short measurement finds it faster."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from artseg_models.files import read_json, write_json
from artseg_models.networks.unet import UNet

logger = logging.getLogger(__name__)

#: bf16 must be this much faster to be worth its rounding.
_WORTH_IT = 1.2
_SIDE, _BATCH, _STEPS = 128, 4, 3


def use_bf16(file: Path, precision: str, *, width: int, device: str) -> bool:
    """Decide on the precision of a run, once: a resumed run keeps what was decided.

    Parameters
    ----------
    file : Path
        Where a measurement is kept, as JSON with the seconds of a training step in each precision.
    precision : {"fp32", "bf16", "auto"}
        What was asked for.
    width : int
        Filters of the U-Net, on which the measurement is made.
    device : str
        "cuda", "mps" or "cpu".

    Returns
    -------
    bool
        True: train in bf16 with autocast.
    """
    if precision != "auto":
        return precision == "bf16"
    if not file.exists():
        seconds = {name: _step_seconds(width, device, bf16=name == "bf16") for name in ("fp32", "bf16")}
        faster = seconds["fp32"] / seconds["bf16"]
        write_json(file, {"step_seconds": seconds, "bf16": faster >= _WORTH_IT})
        logger.info("A training step in bf16 is %.1f times as fast as in fp32 here", faster)
    return bool(read_json(file)["bf16"])


def _step_seconds(width: int, device: str, *, bf16: bool) -> float:
    """Time the fastest of a few training steps on noise."""
    network = UNet(width).to(device)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = torch.randn(_BATCH, 1, _SIDE, _SIDE, device=device)
    seconds: list[float] = []
    for _ in range(_STEPS):
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = network.binned_logits(images).float().square().mean()
        loss.backward()
        float(loss.detach())  # waits for the device
        seconds.append(time.perf_counter() - started)
    return min(seconds)
