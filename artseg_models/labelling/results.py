"""Looking at what `artseg segment` found: accept it, mend it, and keep it as pixel masks."""

from __future__ import annotations

import csv
import io
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from artseg_models.annotations import paint
from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file
from artseg_models.images import IMAGE_SUFFIXES, read_image
from artseg_models.labelling.exporting import MaskFormat, export_masks
from artseg_models.labelling.importing import import_masks
from artseg_models.labelling.jobs import command_line
from artseg_models.labelling.store import EXPORT, IMPORT, Store
from artseg_models.labels import relative_name
from artseg_models.predict import artifact_objects

_SHOWN_PIXELS = 2_500_000


class Stroke(BaseModel):
    """One stroke of brush or polygon; points (x, y) in pixels of the image."""

    model_config = ConfigDict(extra="forbid")
    tool: Literal["brush", "polygon"]
    erase: bool = False
    radius: float = Field(default=1.0, gt=0, le=2000)
    points: list[tuple[float, float]] = Field(min_length=1)


class Judged(BaseModel):
    """What a person says of a mask."""

    model_config = ConfigDict(extra="forbid")
    image: str
    label: Literal["artifact", "clean", "unsure"]
    cutoff: float = Field(ge=0, le=1)
    smallest: int = Field(ge=0)
    strokes: list[Stroke] = []
    kept: bool = Field(default=False, description="The strokes go over the mask that was accepted before.")
    who: str = ""
    seconds: float | None = Field(default=None, ge=0)


class Exported(BaseModel):
    """Which format."""

    model_config = ConfigDict(extra="forbid")
    format: MaskFormat


class BroughtFile(BaseModel):
    """A file that the person chose."""

    model_config = ConfigDict(extra="forbid")
    name: str
    content: Base64Bytes


class Brought(BaseModel):
    """Masks that were drawn elsewhere, and whose they are."""

    model_config = ConfigDict(extra="forbid")
    files: list[BroughtFile] = Field(min_length=1)
    who: str = ""


@dataclass(frozen=True)
class Result:
    """What was found in one image."""

    image: Path
    probability: Path
    cutoff: float
    smallest: int
    gate_open: bool


def read_results(folder: Path) -> list[Result]:
    """List what `artseg segment` wrote into a folder; images that failed are left out.

    Raises
    ------
    ArtSegError
        There is no ``segmentation.csv`` of this version there.
    """
    # with it comes the drawing library, which the first image is not to wait for
    from artseg_models.segment import unique_stems

    table = folder / "segmentation.csv"
    try:
        with open(table, encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        stems = unique_stems([Path(row["image"]) for row in rows])
        return [
            Result(
                image=Path(os.path.abspath(row["image"])),
                probability=folder / f"{stem}_probability.tif",
                cutoff=float(row["cutoff"]),
                smallest=int(row["smallest_artifact_px"]),
                gate_open=not (row["gate_threshold"] and row["artifact_probability"])
                or float(row["artifact_probability"]) >= float(row["gate_threshold"]),
            )
            for row, stem in zip(rows, stems, strict=True)
            if not row["error"]
        ]
    except (OSError, KeyError, ValueError) as error:
        raise ArtSegError(
            f"Expected the output of artseg segment in {folder}, but {table.name} could not be read ({error!r}). "
            "Segment the images again."
        ) from error


class ResultsPanel:
    """Shows probability maps and masks over the images of a store, and keeps corrections as its masks.

    Masks that were accepted or imported are shown without a map, too.

    Masks lie in ``artseg-masks/`` beside the table, which names them.

    Parameters
    ----------
    store : Store
        Images and labels.
    folder : Path, optional
        What `artseg segment` wrote.
    plane : int, optional
        Which plane of images with several.
    """

    def __init__(self, store: Store, *, folder: Path | None = None, plane: int | None = None) -> None:
        self._store = store
        self._plane = plane
        self._results: dict[str, Result] = {}
        self._importing = threading.Lock()
        if folder is not None:
            self.open(folder)
        self.router = APIRouter()
        self.router.add_api_route("/api/results", self.listed)
        self.router.add_api_route("/api/results/probability", self.probability)
        self.router.add_api_route("/api/results/mask", self.mask)
        self.router.add_api_route("/api/results/judge", self.judge, methods=["POST"])
        self.router.add_api_route("/api/results/export", self.export, methods=["POST"])
        self.router.add_api_route("/api/results/import", self.bring, methods=["POST"])

    def open(self, folder: Path) -> None:
        """Show the results of this folder from now on."""
        parent = self._store.table.parent
        self._results = {relative_name(one.image, parent): one for one in read_results(folder)}

    def listed(self) -> list[dict[str, Any]]:
        """List the images with a result or a mask, in the order of showing."""
        listed: list[dict[str, Any]] = []
        for record in self._store.shown():
            result = self._results.get(record.name)
            mask = self._store.mask_of(record)
            if result is None and not mask:
                continue
            listed.append(
                {
                    "name": record.name,
                    "map": result is not None,
                    "cutoff": result.cutoff if result else 0.5,
                    "smallest": result.smallest if result else 0,
                    "gateOpen": result is None or result.gate_open,
                    "label": record.verdict()[0],
                    "mask": mask,
                }
            )
        return listed

    def probability(self, image: str) -> Response:
        """Give the probability map as an 8-bit PNG, 255 = 1, thinned out where it is very large."""
        values = self._probability(image)
        step = max(1, int(np.ceil((values.size / _SHOWN_PIXELS) ** 0.5)))
        return _png(np.round(values[::step, ::step] * 255).astype(np.uint8), step)

    def mask(self, image: str) -> Response:
        """Give the mask that somebody accepted for an image, 255 = artifact."""
        mask = self._store.read_mask(self._store.record(image), plane=self._plane)
        step = max(1, int(np.ceil((mask.size / _SHOWN_PIXELS) ** 0.5)))
        return _png(mask[::step, ::step].astype(np.uint8) * np.uint8(255), step)

    def judge(self, judged: Judged) -> dict[str, Any]:
        """Keep what a person says: the mask as shown, that the image is clean, or that it remains open."""
        record = self._store.record(judged.image)
        named = ""
        if judged.label == "artifact":
            if judged.kept:
                found = self._store.read_mask(record, plane=self._plane)
            else:
                found = artifact_objects(
                    self._probability(judged.image), cutoff=judged.cutoff, smallest_artifact_px=judged.smallest
                )
            mask = paint(found > 0, [stroke.model_dump() for stroke in judged.strokes])
            if not mask.any():
                raise ArtSegError("The mask is empty. Lower the cutoff, paint the artifact, or say that it is clean.")
            named = self._store.keep_mask(record, mask)
        self._store.decide(
            [judged.image], label=judged.label, who=judged.who.strip(), seconds=judged.seconds, mask=named
        )
        return {"name": judged.image, "label": record.verdict()[0], "mask": named}

    def export(self, exported: Exported) -> dict[str, Any]:
        """Write the accepted masks for other programs, into ``artseg-export/`` beside the table."""
        folder = self._store.table.parent / EXPORT
        written = export_masks(self._store, folder, form=exported.format, plane=self._plane)
        arguments = ["labels", "export", str(folder), "--table", str(self._store.table), "--as", exported.format]
        return {"images": written, "folder": str(folder), "command": command_line([*arguments, *self._plane_option()])}

    def bring(self, brought: Brought) -> dict[str, Any]:
        """Take over masks that were drawn elsewhere; the files are kept in ``artseg-import/`` beside the table."""
        folder = self._store.table.parent / IMPORT
        for file in brought.files:
            if Path(file.name).name != file.name or not file.name.lower().endswith(
                (".json", ".geojson", *IMAGE_SUFFIXES)
            ):
                raise ArtSegError(
                    f"Expected the JSON of the VGG Image Annotator, GeoJSON or mask images, got {file.name!r}. "
                    "Choose other files."
                )
        jsons = [file.name for file in brought.files if file.name.lower().endswith(".json")]
        if jsons and len(brought.files) > 1:
            raise ArtSegError(f"Expected {jsons[0]} alone, got {len(brought.files)} files. Import it by itself.")
        source = folder / jsons[0] if jsons else folder
        with self._importing:
            shutil.rmtree(folder, ignore_errors=True)
            for file in brought.files:
                with whole_file(folder / file.name) as temporary:
                    temporary.write_bytes(file.content)
            done = import_masks(self._store, source, who=brought.who.strip(), plane=self._plane)
        images = sorted({str(one if one.is_dir() else one.parent) for one in self._store.sources})
        arguments = ["labels", "import", *images, "--masks", str(source), "--out", str(self._store.table)]
        name = ["--name", brought.who.strip()] if brought.who.strip() else []
        return {
            "said": done.summary(),
            "first": next(iter(done.labels)),
            "command": command_line([*arguments, *name, *self._plane_option()]),
        }

    def _result(self, image: str) -> Result:
        self._store.record(image)
        if image not in self._results:
            raise ArtSegError(f"There is no result for {image}. Segment it first.")
        return self._results[image]

    def _probability(self, image: str) -> NDArray[np.float32]:
        return read_image(self._result(image).probability).pixels.astype(np.float32)

    def _plane_option(self) -> list[str]:
        return [] if self._plane is None else ["--plane", str(self._plane)]


def _png(pixels: NDArray[np.uint8], step: int) -> Response:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return Response(stream.getvalue(), media_type="image/png", headers={"X-Step": str(step)})
