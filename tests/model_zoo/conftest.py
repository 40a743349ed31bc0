"""A run whose gate lets some images pass, its packages, and the networks behind them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from artseg_models.networks.combined import GatedUNet
from artseg_models.networks.resnet import ResNet
from artseg_models.networks.unet import UNet
from artseg_models.packages.export import export_packages

#: between the classifier's probabilities for the whole sample (below) and for its left half (above)
GATE = 0.01
CUTOFF = 0.6


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the packages come from."""
    return make_run(tmp_path_factory.mktemp("run") / "tiny", gate_threshold=GATE, cutoff=CUTOFF)


@pytest.fixture(scope="session")
def packages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages of the run by kind, exported once; 'older_...' are the same in format 0.5.10."""
    return export_packages(run, tmp_path_factory.mktemp("packages"))._asdict()


@pytest.fixture(scope="session")
def networks(run: Path) -> dict[str, torch.nn.Module]:
    """The networks of the run, as torch has them."""
    result = json.loads((run / "result.json").read_text())
    found: dict[str, torch.nn.Module] = {}
    for name, kind in (("classifier", ResNet), ("unet", UNet)):
        network = kind(**result[name])
        network.load_state_dict(torch.load(run / name / "network.pt", weights_only=True))
        found[name] = network.eval()
    combined = GatedUNet(result["classifier"], result["unet"], cutoff=CUTOFF, gate_threshold=GATE)
    combined.classifier.load_state_dict(found["classifier"].state_dict())
    combined.unet.load_state_dict(found["unet"].state_dict())
    return found | {"combined": combined.eval()}
