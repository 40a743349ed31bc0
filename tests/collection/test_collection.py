"""What goes into a collection, what is refused, and how models are found in it."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.collection.index import find_package, read_collection
from artseg_models.collection.store import add_packages, build_collection
from artseg_models.errors import ArtSegError
from artseg_models.files import sha256
from artseg_models.packages.rdf import load_yaml
from artseg_models.packages.read import read_package

UNET = "artseg-tiny-run-unet"


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def added(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added") / "models"
    add_packages(folder, [packages["unet"], packages["older_unet"], packages["classifier"]])
    return folder


@pytest.fixture
def collection(added: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(added, tmp_path / "models"))


def changed(package: Path, target: Path, name: str, text: bytes) -> Path:
    """Copy a package with one more file."""
    shutil.copyfile(package, target)
    with zipfile.ZipFile(target, "a") as opened:
        opened.writestr(name, text)
    return target


def test_a_model_is_found_by_its_id_and_is_the_one_that_was_added(collection: Path, packages: dict[str, Path]) -> None:
    found = find_package(collection, UNET)
    assert found.is_absolute()
    assert found.read_bytes() == packages["unet"].read_bytes()
    entries = {entry.id: entry for entry in read_collection(collection).entries}
    entry = entries[UNET]
    assert (entry.version, entry.kind, entry.sha256) == ("0.1.0", "segmentation", sha256(packages["unet"]))
    assert [file.format_version for file in entry.files][-1] == "0.5.10"
    assert len(entry.files) == 2
    assert entries["artseg-tiny-run-classifier"].kind == "classification"


def test_the_newest_version_is_meant_unless_one_is_named(
    collection: Path, packages: dict[str, Path], later: dict[str, Path]
) -> None:
    add_packages(collection, [later["unet"]])
    assert read_package(find_package(collection, UNET)).version == "0.10.0"
    assert read_package(find_package(collection, UNET, "0.1.0")).version == "0.1.0"
    for both in (f"{UNET}/0.1.0", f"{UNET}@0.1.0"):
        assert find_package(collection, both).read_bytes() == packages["unet"].read_bytes()
    # what a web address without version gives, file by file
    assert load_yaml(collection / UNET / "rdf.yaml")["version"] == "0.10.0"
    for file in (collection / UNET / "0.10.0").iterdir():
        assert (collection / UNET / file.name).read_bytes() == file.read_bytes()


def test_an_earlier_version_added_later_does_not_take_the_place_of_the_newest(
    tmp_path: Path, packages: dict[str, Path], later: dict[str, Path]
) -> None:
    folder = tmp_path / "models"
    add_packages(folder, [later["unet"]])
    add_packages(folder, [packages["unet"]])
    assert load_yaml(folder / UNET / "rdf.yaml")["version"] == "0.10.0"


def test_what_lies_unpacked_is_the_format_that_every_reader_opens(
    tmp_path: Path, packages: dict[str, Path], collection: Path
) -> None:
    assert load_yaml(collection / UNET / "rdf.yaml")["format_version"] == "0.5.10"
    # whichever was added first
    other = tmp_path / "other"
    for package in ("unet", "older_unet"):
        add_packages(other, [packages[package]])
    add_packages(other, [packages["classifier"]])
    assert content(other) == content(collection)
    assert read_package(collection / UNET / "0.1.0").id == UNET


def test_unknown_ids_and_versions_are_answered_with_what_is_there(collection: Path) -> None:
    with pytest.raises(ArtSegError, match=f"no model 'another'; it holds: artseg-tiny-run-classifier, {UNET}"):
        find_package(collection, "another")
    with pytest.raises(ArtSegError, match=re.escape(f"no version 3.0 of {UNET}; it holds: 0.1.0")):
        find_package(collection, UNET, "3.0")


def test_a_folder_that_is_no_collection_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtSegError, match="artseg collection add"):
        find_package(tmp_path, UNET)


def test_the_same_package_again_changes_nothing(collection: Path, packages: dict[str, Path]) -> None:
    before = content(collection)
    (added,) = add_packages(collection, [packages["unet"]])
    assert not added.new
    assert content(collection) == before


def test_other_bytes_under_the_same_id_and_version_are_refused_and_nothing_is_added(
    tmp_path: Path, collection: Path, packages: dict[str, Path], later: dict[str, Path]
) -> None:
    before = content(collection)
    other = changed(packages["unet"], tmp_path / "other.zip", "note.txt", b"another")
    with pytest.raises(ArtSegError, match=r"0\.1\.0 with other bytes .* --model-version"):
        add_packages(collection, [later["unet"], other])
    assert content(collection) == before


def test_formats_of_different_trainings_are_no_entry(
    tmp_path: Path, packages: dict[str, Path], make_run: object
) -> None:
    from artseg_models.packages.export import export_packages

    run = make_run(tmp_path / "run", binning=1)  # pyright: ignore
    another = export_packages(run, tmp_path / "out").older_unet
    with pytest.raises(ArtSegError, match="has other weights"):
        add_packages(tmp_path / "models", [packages["unet"], another])
    assert not (tmp_path / "models" / "collection.json").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", "../out", "cannot be a folder"),
        ("id", "downloads", "cannot be a folder"),
        ("id", None, "states no id"),
        ("version", "first", "is no version"),
    ],
)
def test_what_cannot_be_a_folder_or_version_is_refused(
    tmp_path: Path, packages: dict[str, Path], field: str, value: str | None, message: str
) -> None:
    shutil.unpack_archive(packages["unet"], tmp_path / "unpacked")
    described = load_yaml(tmp_path / "unpacked" / "rdf.yaml")
    described[field] = value
    (tmp_path / "unpacked" / "rdf.yaml").write_text(json.dumps(described, default=str))
    package = Path(shutil.make_archive(str(tmp_path / "renamed"), "zip", tmp_path / "unpacked"))
    with pytest.raises(ArtSegError, match=message):
        add_packages(tmp_path / "models", [package])
    assert not [path for path in tmp_path.rglob("*.json") if path.name == "collection.json"]


def test_everything_is_built_anew_from_the_downloads(collection: Path, later: dict[str, Path]) -> None:
    add_packages(collection, [later["unet"]])
    before = content(collection)
    for path in collection.iterdir():
        if path.name != "downloads":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    build_collection(collection)
    assert content(collection) == before


def test_without_its_index_nothing_is_added_over_what_is_there(collection: Path, later: dict[str, Path]) -> None:
    (collection / "collection.json").unlink()
    before = content(collection)
    with pytest.raises(ArtSegError, match="artseg collection build"):
        add_packages(collection, [later["unet"]])
    assert content(collection) == before
    build_collection(collection)
    add_packages(collection, [later["unet"]])
    assert len(read_collection(collection).entries) == 3


def test_a_download_that_was_changed_by_hand_is_not_written_over(collection: Path, packages: dict[str, Path]) -> None:
    changed_by_hand = find_package(collection, UNET)
    changed_by_hand.write_bytes(b"other bytes")
    with pytest.raises(ArtSegError, match="with other bytes than its index states"):
        add_packages(collection, [packages["unet"]])
    assert changed_by_hand.read_bytes() == b"other bytes"


def test_a_full_disk_leaves_the_index_as_it_was(
    collection: Path, later: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    index = (collection / "collection.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("artseg_models.collection.store.os.link", full)
        patch.setattr("artseg_models.collection.store.os.replace", full)
        with pytest.raises(ArtSegError, match="No space left"):
            add_packages(collection, [later["unet"]])
    assert (collection / "collection.json").read_bytes() == index
    assert find_package(collection, UNET).is_file()
    add_packages(collection, [later["unet"]])
    assert read_package(find_package(collection, UNET)).version == "0.10.0"


def test_a_zip_that_was_lost_is_named_and_an_index_cannot_lead_out(collection: Path, tmp_path: Path) -> None:
    path = find_package(collection, UNET)
    moved = path.rename(tmp_path / path.name)
    with pytest.raises(ArtSegError, match="which is not there"):
        find_package(collection, UNET)
    index = collection / "collection.json"
    index.write_text(index.read_text().replace(f"downloads/{UNET}", ".."))
    assert moved.is_file()
    with pytest.raises(ArtSegError, match="outside the collection"):
        find_package(collection, UNET)


@pytest.mark.parametrize("text", ["", "[]", '{"collection_format": 1, "models": [{}]}'])
def test_a_damaged_index_says_how_to_mend_it(collection: Path, text: str) -> None:
    (collection / "collection.json").write_text(text)
    with pytest.raises(ArtSegError, match="artseg collection build"):
        read_collection(collection)
    build_collection(collection)
    assert find_package(collection, UNET).is_file()


def test_commands_add_and_list(tmp_path: Path, packages: dict[str, Path]) -> None:
    folder = str(tmp_path / "models")
    run = CliRunner().invoke
    added = run(app, ["collection", "add", folder, str(packages["unet"]), str(packages["older_unet"])])
    assert added.exit_code == 0, added.output
    listed = run(app, ["collection", "list", folder], env={"COLUMNS": "200"})
    assert UNET in listed.output
    assert sha256(packages["unet"])[:12] in listed.output
    again = run(app, ["collection", "add", folder, str(packages["unet"])])
    assert "is there already" in again.output
    assert run(app, ["collection", "build", folder]).exit_code == 0
