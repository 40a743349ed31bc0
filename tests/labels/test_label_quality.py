"""Pace, agreement and copies in several splits, as `artseg labels check` tells them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from artseg_models.agreement import agreements, conflicts, people
from artseg_models.cli import app
from artseg_models.images import write_image
from artseg_models.labels import check_labels
from artseg_models.provenance import TABLE, Decision, history_path


def label(image: str, value: str, who: str, seconds: float | None = None) -> Decision:
    return Decision(image, "label", value, "", who, "2026-11-24T10:00:00+00:00", seconds)


def test_kappa_is_cohens() -> None:
    """The worked example of Cohen's kappa on 50 proposals: 20 and 15 alike, 5 and 10 not; kappa 0.4."""
    pairs = [("clean", "clean")] * 20 + [("clean", "artifact")] * 5 + [("artifact", "clean")] * 10
    pairs += [("artifact", "artifact")] * 15
    history = [
        label(f"{number}.tif", value, who)
        for number, pair in enumerate(pairs)
        for who, value in zip(("a", "b"), pair, strict=True)
    ]
    (found,) = agreements(history)
    assert (found.names, found.images, found.same) == (("a", "b"), 50, 35)
    assert found.kappa == pytest.approx(0.4)
    assert len(conflicts(history)) == 15


def test_kappa_is_not_defined_where_all_have_one_label() -> None:
    (found,) = agreements([label("1.tif", "clean", "a"), label("1.tif", "clean", "b")])
    assert (found.same, found.kappa) == (1, None)


def test_a_persons_last_word_counts_and_pauses_do_not() -> None:
    history = [
        label("1.tif", "clean", "a", 1.0),
        label("1.tif", "artifact", "a", 2.0),
        label("2.tif", "unsure", "a", 3.0),
        label("3.tif", "clean", "a", 900.0),
        label("4.tif", "clean", "a"),
        label("5.tif", "clean", "a", 1.5),
        label("5.tif", "", "a"),
        label("6.tif", "clean", TABLE),
    ]
    (person,) = people(history)
    assert (person.name, person.images, dict(person.labels)) == ("a", 4, {"artifact": 1, "unsure": 1, "clean": 2})
    assert (person.seconds, person.timed) == (1.75, 4)


@pytest.fixture
def split_set(tmp_path: Path) -> Path:
    """Eight fields, of which the fourth is in the test split and, as a JPEG of it, in the training split."""
    rows = ["image,label,split"]
    for number in range(8):
        random = np.random.default_rng(number)
        pixels = np.kron(random.normal(128, 30, (16, 16)), np.ones((8, 8))) + random.normal(0, 4, (128, 128))
        write_image(tmp_path / f"{number}.png", pixels.clip(0, 255).astype(np.uint8))
        split = ("train", "train", "validation", "test")[number // 2]
        rows.append(f"{number}.png,{'artifact' if number % 2 else 'clean'},{split}")
    stream = io.BytesIO()
    Image.open(tmp_path / "6.png").point(lambda value: int(value * 0.8)).save(stream, "JPEG", quality=70)
    (tmp_path / "copy.jpg").write_bytes(stream.getvalue())
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "copy.jpg,clean,train"]) + "\n")
    return tmp_path / "labels.csv"


def test_a_test_image_saved_again_in_the_training_split_is_caught(split_set: Path) -> None:
    report = check_labels(split_set)
    (names,) = report.near_duplicates
    assert {Path(name).name for name in names} == {"6.png", "copy.jpg"}
    assert any("seems to be in several splits" in warning and "copy.jpg" in warning for warning in report.warnings)
    done = CliRunner().invoke(app, ["labels", "check", str(split_set)], env={"COLUMNS": "400"})
    assert "1 sets of near-duplicates are not in one group" in done.output


def test_copies_in_one_group_are_as_they_should_be(split_set: Path) -> None:
    lines = split_set.read_text().splitlines()
    grouped = [f"{line},{'six' if line.startswith(('6.', 'copy')) else line.split('.')[0]}" for line in lines[1:]]
    text = "\n".join([f"{lines[0]},group", *grouped]).replace("copy.jpg,clean,train", "copy.jpg,clean,test")
    split_set.write_text(text + "\n")
    report = check_labels(split_set)
    assert (report.near_duplicates, report.errors) == ([], [])


def test_the_check_tells_pace_and_agreement(split_set: Path) -> None:
    lines = split_set.read_text().splitlines()
    split_set.write_text("\n".join(lines[:-1]) + "\n")
    history = [label(f"{number}.png", "artifact" if number % 2 else "clean", "anna", 1.5) for number in range(8)]
    history += [label(f"{number}.png", "artifact" if number % 2 else "clean", "ben", 3.0) for number in range(3)]
    history += [label("3.png", "clean", "ben", 3.0)]
    keys = ("image", "what", "value", "who", "when", "seconds")
    history_path(split_set).write_text(
        "".join(json.dumps({key: getattr(one, key) for key in keys}) + "\n" for one in history)
    )
    done = CliRunner().invoke(app, ["labels", "check", str(split_set)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "anna and ben labelled 4 images both, 3 of them alike; Cohen's kappa 0.50." in done.output
    assert "people disagree on 3.png: anna says artifact, ben says clean." in done.output
    assert "1.5" in done.output
