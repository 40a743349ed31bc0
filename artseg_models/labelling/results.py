"""Looking at what `artseg segment` found: accept it, mend it, and keep it as pixel masks."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from artseg_models.annotations import geojson_of, paint, via_entry
from artseg_models.errors import ArtSegError
from artseg_models.files import write_json
from artseg_models.images import read_image, read_mask_image, write_image
from artseg_models.labelling.store import MASKS, Store
from artseg_models.labels import relative_name
from artseg_models.predict import artifact_objects
from artseg_models.segment import unique_stems

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
    who: str = ""
    seconds: float | None = Field(default=None, ge=0)


class Exported(BaseModel):
    """Which format."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["via", "geojson", "masks"]


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

    Masks lie in ``artseg-masks/`` beside the table, which names them.

    Parameters
    ----------
    store : Store
        Images and labels.
    folder : Path, optional
        What `artseg segment` wrote.
    """

    def __init__(self, store: Store, *, folder: Path | None = None) -> None:
        self._store = store
        self._results: dict[str, Result] = {}
        if folder is not None:
            self.open(folder)
        self.router = APIRouter()
        self.router.add_api_route("/api/results", self.listed)
        self.router.add_api_route("/api/results/probability", self.probability)
        self.router.add_api_route("/api/results/mask", self.mask)
        self.router.add_api_route("/api/results/judge", self.judge, methods=["POST"])
        self.router.add_api_route("/api/results/export", self.export, methods=["POST"])

    def open(self, folder: Path) -> None:
        """Show the results of this folder from now on."""
        parent = self._store.table.parent
        self._results = {relative_name(one.image, parent): one for one in read_results(folder)}

    def listed(self) -> list[dict[str, Any]]:
        """List the images with a result, in the order of showing."""
        return [
            {
                "name": record.name,
                "cutoff": self._results[record.name].cutoff,
                "smallest": self._results[record.name].smallest,
                "gateOpen": self._results[record.name].gate_open,
                "label": record.verdict()[0],
                "mask": record.mask or record.table.get("mask", ""),
            }
            for record in self._store.shown()
            if record.name in self._results
        ]

    def probability(self, image: str) -> Response:
        """Give the probability map as an 8-bit PNG, 255 = 1, thinned out where it is very large."""
        values = self._probability(image)
        step = max(1, int(np.ceil((values.size / _SHOWN_PIXELS) ** 0.5)))
        return _png(np.round(values[::step, ::step] * 255).astype(np.uint8), step)

    def mask(self, image: str) -> Response:
        """Give the mask that somebody accepted for an image, 255 = artifact."""
        mask = self._kept_mask(image)
        step = max(1, int(np.ceil((mask.size / _SHOWN_PIXELS) ** 0.5)))
        return _png(mask[::step, ::step].astype(np.uint8) * np.uint8(255), step)

    def judge(self, judged: Judged) -> dict[str, Any]:
        """Keep what a person says: the mask as shown, that the image is clean, or that it remains open."""
        record = self._store.record(judged.image)
        result = self._result(judged.image)
        named = ""
        if judged.label == "artifact":
            found = artifact_objects(
                self._probability(judged.image), cutoff=judged.cutoff, smallest_artifact_px=judged.smallest
            )
            mask = paint(found > 0, [stroke.model_dump() for stroke in judged.strokes])
            if not mask.any():
                raise ArtSegError("The mask is empty. Lower the cutoff, paint the artifact, or say that it is clean.")
            path = self._store.table.parent / MASKS / f"{_flat(record.name)}_mask.png"
            write_image(path, mask)
            named = relative_name(path, self._store.table.parent)
        self._store.decide(
            [judged.image], label=judged.label, who=judged.who.strip(), seconds=judged.seconds, mask=named
        )
        return {"name": judged.image, "label": judged.label, "mask": named, "image": str(result.image)}

    def export(self, exported: Exported) -> dict[str, Any]:
        """Write the accepted masks for other programs, into ``artseg-export/`` beside the table."""
        folder = self._store.table.parent / "artseg-export"
        kept = [record for record in self._store.shown() if record.mask and record.verdict()[0] == "artifact"]
        if not kept:
            raise ArtSegError("Expected accepted masks to export, but there are none yet. Accept some first.")
        entries: dict[str, Any] = {}
        for record in kept:
            mask = self._kept_mask(record.name)
            stem = _flat(record.name)
            if exported.format == "via":
                key, entry = via_entry(record.path, mask)
                entries[key] = entry
            elif exported.format == "geojson":
                write_json(folder / f"{stem}.geojson", geojson_of(mask))
            else:
                write_image(folder / f"{stem}_mask.png", mask)
        if exported.format == "via":
            write_json(folder / "via.json", entries)
        return {"images": len(kept), "folder": str(folder)}

    def _result(self, image: str) -> Result:
        self._store.record(image)
        if image not in self._results:
            raise ArtSegError(f"There is no result for {image}. Segment it first.")
        return self._results[image]

    def _probability(self, image: str) -> NDArray[np.float32]:
        return read_image(self._result(image).probability).pixels.astype(np.float32)

    def _kept_mask(self, image: str) -> NDArray[np.bool_]:
        record = self._store.record(image)
        if not record.mask:
            raise ArtSegError(f"No mask of {image} has been accepted.")
        return np.asarray(read_mask_image(self._store.table.parent / record.mask) > 0, dtype=np.bool_)


def _flat(name: str) -> str:
    """Name for a file that belongs to an image, whatever folder that lies in."""
    return "_".join(part for part in name.split("/") if part != "..")


def _png(pixels: NDArray[np.uint8], step: int) -> Response:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return Response(stream.getvalue(), media_type="image/png", headers={"X-Step": str(step)})
