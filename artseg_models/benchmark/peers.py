"""Other people's programs that ArtSeg is measured beside, where they are installed (`make peers` installs them)."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Generator
from typing import Any


def is_here(name: str) -> bool:
    """Tell whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def load(module: str) -> Any:
    """Import a module of a program that uses torchvision, also beside a PyTorch which that was not built for."""
    with _torchvision():
        return importlib.import_module(module)


@contextlib.contextmanager
def _torchvision() -> Generator[None]:
    """Declare two operators that torchvision lacks beside another PyTorch than its own; nothing here calls them."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # a torchvision that fits has them
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    del library
