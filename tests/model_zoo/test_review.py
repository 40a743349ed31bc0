"""A draft for the Zoo, and what reviewers would still ask for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.packages.rdf import load_yaml
from artseg_models.packages.read import read_package
from artseg_models.packages.review import Review, prepare_review


@pytest.fixture(scope="module")
def review(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Review:
    return prepare_review(packages["older_unet"], tmp_path_factory.mktemp("review") / "draft")


def state(review: Review, words: str) -> str:
    (found,) = [point.state for point in review.points if words in point.asked]
    return found


def test_the_draft_is_the_package_and_its_zip(review: Review, packages: dict[str, Path]) -> None:
    assert review.archive.read_bytes() == packages["older_unet"].read_bytes()
    assert read_package(review.folder / "package").id == read_package(review.archive).id
    assert sorted(path.name for path in review.folder.iterdir()) == ["REVIEW.md", review.archive.name, "package"]


def test_what_export_cannot_know_is_asked_for(review: Review) -> None:
    for words in ("people who made it", "ORCID", "GitHub name", "link to the code", "linked data set"):
        assert state(review, words) == "missing"
    assert state(review, "pytorch_state_dict") == "yours to check"
    text = (review.folder / "REVIEW.md").read_text()
    assert text.index("Still missing") < text.index("For you to check") < text.index("## Met")
    assert all(point.asked in text for point in review.points)


def test_what_export_writes_is_met(review: Review) -> None:
    for words in (
        "servers read",
        "passes: onnx",
        "tiktorch",
        "JDLL",
        "validated",
        "tells the training",
        "cover",
        "DOI",
    ):
        assert state(review, words) == "met", words


def test_what_was_filled_in_is_no_longer_asked_for(packages: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    shutil.unpack_archive(packages["older_unet"], folder)
    described = load_yaml(folder / "rdf.yaml")
    described["authors"] = [{"name": "Ada Lovelace", "affiliation": "London", "orcid": "0000-0001-2345-6789"}]
    described["maintainers"] = [{"github_user": "ada"}]
    (folder / "rdf.yaml").write_text(json.dumps(described, default=str))
    review = prepare_review(folder, tmp_path / "draft")
    for words in ("people who made it", "ORCID", "GitHub name"):
        assert state(review, words) == "met"


def test_gaps_are_found(packages: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    shutil.unpack_archive(packages["unet"], folder)
    described: dict[str, Any] = load_yaml(folder / "rdf.yaml")
    (folder / "card.md").write_text("# Name\n\nTODO: describe {{ training }}\n")
    described |= {"documentation": {"source": "card.md"}, "covers": [], "tags": ["2d"], "name": "Dust"}
    del described["inputs"][0]["sample_tensor"]
    (folder / "rdf.yaml").write_text(json.dumps(described, default=str))
    for name in ("vendored", "other"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    gaps = prepare_review(folder, tmp_path / "draft")
    for words in ("servers read", "validated", "unfilled", "cover", "Tags", "A name", "sample_tensor", "library"):
        assert state(gaps, words) == "missing", words
    assert gaps.archive.is_file()


def test_a_folder_with_files_is_left_alone(packages: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtSegError, match="new or empty folder"):
        prepare_review(packages["unet"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_command_lists_what_is_missing(packages: dict[str, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["package", "review", str(packages["older_classifier"]), "--out", str(tmp_path / "draft")]
    )
    assert done.exit_code == 0, done.output
    assert "GitHub name" in done.output
    assert (tmp_path / "draft" / "REVIEW.md").is_file()
