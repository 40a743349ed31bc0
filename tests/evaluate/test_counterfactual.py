"""`artseg counterfactual`: models that look at the artifact, at its place, or at its company are told apart."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.counterfactual import KINDS, Counterfactuals, counterfactuals, write_counterfactuals
from artseg_models.errors import ArtSegError
from artseg_models.labels import read_labels
from artseg_models.predict import ImageMap, ImagePredictor
from artseg_models.report.counterfactual import write_counterfactual_figure


@dataclass(frozen=True)
class Judge:
    """What a hand-made model says of itself."""

    id: str = "judge"
    version: str = "0"
    sha256: str = "0" * 64
    cutoff: float = 0.5
    smallest_artifact_px: int = 20
    gate_threshold: float | None = None
    pixel_size_um: float | None = None


class Dark(ImagePredictor):
    """Finds what is dark, anywhere or in the upper left quarter alone; its gate, if any, opens on a tilted image."""

    def __init__(self, *, corner: bool = False, company: bool = False) -> None:
        super().__init__("cpu")
        self._corner, self._company = corner, company

    @property
    def model(self) -> Judge:
        return Judge(gate_threshold=0.5 if self._company else None)

    def _map(self, pixels, valid, source, *, cpu_allowed):
        values = pixels.astype(np.float32)
        flat = (values - np.median(values)) / max(float(np.percentile(values, 90) - np.median(values)), 1e-6)
        dark = (flat < -4).astype(np.float32)
        if self._corner:
            dark[60:], dark[:, 60:] = 0, 0
        tilt = float(values[:, -20:].mean() - values[:, :20].mean()) / float(values.std())
        return ImageMap(dark, float(tilt > 0.5) if self._company else None)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images: artifact ones have a dark bar in the upper left, and brighten to the right, as no clean one does."""
    folder = tmp_path_factory.mktemp("company")
    random = np.random.default_rng(0)
    rows = ["image,label,split,group,mask"]
    for index in range(6):
        image = random.normal(1000, 20, (120, 130)) + (index % 2) * np.linspace(0, 60, 130)
        mask = np.zeros(image.shape, np.uint8)
        if index % 2:
            mask[20:30, 15 : 45 + index] = 255
            image -= 3 * mask
            Image.fromarray(mask).save(folder / f"{index}_mask.png")
        tifffile.imwrite(folder / f"{index}.tif", np.clip(image, 0, None).astype(np.uint16))
        rows.append(
            f"{index}.tif,{'artifact' if index % 2 else 'clean'},test,g{index},{f'{index}_mask.png' * (index % 2)}"
        )
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


def shares(predictor: ImagePredictor, labels: Path) -> tuple[dict[str, float], Counterfactuals]:
    found = counterfactuals(predictor, read_labels(labels).images)
    return {kind.name: found.right(kind) for kind in KINDS}, found


def test_a_model_that_looks_at_the_artifact_is_right_everywhere(labels):
    right, found = shares(Dark(), labels)
    assert right == dict.fromkeys(right, 1.0)
    assert len(found.trials) == 3 * len(KINDS)
    for kind in KINDS:
        if kind.expects == "artifact" and kind.name != "blurred":
            assert found.iou(kind) > 0.8
        elif kind.expects == "clean":
            assert np.isnan(found.iou(kind))


def test_a_model_that_learned_a_place_fails_elsewhere(labels):
    right, _ = shares(Dark(corner=True), labels)
    assert right["original"] == right["pasted"] == right["painted_out"] == 1
    assert right["elsewhere"] < 1


def test_a_model_that_learned_the_company_stays_when_the_artifact_goes(labels):
    right, _ = shares(Dark(company=True), labels)
    assert right["original"] == right["clean"] == 1
    assert right["painted_out"] == 0
    assert right["pasted"] == 0


def test_tables_and_picture_hold_every_change(labels, tmp_path):
    _, found = shares(Dark(), labels)
    write_counterfactuals(found, tmp_path)
    with open(tmp_path / "counterfactual.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["kind"] for row in rows} == {kind.name for kind in KINDS}
    assert all(row["right"] == "True" for row in rows)
    summary = json.loads((tmp_path / "counterfactual.json").read_text())
    assert summary["masks"] == "drawn"
    assert summary["kinds"]["clean"]["pixel_iou"] is None
    write_counterfactual_figure(found, tmp_path / "counterfactual.png")
    with Image.open(tmp_path / "counterfactual.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_without_drawn_masks_the_models_own_are_taken(labels, tmp_path):
    bare = labels.with_name("bare.csv")
    bare.write_text("\n".join(line.rsplit(",", 1)[0] + "," for line in labels.read_text().splitlines()))
    bare.write_text(bare.read_text().replace("image,label,split,group,", "image,label,split,group,mask"))
    right, found = shares(Dark(), bare)
    assert found.masks == "the model's own"
    assert right["painted_out"] == 1
    # held against itself it would be right whatever it says; where the artifact was put is known
    original, elsewhere = (next(kind for kind in KINDS if kind.name == name) for name in ("original", "elsewhere"))
    assert np.isnan(found.iou(original))
    assert found.iou(elsewhere) > 0.8
    write_counterfactuals(found, tmp_path)
    with open(tmp_path / "counterfactual.csv", newline="") as table:
        ious = {row["kind"]: row["pixel_iou"] for row in csv.DictReader(table)}
    assert ious["original"] == ""
    assert ious["elsewhere"]


def test_the_figure_counts_images(labels, tmp_path, monkeypatch):
    texts: list[str] = []

    def keep(figure: Figure, path: Path, **_: object) -> None:
        texts.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr("artseg_models.report.counterfactual.save_figure", keep)
    bare = [replace(item, mask=None) for item in read_labels(labels).images]
    found = counterfactuals(Dark(corner=True), bare)
    write_counterfactual_figure(found, tmp_path / "counterfactual.png")
    # without an IoU where the masks are the model's own
    assert "3 of 3" in texts
    elsewhere = [trial.right for trial in found.trials if trial.kind.name == "elsewhere"]
    assert sum(elsewhere) < 3
    assert any(text.startswith(f"{sum(elsewhere)} of 3; IoU") for text in texts)
    assert not any(text.startswith(("1.00 of", "0.")) and " of " in text for text in texts)


def test_one_class_alone_is_refused(labels):
    clean = [item for item in read_labels(labels).images if item.label == "clean"]
    with pytest.raises(ArtSegError, match="artifact and clean images"):
        counterfactuals(Dark(), clean)


def test_the_command_says_which_split_is_empty(labels, tmp_path):
    done = CliRunner().invoke(
        app,
        ["counterfactual", str(labels.parent), str(labels), "--out", str(tmp_path), "--split", "train"],
    )
    assert done.exit_code == 1
    assert "there are none" in str(done.exception)
