"""A trained run as a model: `artseg segment` and `artseg evaluate` take its folder where they take a package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.files import sha256
from artseg_models.images import normalise
from artseg_models.methods.runs import FinishedRun, read_finished_run
from artseg_models.packages.read import read_package
from artseg_models.predict import ImageMap, ImagePredictor, Model, Predictor
from artseg_models.training.fields import binned

#: what a run folder keeps of a trained method
_WEIGHTS = ("*.pt", "*.npz")


@dataclass(frozen=True)
class RunModel:
    """What a run says of itself; see `artseg_models.predict.Model`."""

    id: str
    version: str
    sha256: str
    cutoff: float
    smallest_artifact_px: int
    gate_threshold: float | None
    pixel_size_um: float | None


class RunPredictor(ImagePredictor):
    """Predicts with the method of a run folder, whole images at a time.

    Parameters
    ----------
    folder : Path
        A finished run.
    device : {"auto", "cuda", "mps", "cpu"}
        Where networks run.

    Raises
    ------
    ArtSegError
        The run is unfinished or damaged, or the device is not there.
    """

    def __init__(self, folder: Path, *, device: str = "auto") -> None:
        super().__init__(device)
        self.run = read_finished_run(folder, device=self.device)
        self._model = _model_of(self.run)

    @property
    def model(self) -> Model:
        """The run."""
        return self._model

    @property
    def kinds(self) -> tuple[str, ...]:
        """As the run learned them."""
        return tuple(self.run.result.get("kinds", ()))

    def _map(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None, source: str, *, cpu_allowed: bool
    ) -> ImageMap:
        working = binned(normalise(pixels, valid=valid), self.run.binning)
        found = self.run.method.predict(working, shape=(pixels.shape[0], pixels.shape[1]))
        return ImageMap(found.map, found.image_probability, found.kind_maps, found.image_kinds)


def open_model(path: Path, *, device: str = "auto", engine: str | None = None, trust: bool = False) -> ImagePredictor:
    """Open a model: a package (zip file or folder) or the run folder of a training.

    Parameters
    ----------
    path : Path
        The model.
    device : {"auto", "cuda", "mps", "cpu"}
        Where networks run.
    engine : str, optional
        As in `Predictor`; a run folder always computes with PyTorch.
    trust : bool
        As in `Predictor`, for a package that has nothing but a state dict.

    Raises
    ------
    ArtSegError
        It is missing or damaged, or the device or the engine is not there.
    """
    if (path / "configuration.json").is_file():
        if engine not in (None, "auto", "torch"):
            raise ArtSegError(
                f"Expected a package for the engine {engine}, but {path} is the folder of a training, which computes "
                "with PyTorch. Name the package in its folder packages, or leave the engine out."
            )
        return RunPredictor(path, device=device)
    return Predictor(read_package(path), device=device, engine=engine, trust=trust)


def _model_of(run: FinishedRun) -> RunModel:
    result = run.result
    return RunModel(
        id=str(result["name"]),
        version="0",
        sha256=_digest(run.folder),
        cutoff=float(result["cutoff"]),
        smallest_artifact_px=int(result["smallest_artifact_px"]),
        gate_threshold=result["gate_threshold"],
        pixel_size_um=result["pixel_size_um"],
    )


def _digest(folder: Path) -> str:
    """SHA-256 over the weights and what was chosen with them."""
    files = [folder / "result.json", *(file for pattern in _WEIGHTS for file in folder.rglob(pattern))]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()
