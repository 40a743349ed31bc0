"""Kinds of artifact are scored by a model that tells them by brightness: dust from 100 on, fibres from 170 on."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score, jaccard_score, precision_score, recall_score
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.evaluate import Options, evaluate, write_evaluation
from artseg_models.images import write_image
from artseg_models.kind_scores import KindFigures
from artseg_models.labels import LabelSet, read_labels
from artseg_models.metrics import Counts
from artseg_models.predict import ImageMap, ImagePredictor, Model
from artseg_models.report.evaluation import write_kinds_figure

SIDE = 64
DUST, FIBRE = 140, 200


class ByBrightness(ImagePredictor):
    """Tells dust and fibres apart by their brightness; drops artifacts below 10 pixels."""

    def __init__(self, kinds: tuple[str, ...] = ("dust", "fibre"), *, classifier: bool = True) -> None:
        super().__init__("cpu")
        self._kinds, self._classifier = kinds, classifier

    @property
    def model(self) -> Model:
        return SimpleNamespace(
            id="by-brightness",
            version="1",
            sha256="0" * 64,
            cutoff=0.5,
            smallest_artifact_px=10,
            gate_threshold=None,
            pixel_size_um=None,
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        return self._kinds

    def _map(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None, source: str, *, cpu_allowed: bool
    ) -> ImageMap:
        probability = (pixels > 100).astype(np.float32)
        fibre = (pixels > 170).astype(np.float32)
        # how much of the image is bright, so that no two images are alike
        likely = (float(np.mean(probability - fibre)), float(np.mean(fibre)))
        return ImageMap(
            probability=probability,
            image_probability=float(pixels.max() / 255) if self._classifier else None,
            kind_probability=np.stack([probability - fibre, fibre]) if self._kinds else None,
            image_kinds=likely if self._kinds and self._classifier else (),
        )


Square = tuple[int, int, int]  # y, x, side


def drawn(*squares: Square) -> NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    for y, x, side in squares:
        mask[y : y + side, x : x + side] = True
    return mask


# name: label, kinds, what is bright, mask, masks by kind
ROWS: dict[str, tuple[str, str, list[tuple[Square, int]], Square | None, dict[str, Square]]] = {
    "dust": ("artifact", "dust", [((8, 8, 16), DUST)], (8, 8, 16), {}),
    "fibre": ("artifact", "fibre", [((8, 8, 20), FIBRE)], (8, 8, 20), {}),
    # a fibre that looks like dust
    "mistaken": ("artifact", "fibre", [((30, 30, 12), DUST)], (30, 30, 12), {}),
    # two squares that share four rows and columns, and 100 pixels of something that no mask by kind covers
    "both": (
        "artifact",
        "dust;fibre",
        [((4, 4, 12), DUST), ((12, 12, 12), FIBRE), ((40, 40, 10), FIBRE)],
        None,
        {"dust": (4, 4, 12), "fibre": (12, 12, 12)},
    ),
    "alarm": ("clean", "", [((40, 40, 8), FIBRE)], None, {}),
    "speck": ("clean", "", [((40, 40, 3), FIBRE)], None, {}),  # below the smallest artifact
    "unnamed": ("artifact", "", [((8, 8, 16), DUST)], (8, 8, 16), {}),
    "undrawn": ("artifact", "dust", [((8, 8, 10), DUST)], None, {}),
    "ring": ("artifact", "ring", [((20, 20, 9), FIBRE)], (20, 20, 9), {}),
}


@pytest.fixture
def labels(tmp_path: Path) -> LabelSet:
    lines = ["image,label,split,group,mask,kinds,kind_masks"]
    for number, (name, (label, kinds, bright, square, by_kind)) in enumerate(ROWS.items()):
        pixels = np.random.default_rng(number).integers(40, 60, (SIDE, SIDE)).astype(np.uint8)
        for place, brightness in bright:
            pixels[drawn(place)] = brightness
        write_image(tmp_path / f"{name}.tif", pixels)
        masks = {f"{name}_{kind}.png": drawn(place) for kind, place in by_kind.items()}
        if square is not None or by_kind:
            masks[f"{name}_mask.png"] = drawn(square) if square else pixels > 100
        for file, mask in masks.items():
            write_image(tmp_path / file, mask)
        whole = f"{name}_mask.png" if f"{name}_mask.png" in masks else ""
        files = ";".join(f"{kind}={name}_{kind}.png" for kind in by_kind)
        lines.append(f"{name}.tif,{label},test,{name},{whole},{kinds},{files}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_labels(tmp_path / "labels.csv")


def figures(predictor: ImagePredictor, labels: LabelSet, **options: Any) -> KindFigures:
    found = evaluate(predictor, labels.images, **options).by_kind()
    assert found is not None
    return found


def test_images_with_and_without_each_kind(labels: LabelSet) -> None:
    found = figures(ByBrightness(), labels)
    assert (found.images, found.unnamed, found.unknown) == (8, 1, ("ring",))
    dust, fibre = found.scores
    # found in dust and undrawn, not in both, and in mistaken, which is fibre
    assert dust.images == Counts(2, 1, 1, 4)
    # found in fibre and both, not in mistaken, and in alarm and ring, which hold none
    assert fibre.images == Counts(2, 2, 1, 3)
    assert dust.image_f1.value == pytest.approx(4 / 6)
    assert fibre.image_f1.low < fibre.image_f1.value < fibre.image_f1.high
    assert found.averages()["image_f1"] == pytest.approx((4 / 6 + 4 / 7) / 2)
    assert found.averages()["image_precision"] == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert found.averages()["image_recall"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_the_classifier_ranks_images_by_each_kind(labels: LabelSet) -> None:
    predictor = ByBrightness()
    found = figures(predictor, labels)
    known = [item for item in labels.images if item.path.stem != "unnamed"]
    for score in found.scores:
        said = [predictor.predict(np.asarray(Image.open(item.path))).image_kinds[score.kind] for item in known]
        true = [score.kind in item.kinds for item in known]
        assert 0.3 < score.average_precision < 1
        assert score.average_precision == pytest.approx(average_precision_score(true, said))
    without = figures(ByBrightness(classifier=False), labels)
    assert all(np.isnan(score.average_precision) for score in without.scores)
    assert [score.images for score in without.scores] == [score.images for score in found.scores]


def test_pixels_of_each_kind(labels: LabelSet) -> None:
    found = figures(ByBrightness(), labels)
    assert found.drawn == 5
    scored = [
        labels.images[list(ROWS).index(name)]
        for name in ("dust", "fibre", "mistaken", "both", "alarm", "speck", "ring")
    ]
    for number, score in enumerate(found.scores, start=1):
        truth, told = [], []
        for item in scored:
            _, kinds, _, square, by_kind = ROWS[item.path.stem]
            place = by_kind.get(score.kind) or (square if kinds == score.kind else None)
            valid = np.ones((SIDE, SIDE), bool)
            if item.path.stem == "both":
                valid = ~drawn((40, 40, 10))  # artifact of no named kind: not known
            truth.append((drawn(place) if place else drawn())[valid])
            told.append((ByBrightness().predict(np.asarray(Image.open(item.path))).kind_map == number)[valid])
        true, said = np.concatenate(truth), np.concatenate(told)
        assert score.pixels is not None
        assert score.pixels.iou == pytest.approx(jaccard_score(true, said))
        assert score.pixels.precision == pytest.approx(precision_score(true, said))
        assert score.pixels.recall == pytest.approx(recall_score(true, said))
        assert score.pixels.total == true.size
    ious = [score.pixels.iou for score in found.scores if score.pixels]
    assert found.averages()["pixel_iou"] == pytest.approx(np.mean(ious))


def test_kinds_taken_for_others(labels: LabelSet) -> None:
    found = figures(ByBrightness(), labels)
    assert found.true_kinds == ("dust", "fibre", "ring")
    # found as dust, as fibre, not found; the touching squares of "both" are one object, with more pixels of fibre, and
    # the 16 that they share belong to no kind alone
    assert found.taken_for.tolist() == [[256, 128, 0], [144, 400 + 128, 0], [0, 81, 0]]
    assert found.shares.sum(axis=1) == pytest.approx([1, 1, 1])
    # dust that the image does not show
    missed = [replace(item, path=labels.images[5].path) for item in labels.images[:1]]
    row = figures(ByBrightness(), LabelSet(tuple(missed), labels.source)).taken_for
    assert row.tolist() == [[0, 0, 256], [0, 0, 0]]


def test_ignored_pixels_count_for_no_kind(labels: LabelSet) -> None:
    alarm = [labels.images[list(ROWS).index(name)] for name in ("fibre", "alarm")]
    ignore = drawn((40, 40, 8))
    found = figures(ByBrightness(), LabelSet(tuple(alarm), labels.source), ignore=ignore)
    fibre = found.scores[1]
    assert fibre.images == Counts(1, 0, 0, 1)
    assert fibre.pixels == Counts(400, 0, 0, 2 * (SIDE**2 - 64) - 400)


def test_without_masks_by_kind_images_alone_count(labels: LabelSet) -> None:
    items = [item for item in labels.images if item.path.stem in ("undrawn", "alarm", "speck")]
    evaluation = evaluate(ByBrightness(), items)
    found = evaluation.by_kind()
    assert found is not None
    assert found.drawn == 0
    assert [score.pixels for score in found.scores] == [None, None]
    assert evaluation.summary()["kinds"]["pixels_taken_for"] is None  # type: ignore[index]
    # no image holds a fibre: it does not enter the averages
    assert found.averages()["image_f1"] == found.scores[0].images.f1 == 1


@pytest.mark.parametrize("without", ["model", "labels"])
def test_nothing_is_said_of_kinds_where_nobody_names_them(without: str, labels: LabelSet, tmp_path: Path) -> None:
    items = [replace(item, kinds=(), kind_masks={}) for item in labels.images] if without == "labels" else labels.images
    evaluation = evaluate(ByBrightness(() if without == "model" else ("dust", "fibre")), items)
    assert evaluation.by_kind() is None
    assert "kinds" not in evaluation.summary()
    table, _ = write_evaluation(evaluation, tmp_path / "out")
    assert not write_kinds_figure(evaluation, tmp_path / "out" / "kinds.png")
    assert not list((tmp_path / "out").glob("kinds.*"))
    assert ("kinds_found" in table.read_text().splitlines()[0]) == (without == "labels")


def test_files_of_kinds(labels: LabelSet, tmp_path: Path) -> None:
    evaluation = evaluate(ByBrightness(), labels.images, options=Options(gate=False))
    table, summary = write_evaluation(evaluation, tmp_path / "out")
    content = json.loads(summary.read_text())["kinds"]
    assert content["images_left_out_without_named_kind"] == 1
    assert content["kinds_unknown_to_the_model"] == ["ring"]
    assert content["by_kind"]["dust"]["image"]["recall"] == pytest.approx(2 / 3)
    assert content["pixels_taken_for"]["ring"] == {"found as dust": 0, "found as fibre": 81, "not found": 0}
    rows = {row["kind"]: row for row in csv.DictReader((tmp_path / "out" / "kinds.csv").read_text().splitlines())}
    assert list(rows) == ["dust", "fibre", "ring"]
    assert float(rows["fibre"]["image_f1"]) == pytest.approx(4 / 7)
    assert float(rows["fibre"]["image_f1_low"]) == content["by_kind"]["fibre"]["image_f1"]["low"]
    assert (rows["ring"]["image_f1"], rows["ring"]["pixels_found_as_fibre"]) == ("", "81")
    assert {row["model_id"] for row in rows.values()} == {"by-brightness"}
    images = {Path(row["image"]).stem: row for row in csv.DictReader(table.read_text().splitlines())}
    assert (images["mistaken"]["kinds"], images["mistaken"]["kinds_found"]) == ("fibre", "dust")
    assert (images["speck"]["kinds"], images["speck"]["kinds_found"]) == ("", "")
    assert write_kinds_figure(evaluation, tmp_path / "out" / "kinds.png")
    with Image.open(tmp_path / "out" / "kinds.png") as picture:
        assert "by-brightness" in picture.info["Description"]
        assert picture.width > 800


def test_the_command_tells_kinds(labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artseg_models.methods.predictor.open_model", lambda *_, **__: ByBrightness())
    command = ["evaluate", str(labels.source), str(labels.source)]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    _, of_images, of_pixels, taken_for = re.split(
        r"Kinds of artifact, 8 images|Pixels of each kind, pooled|Pixels of each true kind, by .*found as", done.output
    )
    fibre, average = (re.search(rf"{name}.*", of_images).group() for name in ("fibre", "average"))  # type: ignore[union-attr]
    assert re.findall(r"0\.\d+", fibre)[:3] == ["0.500", "0.667", "0.571"]
    assert re.findall(r"0\.\d+", average)[2] == "0.619"  # F1: (4 / 6 + 4 / 7) / 2
    assert re.search(r"average +│ 0\.\d{3} │ +0\.\d{3} │ +0\.\d{3}", of_pixels)
    assert re.search(r"ring +│ +81 │ +0\.0 % │ 100\.0 % │ +0\.0 %", taken_for)
    assert "1 artifact images name no kind and are left out" in done.output
    assert "kinds that the model does not tell: ring" in done.output
    assert {"kinds.csv", "kinds.png"} < {path.name for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("artseg_models.methods.predictor.open_model", lambda *_, **__: ByBrightness(()))
    plain = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "plain")], env={"COLUMNS": "200"})
    assert plain.exit_code == 0, plain.output
    assert "Kinds of artifact" not in plain.output
    assert not list((tmp_path / "plain").glob("kinds*"))
