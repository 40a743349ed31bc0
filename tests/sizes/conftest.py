"""Images of the sizes that people have, what torch makes of them, and the routes by which they reach a model."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from PIL import Image
from typer.testing import CliRunner

from artseg_models.cellprofiler import run_pipeline
from artseg_models.cli import app
from artseg_models.images import normalise, read_image
from artseg_models.networks.unet import UNet
from artseg_models.packages.export import export_packages
from artseg_models.packages.read import Package, read_package
from artseg_models.service.server import stop


@dataclass(frozen=True)
class Case:
    """An image as a microscope or a data set has it; `binning` is the model's."""

    name: str
    width: int
    height: int
    kind: str
    binning: int
    pixel_size_um: float | None = None

    def __str__(self) -> str:
        return f"{self.width}x{self.height}-{self.kind}-bin{self.binning}"

    @property
    def file(self) -> str:
        """Name of the image file; the stems differ."""
        return f"{self.name}{ {'jpeg': '.jpg', 'png': '.png'}.get(self.kind, '.tiff') }".replace(" ", "")


CASES = (
    Case("live_cells_10x", 1080, 1080, "16bit", 1, 0.59),
    Case("cytation_20x", 2556, 2156, "16bit", 2, 0.325),
    Case("orca_8", 1224, 904, "8bit", 2, 0.323),
    Case("orca_12", 1224, 904, "12in16", 1, 0.323),
    Case("photo", 1280, 720, "jpeg", 2),
    Case("tile", 480, 320, "png", 1),
    Case("widefield", 1328, 1048, "png", 2),
    Case("odd", 1083, 1077, "16bit", 2),
    Case("strip", 301, 97, "float", 1),
    Case("strip_binned", 301, 97, "float", 2),
)


@pytest.fixture(scope="session", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Each of the cases in turn."""
    return request.param


def write(case: Case, folder: Path) -> None:
    """Write uneven light, grain, and dark and bright discs."""
    random = np.random.default_rng(CASES.index(case))
    y, x = np.ogrid[: case.height, : case.width]
    pixels = 0.5 + 0.1 * x / case.width + random.normal(0, 0.03, (case.height, case.width)).astype(np.float32)
    for depth in (-0.3, 0.3, -0.2):
        radius = random.uniform(0.05, 0.2) * case.height
        centre = random.uniform(0, case.height), random.uniform(0, case.width)
        pixels[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] += depth
    pixels = pixels.clip(0, 1)
    path = folder / case.file
    if case.kind == "jpeg":
        tinted = np.dstack([pixels, 0.9 * pixels, 0.7 * pixels])
        Image.fromarray((255 * tinted).astype(np.uint8)).save(path, quality=90)
    elif case.kind == "png":
        Image.fromarray((255 * pixels).astype(np.uint8)).save(path)
    else:
        largest, dtype = {
            "8bit": (255, np.uint8),
            "12in16": (4095, np.uint16),
            "16bit": (65535, np.uint16),
            "float": (1, np.float32),
        }[case.kind]
        per_cm = None if case.pixel_size_um is None else (1e4 / case.pixel_size_um,) * 2
        stored = (largest * pixels).astype(dtype)
        tifffile.imwrite(path, stored, resolution=per_cm, resolutionunit="CENTIMETER" if per_cm else None)


def _services() -> list[subprocess.Popen[bytes]]:
    """List the services that the client started in this process."""
    client = sys.modules.get("_artseg_client._start")
    return list(client._children) if client else []


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests' service and cache apart from the user's, and leave no service behind."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTSEG_STATE_DIR", str(folder / "state"))
        patch.setenv("ARTSEG_CACHE", str(folder / "cache"))
        patch.setenv("ARTSEG_PYTHON", sys.executable)
        others = _services()  # of other folders' tests, which end them themselves
        yield
        stop(device="cpu")
        for child in _services():
            if child not in others:
                child.wait(20)  # otherwise Python complains at its end that it still runs


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image of every case."""
    folder = tmp_path_factory.mktemp("images")
    for case in CASES:
        write(case, folder)
    return folder


class Model:
    """A tiny U-Net as torch has it, and exported."""

    def __init__(self, run: Path, images: Path) -> None:
        result = json.loads((run / "result.json").read_text())
        network = UNet(**result["unet"])
        network.load_state_dict(torch.load(run / "unet" / "network.pt", weights_only=True))
        self._network = network.eval()
        self._images = images
        self._known: dict[str, np.ndarray] = {}
        # an untrained network: a cutoff in the middle of its answers, so that every mask has both values
        self.cutoff = float(np.median(self.reference(CASES[-1])))
        result |= {"cutoff": self.cutoff, "smallest_artifact_px": 0, "gate_threshold": 0.0}
        (run / "result.json").write_text(json.dumps(result))
        self.path = export_packages(run, run / "packages")[1]

    @property
    def package(self) -> Package:
        return read_package(self.path)

    def pixels(self, case: Case) -> np.ndarray:
        return read_image(self._images / case.file).pixels

    def reference(self, case: Case) -> np.ndarray:
        """Give the probability (y, x) that torch computes from the normalised pixels."""
        if case.name not in self._known:
            with torch.inference_mode():
                found = self._network(torch.from_numpy(normalise(self.pixels(case)))[None, None])
            self._known[case.name] = found[0, 0].numpy()
        return self._known[case.name]


@pytest.fixture(scope="session")
def models(make_run: Callable[..., Path], images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Model]:
    """One by binning."""
    folder = tmp_path_factory.mktemp("runs")
    return {binning: Model(make_run(folder / f"bin{binning}", binning=binning), images) for binning in (1, 2)}


# ---- routes: each gives probability and mask, both (y, x); the mask is None where a route gives none ----

Answer = tuple[np.ndarray, np.ndarray | None]
Route = Callable[[Case], Answer]


@pytest.fixture(scope="session")
def command_line(models: dict[int, Model], images: Path, tmp_path_factory: pytest.TempPathFactory) -> Route:
    """`artseg segment`."""
    out = tmp_path_factory.mktemp("masks")

    def route(case: Case) -> Answer:
        arguments = ["segment", images / case.file, "-m", models[case.binning].path, "-o", out, "--device", "cpu"]
        done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        written = (tifffile.imread(out / f"{case.name}_{what}.tif") for what in ("probability", "artifacts"))
        return next(written), next(written) == 255

    return route


@pytest.fixture(scope="session")
def service(models: dict[int, Model], repository: Path) -> Iterator[Route]:
    """The process that CellProfiler asks, through the client that runs inside CellProfiler."""
    plugins = str(repository / "plugins")
    sys.path.insert(0, plugins)
    client = importlib.import_module("_artseg_client")

    def route(case: Case) -> Answer:
        model = models[case.binning]
        answer = client.segment(model.pixels(case), str(model.path), device="cpu")
        return answer.probability, answer.labels > 0

    yield route
    sys.path.remove(plugins)


@pytest.fixture(scope="session")
def state_dict(models: dict[int, Model]) -> Iterator[Route]:
    """The state dict, by bioimageio.core with the package's own preprocessing."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    with contextlib.ExitStack() as opened:
        descriptions: dict[int, Any] = {
            binning: load_model_description(model.package.folder) for binning, model in models.items()
        }
        pipelines = {
            binning: opened.enter_context(create_prediction_pipeline(description, weight_format="pytorch_state_dict"))
            for binning, description in descriptions.items()
        }

        def route(case: Case) -> Answer:
            pixels = models[case.binning].pixels(case).astype(np.float32)
            if case.kind == "float":
                # bioimageio.core 0.11 passes over the stated eps and always adds 1e-6, which shows where all is 0..1
                pixels *= 65535
            given = create_sample_for_model(descriptions[case.binning], inputs={"image": pixels[None, None]})
            found = pipelines[case.binning].predict_sample_without_blocking(given)
            return np.asarray(next(iter(found.members.values())).data.values)[0, 0], None

        yield route


@pytest.fixture(scope="session")
def torchscript(models: dict[int, Model]) -> Route:
    networks: dict[int, Any] = {
        binning: torch.jit.load(model.package.weights["torchscript"]).eval() for binning, model in models.items()
    }

    def route(case: Case) -> Answer:
        with torch.inference_mode():
            image = torch.from_numpy(normalise(models[case.binning].pixels(case)))[None, None]
            return networks[case.binning](image)[0, 0].numpy(), None

    return route


@pytest.fixture(scope="session")
def onnx(models: dict[int, Model]) -> Route:
    sessions = {
        binning: onnxruntime.InferenceSession(model.package.weights["onnx"], providers=["CPUExecutionProvider"])
        for binning, model in models.items()
    }

    def route(case: Case) -> Answer:
        image = normalise(models[case.binning].pixels(case))[None, None]
        return np.asarray(sessions[case.binning].run(None, {"image": image})[0])[0, 0], None

    return route


@pytest.fixture(scope="session")
def cellprofiler(models: dict[int, Model], images: Path, tmp_path_factory: pytest.TempPathFactory) -> Route:
    """SegmentArtifacts in the real CellProfiler, which reads all the images itself, in one run."""
    named = os.environ.get("ARTSEG_CELLPROFILER")
    if not named:
        pytest.skip("no CellProfiler to test with: set ARTSEG_CELLPROFILER to the path of its executable")
    command = shutil.which(named)
    assert command, f"ARTSEG_CELLPROFILER names {named}, which cannot be run"
    folder = tmp_path_factory.mktemp("cellprofiler")
    pipeline = folder / "every_size.cppipe"
    pipeline.write_text(pipeline_with({binning: model.path for binning, model in models.items()}))
    out = run_pipeline(pipeline, images, folder / "out", cellprofiler=[command])

    def route(case: Case) -> Answer:
        written = (
            tifffile.imread(out / f"{case.name}_{what}{case.binning}.tiff") for what in ("Probability", "Artifacts")
        )
        return next(written), next(written) > 0

    return route


def pipeline_with(packages: dict[int, Path]) -> str:
    """Write a pipeline that segments every image with every package and saves probability and mask."""
    nothing = 'and (file does contain "")'
    modules = [
        ("Images", 2, {"": "", "Filter images?": "No filtering", "Select the rule criteria": nothing}),
        (
            "Metadata",
            6,
            {
                "Extract metadata?": "No",
                "Metadata data type": "Text",
                "Metadata types": "{}",
                "Extraction method count": "1",
                "Metadata extraction method": "Extract from file/folder names",
                "Metadata source": "File name",
                "Regular expression to extract from file name": "^(?P<Field>.*)$",
                "Regular expression to extract from folder name": "(?P<Date>.*)$",
                "Extract metadata from": "All images",
                "Select the filtering criteria": nothing,
                "Metadata file location": "Elsewhere...|",
                "Match file and image metadata": "[]",
                "Use case insensitive matching?": "No",
                "Metadata file name": "None",
                "Does cached metadata exist?": "No",
            },
        ),
        (
            "NamesAndTypes",
            8,
            {
                "Assign a name to": "All images",
                "Select the image type": "Grayscale image",
                "Name to assign these images": "Brightfield",
                "Match metadata": "[]",
                "Image set matching method": "Order",
                "Set intensity range from": "Image metadata",
                "Assignments count": "1",
                "Single images count": "0",
                "Maximum intensity": "255.0",
                "Process as 3D?": "No",
                "Relative pixel spacing in X": "1.0",
                "Relative pixel spacing in Y": "1.0",
                "Relative pixel spacing in Z": "1.0",
                "Select the rule criteria": nothing,
                "Name to assign these images ": "Brightfield",
                "Name to assign these objects": "Cell",
                "Select the image type ": "Grayscale image",
                "Set intensity range from ": "Image metadata",
                "Maximum intensity ": "255.0",
            },
        ),
        (
            "Groups",
            2,
            {
                "Do you want to group your images?": "No",
                "grouping metadata count": "1",
                "Metadata category": "None",
            },
        ),
    ]
    for binning, package in packages.items():
        segment = {
            "Select the brightfield image": "Brightfield",
            "Name the artifact objects": f"Objects{binning}",
            "Name the artifact mask": f"Artifacts{binning}",
            "Name the clean mask": f"Clean{binning}",
            "Keep the probability image?": "Yes",
            "Name the probability image": f"Probability{binning}",
            "Folder of the model package": f"Elsewhere...|{package.parent.as_posix()}",
            "Model package": package.name,
            "Probability cutoff": "As the model says",
            "Cutoff": "0.5",
            "Smallest artifact": "As the model says",
            "Smallest artifact, in pixels": "100",
            "Let the classifier pass clean images?": "Yes",
            "Device": "cpu",
            "Python that has artseg": "",
        }
        modules.append(("SegmentArtifacts", 1, segment))
        for what, depth in (("Probability", "32-bit floating point"), ("Artifacts", "8-bit integer")):
            save = {
                "Select the type of image to save": "Image",
                "Select the image to save": f"{what}{binning}",
                "Select method for constructing file names": "From image filename",
                "Select image name for file prefix": "Brightfield",
                "Enter single file name": "unused",
                "Number of digits": "4",
                "Append a suffix to the image file name?": "Yes",
                "Text to append to the image name": f"_{what}{binning}",
                "Saved file format": "tiff",
                "Output file location": "Default Output Folder|",
                "Image bit depth": depth,
                "Overwrite existing files without warning?": "Yes",
                "When to save": "Every cycle",
                "Record the file and path information to the saved image?": "No",
                "Create subfolders in the output folder?": "No",
                "Base image folder": "Elsewhere...|",
                "How to save the series": "T (Time)",
                "Save with lossless compression?": "No",
            }
            modules.append(("SaveImages", 16, save))
    lines = [
        "CellProfiler Pipeline: http://www.cellprofiler.org",
        "Version:5",
        "DateRevision:4281",
        "GitHash:",
        f"ModuleCount:{len(modules)}",
        "HasImagePlaneDetails:False",
    ]
    for number, (name, revision, settings) in enumerate(modules, start=1):
        lines += [
            "",
            f"{name}:[module_num:{number}|svn_version:'Unknown'|variable_revision_number:{revision}|show_window:False|"
            "notes:[]|batch_state:array([], dtype=uint8)|enabled:True|wants_pause:False]",
            *(f"    {setting}:{value}" for setting, value in settings.items()),
        ]
    return "\n".join(lines) + "\n"
