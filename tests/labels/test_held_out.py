"""`artseg labels split`: training never sees the artifacts of one end, groups stay whole, masks do nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage import draw
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.held_out import hold_out
from artseg_models.images import write_image
from artseg_models.labels import LabelSet, read_labels

COUNT = 16


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ellipses that differ in place along x, in size and in direction, independently; two images a group."""
    folder = tmp_path_factory.mktemp("held_out")
    random = np.random.default_rng(0)
    rows = ["image,label,split,group,mask,kinds"]
    sizes, turns = random.permutation(COUNT), random.permutation(COUNT)
    for number in range(COUNT):
        for copy in range(2):
            name = f"{number}_{copy}"
            mask = np.zeros((60, 100), bool)
            radius = 4 + 0.3 * sizes[number] + 0.02 * copy
            turn = np.pi * turns[number] / (2 * COUNT)
            mask[draw.ellipse(30, 20 + 4 * number + copy, radius, radius / 2, shape=mask.shape, rotation=turn)] = True
            write_image(folder / f"{name}.png", random.integers(0, 255, mask.shape).astype(np.uint8))
            write_image(folder / f"{name}_mask.png", mask)
            rows.append(f"{name}.png,artifact,train,{number},{name}_mask.png,dust")
    for number in range(12):
        write_image(folder / f"clean{number}.png", random.integers(0, 255, (60, 100)).astype(np.uint8))
        # one of a group with artifacts
        rows.append(f"clean{number}.png,clean,train,{0 if number == 0 else f'clean{number}'},,")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def numbers(labels: LabelSet, split: str) -> list[int]:
    return [int(item.group) for item in labels.images if item.label == "artifact" and item.split == split]


def test_an_end_of_the_range_is_held_out_and_the_rest_is_not(table: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["labels", "split", str(table), str(tmp_path / "split.csv"), "--by", "position"])
    assert done.exit_code == 0, done.output
    labels = read_labels(tmp_path / "split.csv")
    held = set(numbers(labels, "test"))
    assert held in ({0, 1, 2, 3}, {12, 13, 14, 15}), "the left-most or the right-most"
    seen = numbers(labels, "train"), numbers(labels, "validation")
    assert not held & {*seen[0], *seen[1]}
    assert min(map(len, seen)) > 2
    assert len(labels.images) == len(read_labels(table).images)
    assert {(item.label, item.kinds) for item in labels.images} == {("artifact", ("dust",)), ("clean", ())}
    for item in labels.images:
        assert {other.split for other in labels.images if other.group == item.group} == {item.split}
    clean = [sum(i.label == "clean" and i.split == split for i in labels.images) for split in ("train", "test")]
    assert clean[0] > clean[1] > 1


def test_what_is_held_out_is_chosen(table: Path) -> None:
    """By size the largest or smallest, wherever they lie."""
    labels = read_labels(table)
    sizes = np.random.default_rng(0).permutation(COUNT)
    held = {int(sizes[number]) for number in numbers(hold_out(labels, "size"), "test")}
    assert held in ({0, 1, 2, 3}, {12, 13, 14, 15})
    assert {*numbers(hold_out(labels, "shape"), "test")} != {*numbers(hold_out(labels, "size"), "test")}


def test_too_little_to_hold_out_is_told(table: Path) -> None:
    labels = read_labels(table)
    few = LabelSet(tuple(i for i in labels.images if i.label == "clean" or int(i.group) < 3), labels.source)
    with pytest.raises(ArtSegError, match=r"at least four groups of artifact images.*got 3"):
        hold_out(few, "position")
