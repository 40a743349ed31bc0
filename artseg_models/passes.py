"""The classifier's many forward passes in ScoreCAM, by PyTorch or by OpenVINO.

ScoreCAM classifies an image once for each of up to 2048 masks, so that what computes a pass decides how long it takes.
Whole passes begin at the image, late ones at the activation of layer 3.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from artseg_models.errors import ArtSegError
from artseg_models.networks.resnet import ResNet
from artseg_models.quiet_openvino import is_installed, openvino

logger = logging.getLogger(__name__)

#: about what OpenVINO takes to convert a network; fewer seconds of work are not worth it
_CONVERSION_SECONDS = 15.0
#: another engine than PyTorch must save at least this share of its time, or chance would choose
_WORTH = 0.1
_ROUNDS = 3


class Passes(Protocol):
    """Computes the classifier's probabilities, (n, 2) float32: clean, artifact."""

    def whole(self, images: Tensor) -> Tensor:
        """Of binned images (n, 1, y, x) float32."""
        ...

    def late(self, features: Tensor) -> Tensor:
        """Of activations of layer 3 (n, channels, y, x) float32, by layer 4 and the head alone."""
        ...


class TorchPasses:
    """The network as it is, on its own device."""

    def __init__(self, network: ResNet) -> None:
        self._network = network

    def whole(self, images: Tensor) -> Tensor:
        """See `Passes`."""
        return torch.softmax(self._network.binned_logits(images), dim=1)

    def late(self, features: Tensor) -> Tensor:
        """See `Passes`."""
        return torch.softmax(self._network.late_logits(features), dim=1)


class _Part(nn.Module):
    """What is converted: the probabilities that one of the network's ways to logits gives."""

    def __init__(self, network: ResNet, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self._logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self._logits(x), dim=1)


class OpenVinoPasses:
    """The network converted for OpenVINO, on the processor; converted at the first pass of each kind.

    Parameters
    ----------
    network : ResNet
        In evaluation mode, on the processor.
    precision : {"fp32", "bf16"}
        What convolutions compute in.

    Raises
    ------
    ArtSegError
        OpenVINO is not installed, the network is on another device, or this processor has no bf16.
    """

    def __init__(self, network: ResNet, *, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        device = next(network.parameters()).device.type
        if device != "cpu":
            raise ArtSegError(f"ScoreCAM's engine openvino runs on the processor, got {device}. Set engine=torch.")
        self._library = openvino()
        self._core = self._library.Core()
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            # asked for it, OpenVINO would silently compute in fp32
            raise ArtSegError("This processor does not compute in bf16. Set scorecam.engine to auto or openvino.")
        self._hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        self._network = network
        self._compiled: dict[str, Callable[[Any], Any]] = {}

    def whole(self, images: Tensor) -> Tensor:
        """See `Passes`."""
        return self._run("whole", self._network.binned_logits, images)

    def late(self, features: Tensor) -> Tensor:
        """See `Passes`."""
        return self._run("late", self._network.late_logits, features)

    def _run(self, part: str, logits: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        if part not in self._compiled:
            # traced with a batch of two, as one would be taken for a constant
            example = given[:1].expand(2, -1, -1, -1).contiguous()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # OpenVINO traces by what PyTorch means to drop
                model = self._library.convert_model(_Part(self._network, logits).eval(), example_input=example)
            model.reshape([-1, given.shape[1], -1, -1])
            hints = {"INFERENCE_PRECISION_HINT": self._hint, "PERFORMANCE_HINT": "LATENCY"}
            self._compiled[part] = self._core.compile_model(model, "CPU", hints)
        found = self._compiled[part](given.contiguous().numpy())[0]
        # a copy: what OpenVINO gives is overwritten by the next pass
        return torch.from_numpy(np.array(found, dtype=np.float32))


def open_passes(engine: str, network: ResNet) -> Passes:
    """Make the passes of an engine.

    Raises
    ------
    ArtSegError
        It cannot run here.
    """
    if engine == "torch":
        return TorchPasses(network)
    if engine == "openvino":
        return OpenVinoPasses(network)
    if engine == "openvino-bf16":
        return OpenVinoPasses(network, precision="bf16")
    raise ArtSegError(f"Expected an engine out of torch, openvino, openvino-bf16, got {engine!r}.")


@torch.inference_mode()
def choose_passes(network: ResNet, image: Tensor, *, passes: int, batch: int, late: bool, exact: bool) -> str:
    """Choose the fastest engine for many passes by measuring one batch of each.

    Parameters
    ----------
    network : ResNet
        In evaluation mode.
    image : Tensor
        (1, 1, y, x) float32, one of the images.
    passes : int
        How many there are to do: few are not worth a conversion.
    batch : int
        Images in one pass.
    late : bool
        Whether they begin at layer 3.
    exact : bool
        Whether only fp32 may be used.

    Returns
    -------
    str
        "torch", "openvino" or "openvino-bf16".
    """
    given = network.activations(image, 3) if late else image
    given = given.expand(min(batch, passes), -1, -1, -1).contiguous()

    def seconds(engine: str) -> float:
        found = open_passes(engine, network)
        run = found.late if late else found.whole
        run(given)
        return min(_timed(run, given) for _ in range(_ROUNDS))

    if image.device.type != "cpu" or not is_installed():
        return "torch"
    times = {"torch": seconds("torch")}
    if times["torch"] * passes / len(given) < 2 * _CONVERSION_SECONDS:
        return "torch"
    for engine in ("openvino",) if exact else ("openvino", "openvino-bf16"):
        try:
            times[engine] = seconds(engine)
        except ArtSegError as error:  # no bf16 here
            logger.debug("ScoreCAM does not use %s: %s", engine, error)
    best = min(times, key=lambda engine: times[engine])
    chosen = best if times[best] <= (1 - _WORTH) * times["torch"] else "torch"
    told = ", ".join(f"{engine} {1000 * took / len(given):.1f} ms a pass" for engine, took in times.items())
    logger.info("ScoreCAM's engine on this processor: %s (%s)", chosen, told)
    return chosen


def _timed(run: Callable[[Tensor], Tensor], given: Tensor) -> float:
    started = time.perf_counter()
    run(given)
    return time.perf_counter() - started
