"""Evaluation with a model whose answers can be told beforehand: pixels brighter than 100 are artifact."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from onnx import TensorProto, helper
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.evaluate import Options, evaluate, read_ignore, write_evaluation
from artseg_models.files import sha256
from artseg_models.images import write_image
from artseg_models.labels import LabelSet, read_labels
from artseg_models.metrics import Counts
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor
from artseg_models.report import errors
from artseg_models.report import evaluation as evaluation_figures
from artseg_models.report.errors import write_errors_figure
from artseg_models.report.evaluation import write_evaluation_figure
from artseg_models.report.montage import choose, write_montage

SIDE = 64


def graph(path: Path, nodes: list[onnx.NodeProto], output: list[str | int], constants: dict[str, np.ndarray]) -> None:
    """Write an ONNX file that takes an image (batch, 1, y, x)."""
    made = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, "y", "x"])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, output)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments by brightness 100, drops below 10 pixels; the gate opens from a brightest pixel of 150 on."""
    folder = tmp_path_factory.mktemp("bright-unet")
    step = [
        helper.make_node("Sub", ["image", "edge"], ["above"]),
        helper.make_node("Sigmoid", ["above"], ["answer"]),
    ]
    graph(folder / "weights.onnx", step, ["batch", 1, "y", "x"], {"edge": np.float32([100.5])})
    judge = [
        helper.make_node("ReduceMax", ["image"], ["largest"], axes=[2, 3], keepdims=0),
        helper.make_node("Div", ["largest", "white"], ["artifact"]),
        helper.make_node("Sub", ["one", "artifact"], ["clean"]),
        helper.make_node("Concat", ["clean", "artifact"], ["answer"], axis=1),
    ]
    constants = {"white": np.float32([255]), "one": np.float32([1])}
    graph(folder / "classifier.onnx", judge, ["batch", 2], constants)
    size = {"min": 32, "step": 1}
    space = [{"type": "space", "id": axis} for axis in "yx"]
    leading = [{"type": "batch"}, {"type": "channel", "channel_names": ["grey"]}]
    same = [{"size": {"tensor_id": "image", "axis_id": axis}} for axis in "yx"]
    description = {
        "type": "model",
        "format_version": "0.5.4",
        "name": "Bright is artifact",
        "id": "bright-artifact",
        "inputs": [{"id": "image", "axes": leading + [axis | {"size": size} for axis in space]}],
        "outputs": [
            {"id": "probability", "axes": leading + [axis | more for axis, more in zip(space, same, strict=True)]}
        ],
        "weights": {
            "onnx": {
                "source": "weights.onnx",
                "sha256": sha256(folder / "weights.onnx"),
                "opset_version": 17,
            }
        },
        "config": {
            "artseg": {
                "cutoff": 0.5,
                "smallest_artifact_px": 10,
                "gate_threshold": 150 / 255,
                "classifier": {
                    "id": "bright-classifier",
                    "attachment": "classifier.onnx",
                    "sha256": sha256(folder / "classifier.onnx"),
                },
            }
        },
    }
    # JSON is YAML
    (folder / "rdf.yaml").write_text(json.dumps(description))
    return folder


@pytest.fixture
def predictor(package: Path) -> Predictor:
    return Predictor(read_package(package), device="cpu")


def field(*squares: tuple[int, int, int, int]) -> np.ndarray:
    """Draw a grey image (noise around 50) with squares (y, x, side, brightness)."""
    pixels = np.random.default_rng(1).integers(40, 60, (SIDE, SIDE)).astype(np.uint8)
    for y, x, side, brightness in squares:
        pixels[y : y + side, x : x + side] = brightness
    return pixels


@pytest.fixture
def labels(tmp_path: Path) -> LabelSet:
    """Five test images: found and exact, found shifted, missed by the gate, a false alarm, clean; and no mask."""
    images = {
        "exact.tif": (field((8, 8, 16, 200)), "artifact", (8, 8, 16)),
        "shifted.tif": (field((8, 8, 16, 200)), "artifact", (8, 12, 16)),
        "dim.tif": (field((8, 8, 16, 120)), "artifact", (8, 8, 16)),
        "alarm.tif": (field((40, 40, 8, 220)), "clean", None),
        "clean.tif": (field((40, 40, 3, 220)), "clean", None),  # nine pixels: below the smallest artifact
        "unmasked.tif": (field((8, 8, 16, 200)), "artifact", None),
    }
    lines = ["image,label,split,group,mask"]
    for name, (pixels, label, square) in images.items():
        write_image(tmp_path / name, pixels)
        mask = ""
        if square is not None:
            y, x, side = square
            drawn = np.zeros((SIDE, SIDE), dtype=bool)
            drawn[y : y + side, x : x + side] = True
            mask = name.replace(".tif", "_mask.png")
            write_image(tmp_path / mask, drawn)
        lines.append(f"{name},{label},test,{name},{mask}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_labels(tmp_path / "labels.csv")


def test_verdicts_follow_the_gate(predictor: Predictor, labels: LabelSet) -> None:
    evaluation = evaluate(predictor, labels.of_split("test"))
    verdicts = {score.item.path.stem: score.verdict for score in evaluation.scores}
    assert verdicts == {
        "exact": "artifact",
        "shifted": "artifact",
        "dim": "clean",
        "alarm": "artifact",
        "clean": "artifact",  # the gate is open although no object survives
        "unmasked": "artifact",
    }
    assert evaluation.images == Counts(3, 2, 1, 0)
    assert evaluation.images_by_objects == Counts(3, 1, 1, 1)
    assert "gate" in evaluation.rule


def test_without_the_gate_objects_decide(predictor: Predictor, labels: LabelSet) -> None:
    evaluation = evaluate(predictor, labels.images, options=Options(gate=False))
    verdicts = {score.item.path.stem: score.verdict for score in evaluation.scores}
    assert verdicts["dim"] == "artifact"
    assert verdicts["clean"] == "clean"
    assert evaluation.images == Counts(4, 1, 0, 1)
    assert "object" in evaluation.rule


def test_pixels_are_pooled_over_all_known_masks(predictor: Predictor, labels: LabelSet) -> None:
    evaluation = evaluate(predictor, labels.images)
    shifted = 16 * 12, 16 * 4, 16 * 4
    expected = Counts(256 + shifted[0], shifted[1] + 64, shifted[2] + 256)
    pixels = evaluation.pixels
    assert pixels is not None
    assert pixels == Counts(
        expected.true_positive,
        expected.false_positive,
        expected.false_negative,
        5 * SIDE * SIDE - expected.true_positive - expected.false_positive - expected.false_negative,
    )
    by_name = {score.item.path.stem: score for score in evaluation.scores}
    assert by_name["unmasked"].pixels is None
    assert by_name["exact"].pixels == Counts(256, 0, 0, SIDE * SIDE - 256)
    # and against scikit-learn over all pixels at once
    truth, found = [], []
    for item in labels.images:
        if item.path.stem == "unmasked":
            continue
        drawn = np.zeros((SIDE, SIDE), bool) if item.mask is None else np.asarray(Image.open(item.mask.path)) > 127
        bright = np.asarray(Image.open(item.path)) > 100
        truth.append(drawn.ravel())
        found.append(bright.ravel() & (item.path.stem not in ("dim", "clean")))
    truth, found = np.concatenate(truth), np.concatenate(found)
    assert pixels.precision == pytest.approx(precision_score(truth, found))
    assert pixels.recall == pytest.approx(recall_score(truth, found))
    assert pixels.f1 == pytest.approx(f1_score(truth, found))
    assert pixels.iou == pytest.approx(jaccard_score(truth, found))


def test_ignored_pixels_count_nowhere(predictor: Predictor, labels: LabelSet, tmp_path: Path) -> None:
    drawn = np.zeros((SIDE, SIDE), dtype=bool)
    drawn[36:, 36:] = True  # the false alarm
    drawn[:, 24:28] = True  # what the shifted mask misses
    write_image(tmp_path / "ignore.png", drawn)
    ignore = read_ignore(tmp_path / "ignore.png")
    assert np.array_equal(ignore, drawn)
    evaluation = evaluate(predictor, labels.images, ignore=ignore, options=Options(gate=False))
    scores = {score.item.path.stem: score for score in evaluation.scores}
    assert scores["alarm"].verdict == "clean"
    assert scores["alarm"].objects == 0
    assert scores["alarm"].area_fraction == 0
    assert scores["shifted"].pixels == Counts(16 * 12, 16 * 4, 0, int((~drawn).sum()) - 256)
    assert evaluation.images == Counts(4, 0, 0, 2)


def test_an_ignore_mask_of_another_size_is_named(predictor: Predictor, labels: LabelSet) -> None:
    with pytest.raises(ArtSegError, match=r"\(10, 10\)"):
        evaluate(predictor, labels.images, ignore=np.zeros((10, 10), dtype=bool))


def test_unreadable_images_are_listed_and_the_others_scored(
    predictor: Predictor, labels: LabelSet, tmp_path: Path
) -> None:
    (tmp_path / "dim.tif").write_bytes(b"no image")
    write_image(tmp_path / "alarm.tif", np.full((SIDE, SIDE), 7, dtype=np.uint8))
    evaluation = evaluate(predictor, labels.images)
    assert [item.path.name for item, _ in evaluation.failed] == ["dim.tif", "alarm.tif"]
    assert evaluation.images.total == 4
    table, _ = write_evaluation(evaluation, tmp_path / "out")
    rows = {Path(row["image"]).name: row for row in csv.DictReader(table.read_text().splitlines())}
    assert len(rows) == 6
    assert rows["dim.tif"]["error"]
    assert rows["dim.tif"]["verdict"] == ""
    assert rows["exact.tif"]["error"] == ""


def test_nothing_to_score_is_an_error(predictor: Predictor, labels: LabelSet, tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match="no"):
        evaluate(predictor, [])
    for item in labels.images:
        item.path.write_bytes(b"")
    with pytest.raises(ArtSegError, match="None of the 6 images"):
        evaluate(predictor, labels.images)


def test_files_say_which_model_made_them(predictor: Predictor, labels: LabelSet, package: Path, tmp_path: Path) -> None:
    evaluation = evaluate(predictor, labels.images)
    table, summary = write_evaluation(evaluation, tmp_path / "out")
    content = json.loads(summary.read_text())
    digest = read_package(package).sha256
    assert content["audit"]["model_id"] == "bright-artifact"
    assert content["audit"]["model_sha256"] == digest
    assert content["audit"]["cutoff"] == 0.5
    assert content["image"]["recall"] == pytest.approx(3 / 4)
    assert content["images_artifact_with_mask"] == 3
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["model_sha256"] for row in rows} == {digest}
    exact = next(row for row in rows if row["image"].endswith("exact.tif"))
    assert float(exact["iou"]) == 1.0
    clean = next(row for row in rows if row["image"].endswith("clean.tif"))
    assert clean["iou"] == ""  # nothing true, nothing found: not defined
    montage = tmp_path / "out" / "overlays.png"
    write_montage(predictor, evaluation, montage)
    with Image.open(montage) as picture:
        assert digest in picture.info["Description"]


def test_wrong_pixels_are_told_by_cause_and_shown(predictor: Predictor, labels: LabelSet, tmp_path: Path) -> None:
    evaluation = evaluate(predictor, labels.images)
    pixels = evaluation.pixels
    assert pixels is not None
    wrong = evaluation.wrong_pixels
    assert sum(wrong.values()) == pixels.false_positive + pixels.false_negative
    # a false alarm of 8 x 8, a square that the gate drops, another that is 4 pixels off, all but one beyond an edge
    assert wrong == {
        "not_found": 16 * 16,
        "clean_image": 8 * 8,
        "beyond": 3 * 16,
        "gap": 3 * 16,
        "too_wide": 16,
        "too_narrow": 16,
        "nothing_there": 0,
    }
    table, summary = write_evaluation(evaluation, tmp_path)
    assert json.loads(summary.read_text())["wrong_pixels"] == wrong
    rows = {Path(row["image"]).name: row for row in csv.DictReader(table.read_text().splitlines())}
    assert rows["alarm.tif"]["wrong_clean_image"] == "64"
    assert rows["exact.tif"]["wrong_gap"] == "0"
    assert write_errors_figure(predictor, evaluation, tmp_path / "errors.png")
    with Image.open(tmp_path / "errors.png") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    # orange, mixed with the grey of the image, marks the pixels of each cause
    assert np.count_nonzero((shown[..., 0] - shown[..., 2] > 90) & (shown[..., 0] > 140)) > 1000
    right = evaluate(predictor, [item for item in labels.images if item.path.name == "exact.tif"])
    assert not write_errors_figure(predictor, right, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts of the figures of errors and evaluation that are written meanwhile."""
    found: list[str] = []

    def keep(figure: Figure, path: Path, **_: object) -> None:
        # titles at the left are no titles to matplotlib's getters
        found.extend(text.get_text() for text in figure.findobj(Text) if text.get_text())

    monkeypatch.setattr(errors, "save_figure", keep)
    monkeypatch.setattr(evaluation_figures, "save_figure", keep)
    return found


def test_of_each_group_the_worst_image_is_shown_and_free_places_are_filled(
    predictor: Predictor, tmp_path: Path, texts: list[str]
) -> None:
    """Two wells: the gate drops all of them, so the whole mask is wrong, the more the larger it is."""
    lines = ["image,label,split,group,mask"]
    for name, group, side in (("a3", "A", 18), ("a2", "A", 16), ("a1", "A", 14), ("b1", "B", 10), ("b2", "B", 8)):
        drawn = np.zeros((SIDE, SIDE), bool)
        drawn[8 : 8 + side, 8 : 8 + side] = True
        write_image(tmp_path / f"{name}.tif", field())
        write_image(tmp_path / f"{name}.png", drawn)
        lines.append(f"{name}.tif,artifact,test,{group},{name}.png")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    items = read_labels(tmp_path / "labels.csv").images
    assert write_errors_figure(predictor, evaluate(predictor, items), tmp_path / "errors.png")
    assert [text.split(".")[0] for text in texts if ".tif, " in text] == ["a3", "b1", "a2", "a1"]
    assert any(text.endswith("The image with the most of each group, then the next of any group.") for text in texts)
    texts.clear()
    alone = [item for item in items if item.path.stem in ("a3", "b1")]
    assert write_errors_figure(predictor, evaluate(predictor, alone), tmp_path / "errors.png")
    assert any(text.endswith("The images with the most.") for text in texts)


def test_intervals_say_over_how_many_groups_and_that_few_make_them_rough(
    package: Path, predictor: Predictor, labels: LabelSet, tmp_path: Path, texts: list[str]
) -> None:
    command = ["evaluate", str(package), str(labels.source)]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    # one image alone in its group has no mask
    assert "intervals over 6 groups (5 for pixels and objects)" in " ".join(done.output.split())
    assert "With fewer than 10 groups, intervals are rough." in done.output
    write_evaluation_figure(evaluate(predictor, labels.images), tmp_path / "evaluation.png")
    assert any(
        "6 groups (5 for pixels and objects)" in text and "fewer than 10 groups, intervals are rough" in text
        for text in texts
    )
    one = evaluate(predictor, [replace(item, group="well") for item in labels.images])
    assert one.rough_intervals == "Intervals need at least two groups of images."
    exact = next(item for item in labels.images if item.path.stem == "exact")
    many = evaluate(predictor, [replace(exact, group=f"g{number}") for number in range(10)])
    assert (many.drawn_over, many.rough_intervals) == ("10 groups", "")


def test_objects_curve_intervals_and_spread(predictor: Predictor, labels: LabelSet, tmp_path: Path) -> None:
    evaluation = evaluate(predictor, labels.images, options=Options(gate=False))
    figures = evaluation.figures()
    # objects: exact and dim found, shifted by 192 of 320 pixels, one false alarm
    assert figures["average_object_iou"].value == pytest.approx((1 + 1 + 192 / 320) / 3)
    assert figures["object_f1_iou_0.5"].value == pytest.approx(6 / 7)
    assert figures["object_f1_iou_0.7"].value == pytest.approx(4 / 7)
    assert figures["pixel_iou"].low < figures["pixel_iou"].value < figures["pixel_iou"].high
    assert figures["image_f1"].value == evaluation.images.f1
    spread = evaluation.distributions()
    assert spread["artifact_images_iou"].median == 1
    assert spread["artifact_images_iou"].smallest == pytest.approx(0.6)
    assert spread["clean_images_area_fraction"].largest == pytest.approx(64 / SIDE**2)
    # the gate sets the pixels of the dim image to probability 0
    gated, curve = evaluate(predictor, labels.images).curve, evaluation.curve
    assert curve is not None
    assert gated is not None
    assert gated.area < curve.area
    table, summary = write_evaluation(evaluation, tmp_path / "out")
    content = json.loads(summary.read_text())
    assert content["figures"]["average_object_iou"]["value"] == pytest.approx(figures["average_object_iou"].value)
    assert content["groups"] == 6
    lines = list(csv.DictReader((tmp_path / "out" / "precision_recall.csv").read_text().splitlines()))
    used = min(lines, key=lambda line: abs(float(line["cutoff"]) - 0.5))
    assert float(used["recall"]) == pytest.approx(evaluation.pixels.recall if evaluation.pixels else -1, abs=0.01)
    rows = {Path(row["image"]).stem: row for row in csv.DictReader(table.read_text().splitlines())}
    assert float(rows["shifted"]["average_object_iou"]) == pytest.approx(0.6)
    assert rows["unmasked"]["average_object_iou"] == ""


def test_without_any_mask_pixels_are_not_reported(predictor: Predictor, labels: LabelSet) -> None:
    items = [item for item in labels.images if item.mask is None]
    evaluation = evaluate(predictor, items)
    assert evaluation.pixels is None
    assert evaluation.summary()["pixel_pooled"] is None
    assert all(value is None for value in evaluation.summary()["pixel_mean_of_artifact_images"].values())  # type: ignore[union-attr]


def test_the_sheet_spans_worst_to_best(predictor: Predictor, labels: LabelSet) -> None:
    scores = evaluate(predictor, labels.images).scores
    masked = [score for score in scores if score.item.path.stem != "unmasked"]
    names = [score.item.path.stem for score in choose(masked, 3)]
    assert names == ["dim", "exact", "alarm"]
    assert [score.item.path.stem for score in choose(masked, 99)] == ["dim", "shifted", "exact", "alarm", "clean"]
    ious = [score.pixels.iou for score in choose(masked, 3)[:2] if score.pixels]
    assert ious == [0.0, 1.0]
    assert not any(math.isnan(value) for value in ious)


def test_command_line(package: Path, labels: LabelSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["evaluate", str(package), str(labels.source), "--out", str(out)])
    assert done.exit_code == 0, done.output
    written = {"evaluation.csv", "evaluation.json", "evaluation.png", "overlays.png", "precision_recall.csv"}
    written |= {"reliability.png", "errors.png"}
    assert {path.name for path in out.iterdir()} == written
    assert "0.750" in done.output  # image recall
    assert "IoU of single artifact images: median 0.600" in done.output  # 0, 192 of 320, 1
    assert "bright-artifact" in done.output

    missing = CliRunner().invoke(app, ["evaluate", str(package), str(labels.source), "--split", "train"])
    assert isinstance(missing.exception, ArtSegError)
    assert "--split all" in str(missing.exception)

    (tmp_path / "dim.tif").write_bytes(b"no image")
    broken = CliRunner().invoke(app, ["evaluate", str(package), str(labels.source)])
    assert broken.exit_code == 1
    assert "dim.tif" in str(broken.exception)
