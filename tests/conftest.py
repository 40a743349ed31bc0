"""What every test folder may use."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPOSITORY = Path(__file__).resolve().parent.parent

# one engine for all tests, and for the programs they start: which one is fastest on tiny networks is chance
os.environ.setdefault("ARTSEG_ENGINE", "onnxruntime")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("ARTSEG_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real images at {folder}; set ARTSEG_SHARED_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither read nor change what the user of this computer told artseg, nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ARTSEG_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.delenv("ARTSEG_MAINTAINER", raising=False)
        yield


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real browser without window; a test that needs it is skipped where Chromium is not installed.

    For one module: while it is open an event loop runs in this thread, and `asyncio.run` in other tests would fail.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on PATH; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    # no sandbox: it cannot be made where the tests run as root; the rest keeps the browser off the network
    quiet = "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=[*quiet.split(), "--disable-sync", "--no-first-run"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def sample() -> np.ndarray:
    """A noisy 16-bit field (201, 233) with a dark disc."""
    random = np.random.default_rng(3)
    pixels = random.normal(2000, 60, (201, 233))
    y, x = np.mgrid[:201, :233]
    pixels[(y - 120) ** 2 + (x - 60) ** 2 < 30**2] -= 1500
    return pixels.astype(np.uint16)


@pytest.fixture(scope="session")
def make_run(sample: np.ndarray) -> Callable[..., Path]:
    """Write a run folder, of networks that tell kinds of artifact apart where some are named.

    Further keywords replace fields of its result.json.
    """

    def make(folder: Path, *, binning: int = 2, kinds: Sequence[str] = (), **fields: Any) -> Path:
        import torch

        from artseg_models.networks.resnet import ResNet
        from artseg_models.networks.unet import UNet

        torch.set_num_threads(1)
        torch.manual_seed(1)
        count = {"kinds": len(kinds)} if kinds else {}
        # both forms of classifier go through every format: the published one, and that of preset best
        pooled = {"layers": 2, "positions": 8} if kinds else {}
        networks = {
            "classifier": (ResNet, {"depth": 10, "width": 4, "binning": binning, **pooled, **count}),
            "unet": (UNet, {"width": 4, "levels": 5, "binning": binning, **count}),
        }
        told = {"kinds": list(kinds)} if kinds else {}
        result: dict[str, Any] = {
            "name": "Tiny run",
            "method": "ScoreCAM-U-Net",
            "cutoff": 0.42,
            "smallest_artifact_px": 25,
            "gate_threshold": 0.3,
            "pixel_size_um": 0.59,
            "training": {
                "source": "labels.csv",
                "counts": {"train": {"clean": 7, "artifact": 9}, "validation": {"clean": 2, "artifact": 3}},
                "epochs": {"classifier": 3, "unet": 4},
            },
            "scorecam": {"cutoff": 0.05, "channel_weight": "largest"},
            "validation": {"image_f1": 0.91234, "pixel_iou": None},
        }
        for name, (kind, arguments) in networks.items():
            network = kind(**arguments)
            # statistics as after training: without them the signal dies on its way and every output is the same
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0
            network.train()
            with torch.no_grad():
                network(torch.randn(4, 1, 192, 192))
            (folder / name).mkdir(parents=True)
            torch.save(network.state_dict(), folder / name / "network.pt")
            result[name] = arguments
        tifffile.imwrite(folder / "sample.tiff", sample)
        (folder / "result.json").write_text(json.dumps(result | told | fields))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "tiny")


@pytest.fixture(scope="session")
def packages(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages of the run, exported once: 'classifier', 'unet', and 'older_...' the same in format 0.5.10.

    The classifier of the run calls its sample clean, so there is no 'combined'.
    """
    from artseg_models.packages.export import export_packages

    exported = export_packages(tiny_run, tmp_path_factory.mktemp("packages"))
    return {name: path for name, path in exported._asdict().items() if path is not None}
