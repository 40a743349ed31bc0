"""What is decided stays decided: on disk at once, over restarts, between windows and people, beside edits by hand."""

from __future__ import annotations

import csv
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from artseg_models.errors import ArtSegError
from artseg_models.labelling.store import Store
from artseg_models.labelling.twins import Twins
from artseg_models.labels import read_labels, with_splits
from artseg_models.provenance import history_path, read_history

Fields = Callable[..., Path]


def rows(table: Path) -> dict[str, dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as opened:
        listed = list(csv.DictReader(opened))
    assert len({row["image"] for row in listed}) == len(listed)
    return {row["image"]: row for row in listed}


def labels_of(store: Store) -> dict[str, str]:
    return {record.name: record.verdict()[0] for record in store.shown() if record.verdict()[0]}


def test_a_decision_is_in_table_and_history_with_who_when_and_how_fast(fields: Fields) -> None:
    folder = fields(4)
    store = Store([folder], folder / "labels.csv")
    name = store.shown()[0].name
    store.decide([name], label="artifact", kind="dust", who="Änne", seconds=1.75)
    row = rows(folder / "labels.csv")[name]
    assert (row["label"], row["kind"], row["annotator"], row["seconds"]) == ("artifact", "dust", "Änne", "1.75")
    assert row["labelled_at"].endswith("+00:00")
    (kept,) = read_history(folder / "labels.csv")
    assert (kept.image, kept.value, kept.kind, kept.who, kept.seconds) == (name, "artifact", "dust", "Änne", 1.75)


def test_a_restart_goes_on_in_the_same_order_with_the_same_labels(fields: Fields) -> None:
    folder = fields(9)
    first = Store([folder], folder / "labels.csv")
    order = [record.name for record in first.shown()]
    assert order != sorted(order)
    first.decide(order[:4], label="clean", who="a")
    again = Store([folder], folder / "labels.csv")
    assert [record.name for record in again.shown()] == order
    assert labels_of(again) == dict.fromkeys(order[:4], "clean")
    assert len(read_history(folder / "labels.csv")) == 4  # reading it added nothing


def test_two_programs_on_one_table_lose_nothing(fields: Fields) -> None:
    folder = fields(40)
    stores = [Store([folder], folder / "labels.csv") for _ in range(2)]
    names = [record.name for record in stores[0].shown()]

    def work(store: Store, mine: list[str], who: str) -> None:
        for name in mine:
            store.decide([name], label="artifact" if "artefakt" in name else "clean", who=who)

    workers = [
        threading.Thread(target=work, args=(store, names[at::2], who))
        for at, (store, who) in enumerate(zip(stores, ("a", "b"), strict=True))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = rows(folder / "labels.csv")
    assert set(found) == set(names)
    assert all((row["label"] == "artifact") == ("artefakt" in name) for name, row in found.items())
    assert len(read_history(folder / "labels.csv")) == len(names)


def test_a_line_that_was_cut_off_is_dropped_and_the_rest_holds(fields: Fields) -> None:
    folder = fields(3)
    store = Store([folder], folder / "labels.csv")
    names = [record.name for record in store.shown()]
    store.decide([names[0]], label="clean", who="a")
    history = history_path(folder / "labels.csv")
    with open(history, "ab") as opened:
        opened.write(b'{"image": "half a li')
    again = Store([folder], folder / "labels.csv")
    assert labels_of(again) == {names[0]: "clean"}
    again.decide([names[1]], label="artifact", who="a")
    assert labels_of(Store([folder], folder / "labels.csv")) == {names[0]: "clean", names[1]: "artifact"}


def test_a_table_older_than_the_history_is_made_anew(fields: Fields) -> None:
    folder = fields(3)
    table = folder / "labels.csv"
    store = Store([folder], table)
    name = store.shown()[0].name
    store.decide([name], label="clean", who="a")
    before = table.read_bytes()
    store.decide([name], label="artifact", who="a")
    # as if the computer had failed between the two files
    table.write_bytes(before)
    os.utime(table, ns=(1, 1))
    assert labels_of(Store([folder], table)) == {name: "artifact"}
    assert rows(table)[name]["label"] == "artifact"


def test_a_table_from_elsewhere_is_taken_over_with_its_columns(fields: Fields) -> None:
    folder = fields(4)
    table = folder / "labels.csv"
    names = sorted(path.name for path in folder.glob("*.tif"))
    table.write_text(f"image,label,group,well\n{names[0]},Clean,g1,A01\n{names[1]},artifact,g1,A02\n", encoding="utf-8")
    store = Store([folder], table)
    store.decide([names[2]], label="unsure", who="b")
    found = rows(table)
    assert [found[name]["label"] for name in names[:3]] == ["clean", "artifact", "unsure"]
    assert [found[name]["group"] for name in names[:2]] == ["g1", "g1"]
    assert [found[name]["well"] for name in names[:3]] == ["A01", "A02", ""]


def test_a_label_changed_in_the_table_by_hand_holds_until_the_person_says_otherwise(fields: Fields) -> None:
    folder = fields(3)
    table = folder / "labels.csv"
    store = Store([folder], table)
    name = store.shown()[0].name
    store.decide([name], label="clean", who="a")
    table.write_text(table.read_text(encoding="utf-8").replace(",clean,", ",artifact,"), encoding="utf-8")
    store.decide([store.shown()[1].name], label="clean", who="a")
    assert labels_of(store)[name] == "artifact"
    assert rows(table)[name]["label"] == "artifact"
    store.decide([name], label="clean", who="a")
    assert rows(table)[name]["label"] == "clean"


def test_a_table_with_an_unknown_label_is_not_written_over(fields: Fields) -> None:
    folder = fields(3)
    table = folder / "labels.csv"
    store = Store([folder], table)
    names = [record.name for record in store.shown()]
    store.decide([names[0]], label="clean", who="a")
    edited = table.read_text(encoding="utf-8").replace(",clean,", ",dusty,")
    table.write_text(edited, encoding="utf-8")
    store.decide([names[1]], label="artifact", who="a")
    assert "dusty" in store.problem
    assert table.read_text(encoding="utf-8") == edited
    with pytest.raises(ArtSegError, match="dusty"):
        Store([folder], table)
    table.write_text(edited.replace(",dusty,", ",clean,"), encoding="utf-8")
    assert labels_of(Store([folder], table)) == {names[0]: "clean", names[1]: "artifact"}


def test_people_who_disagree_make_an_image_unsure_until_most_agree(fields: Fields) -> None:
    folder = fields(3)
    table = folder / "labels.csv"
    store = Store([folder], table)
    name = store.shown()[0].name
    store.decide([name], label="clean", who="a")
    store.decide([name], label="artifact", who="b")
    assert (store.record(name).verdict()[0], store.record(name).conflict()) == ("unsure", True)
    store.decide([name], label="artifact", who="c")
    assert rows(table)[name]["label"] == "artifact"
    assert rows(table)[name]["annotator"] == "a;b;c"
    store.decide([name], label="", who="a")
    assert not store.record(name).conflict()


def test_unsure_images_are_not_trained_on(fields: Fields) -> None:
    folder = fields(6)
    store = Store([folder], folder / "labels.csv")
    names = [record.name for record in store.shown()]
    store.decide(names[:2], label="clean", who="a")
    store.decide(names[2:4], label="artifact", who="a")
    store.decide(names[4:], label="unsure", who="a")
    assert {image.path.name for image in read_labels(folder / "labels.csv").images} == set(names[:4])


def test_near_duplicates_share_a_group_and_a_split(fields: Fields, write_field: Fields) -> None:
    folder = fields(12)
    write_field(folder / "Feld 0 noch einmal.tif", 0, artifact=True)
    store = Store([folder], folder / "labels.csv")
    twins = Twins(store)
    twins.look()
    assert (twins.done, twins.total) == (13, 13)
    for record in store.shown():
        store.decide([record.name], label="artifact" if record.name.startswith("Feld 0 ") else "clean", who="a")
    found = rows(folder / "labels.csv")
    assert {name for name, row in found.items() if row["group"] != name} == {"Feld 0 noch einmal.tif"}
    assert found["Feld 0 noch einmal.tif"]["group"] == "Feld 0 artefakt.tif"
    for seed in range(5):
        shared = with_splits(read_labels(folder / "labels.csv"), seed=seed)
        assert len({image.split for image in shared.images if image.path.name.startswith("Feld 0 ")}) == 1
    store.set_aside(["Feld 0 noch einmal.tif"], "apart", "yes", who="a")
    assert rows(folder / "labels.csv")["Feld 0 noch einmal.tif"]["group"] == "Feld 0 noch einmal.tif"


def test_a_proposed_split_has_both_labels_in_each_part_and_stays(fields: Fields) -> None:
    folder = fields(30)
    store = Store([folder], folder / "labels.csv")
    for record in store.shown():
        store.decide([record.name], label="artifact" if "artefakt" in record.name else "clean", who="a")
    counts = store.propose_splits(who="a")
    assert all(counts[split][label] for split in ("train", "validation", "test") for label in ("clean", "artifact"))
    before = {name: row["split"] for name, row in rows(folder / "labels.csv").items()}
    assert all(before.values())
    again = Store([folder], folder / "labels.csv")
    again.propose_splits(who="a", seed=7)
    assert {name: row["split"] for name, row in rows(folder / "labels.csv").items()} == before


def test_the_folder_may_change_meanwhile(fields: Fields, write_field: Fields) -> None:
    folder = fields(4)
    store = Store([folder], folder / "labels.csv")
    names = [record.name for record in store.shown()]
    store.decide([names[0]], label="clean", who="a")
    (folder / names[0]).rename(folder.parent / "away.tif")
    write_field(folder / "neu" / "new one.tif", 99)
    store.rescan()
    assert {record.name for record in store.shown()} == {*names[1:], "neu/new one.tif"}
    with pytest.raises(ArtSegError, match="none of the images"):
        store.decide([names[0]], label="artifact", who="a")
    assert rows(folder / "labels.csv")[names[0]]["label"] == "clean"  # the label outlives the file
    (folder.parent / "away.tif").rename(folder / names[0])
    store.rescan()
    assert labels_of(store) == {names[0]: "clean"}


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes to play a full disk with")
def test_a_full_disk_costs_the_last_decision_alone_and_says_so(fields: Fields) -> None:
    import resource

    folder = fields(3)
    store = Store([folder], folder / "labels.csv")
    names = [record.name for record in store.shown()]
    store.decide([names[0]], label="clean", who="a")
    history = history_path(folder / "labels.csv")
    kept = history.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 20, before[1]))
    try:
        with pytest.raises(ArtSegError, match="The decision is not saved, all earlier ones are"):
            store.decide([names[1]], label="artifact", who="a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert history.read_bytes() == kept
    assert labels_of(store) == {names[0]: "clean"}
    store.decide([names[1]], label="artifact", who="a")
    assert labels_of(Store([folder], folder / "labels.csv")) == {names[0]: "clean", names[1]: "artifact"}


def test_a_table_that_cannot_be_written_is_told_and_follows_later(
    fields: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fields(3)
    store = Store([folder], folder / "labels.csv")
    names = [record.name for record in store.shown()]

    def full(path: Path, text: str) -> None:
        raise ArtSegError(f"Could not write {path}: No space left on device.")

    with monkeypatch.context() as patched:
        patched.setattr("artseg_models.labelling.store.write_text", full)
        store.decide([names[0]], label="clean", who="a")
    assert "No decision is lost" in store.problem
    store.decide([names[1]], label="artifact", who="a")
    assert store.problem == ""
    assert set(rows(folder / "labels.csv")) == set(names[:2])


def test_a_folder_without_images_and_a_damaged_history_are_refused(tmp_path: Path, fields: Fields) -> None:
    with pytest.raises(ArtSegError, match=r"Expected images in .*none"):
        Store([tmp_path / "nothing"], tmp_path / "labels.csv")
    folder = fields(2)
    history_path(folder / "labels.csv").write_text("no json\n")
    with pytest.raises(ArtSegError, match="no json"):
        Store([folder], folder / "labels.csv")
    newer = {"image": "a.tif", "what": "mood", "value": "good"}
    history_path(folder / "labels.csv").write_text(json.dumps(newer) + "\n")
    with pytest.raises(ArtSegError, match="Update artseg"):
        Store([folder], folder / "labels.csv")
