"""The networks behind the tiny packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from artseg_models.networks.resnet import ResNet
from artseg_models.networks.unet import UNet


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def networks(tiny_run: Path) -> dict[str, torch.nn.Module]:
    """The networks of the run, as torch has them."""
    found: dict[str, torch.nn.Module] = {}
    result = json.loads((tiny_run / "result.json").read_text())
    for name, kind in (("classifier", ResNet), ("unet", UNet)):
        network = kind(**result[name])
        network.load_state_dict(torch.load(tiny_run / name / "network.pt", weights_only=True))
        found[name] = network.eval()
    return found


@pytest.fixture(scope="session")
def run(tiny_run: Path) -> Path:
    """The run that the packages come from."""
    return tiny_run
