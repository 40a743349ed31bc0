"""From labels to a model by the page's buttons: train, look at all images, export, install; masks judged and kept."""

from __future__ import annotations

import csv
import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from skimage import draw
from typer.testing import CliRunner

from artseg_models.annotations import geojson_of, mask_of_geojson, paint, via_entry
from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.images import read_mask_image, write_image
from artseg_models.labelling.importing import import_masks
from artseg_models.labelling.jobs import Job, Jobs
from artseg_models.labelling.model import Asked, ModelPanel
from artseg_models.labelling.results import Exported, Judged, ResultsPanel, Stroke
from artseg_models.labelling.store import Store
from artseg_models.labels import LabelledImage, MaskSource, kinds_of, read_labels, read_mask
from artseg_models.segment import COLUMNS

Fields = Callable[..., Path]


def wait(panel: ModelPanel, name: str = "") -> dict[str, Any]:
    """Wait until nothing runs, or until what runs is called so."""
    for _ in range(9000):  # it gives way to other work on the computer
        state = panel.state()
        if (state["job"]["name"] == name) if name else not panel.jobs.running():
            return state
        time.sleep(0.1)
    raise AssertionError(panel.state())


def labelled(folder: Path, count: int) -> Store:
    store = Store([folder], folder / "labels.csv", order="name")
    for record in store.shown()[:count]:
        store.decide([record.name], label="artifact" if "artefakt" in record.name else "clean", who="a")
    return store


def test_a_training_tells_kinds_apart_where_two_are_named_often_enough(fields: Fields) -> None:
    store = labelled(fields(30), 30)
    spoilt = [record.name for record in store.shown() if "artefakt" in record.name]
    assert len(spoilt) == 10

    def told(*settings: str) -> tuple[list[str], bool]:
        panel = ModelPanel(store, settings=settings)
        command = panel.commands([Asked(step="train")])["train"]
        return panel.state()["kinds"], "--kinds" in shlex.split(command)

    for at, name in enumerate(spoilt[:9]):
        store.decide([name], label="artifact", kind="fibre" if at % 2 else "dust", who="a")
    assert told() == ([], False)  # four fibres
    store.decide([spoilt[9]], label="artifact", kind="fibre", who="a")
    assert told() == (["dust", "fibre"], True)
    assert kinds_of(read_labels(store.table).images) == ("dust", "fibre")
    assert told("unet.width=4", "kinds=false") == ([], False)  # somebody decided otherwise
    store.decide([spoilt[9]], label="clean", who="a")
    assert told() == ([], False)


@pytest.mark.slow
def test_a_training_that_is_stopped_goes_on_by_another_server_too(fields: Fields, tiny: list[str]) -> None:
    """One step trains and looks at all images; stopped, and by another server than began it, it goes on."""
    folder = fields(15)
    (folder / "kaputt.tif").write_bytes(b"II*\x00")
    store = labelled(folder, 2)
    shown = ResultsPanel(store)
    panel = ModelPanel(store, settings=tiny, segmented=shown.open)
    assert panel.commands([Asked(step="doubt"), Asked(step="resume")]) == {"doubt": "", "resume": ""}
    with pytest.raises(ArtSegError, match="at least two clean and two artifact"):
        panel.start(Asked(step="learn"))
    store = labelled(folder, 13)
    panel = ModelPanel(store, settings=tiny, segmented=shown.open)
    train, segment = panel.commands([Asked(step="learn")])["learn"].splitlines()
    assert train.startswith("artseg train ")
    assert segment.startswith("artseg segment ")
    panel.start(Asked(step="learn"))
    with pytest.raises(ArtSegError, match="Training still runs"):
        panel.start(Asked(step="install"))
    for _ in range(9000):
        if (folder / "artseg-runs" / "run-1" / "splits.csv").exists():
            break
        time.sleep(0.1)
    assert panel.stop()["job"]["stopped"]
    assert panel.state()["unfinished"] == "run-1"
    # labelling goes on; the stopped training goes on with the labels that it began with
    store.decide([store.shown()[13].name], label="clean", who="a")
    assert "run-1/splits.csv" in panel.commands([Asked(step="resume")])["resume"]
    panel.start(Asked(step="resume"))
    # another server finds what runs, as after the first was killed, and does what was to follow
    following = ModelPanel(Store([folder], folder / "labels.csv"), settings=tiny)
    assert following.jobs.running()
    for one in (panel, following):  # whichever began the last command knows how it ended
        wait(one)
    state = panel.state()
    assert (state["run"], state["sheet"], state["unfinished"]) == ("run-1", True, "")
    assert {network: epochs[-1][:2] for network, epochs in state["losses"].items()} == {
        "Classifier": (2, 2),
        "U-Net": (2, 2),
    }
    assert panel.sheet("run-1").body[:4] == b"\x89PNG"
    with pytest.raises(ArtSegError, match="no picture"):
        panel.sheet("../run-1")
    # one image is broken: the command says so, and the others are there
    assert (state["job"]["failed"], state["job"]["partly"]) == (True, True)
    assert "kaputt.tif" in state["job"]["log"]
    assert state["guesses"] == 15
    assert all(0 <= record.guess[0] <= 1 for record in store.shown() if record.guess)
    assert {one["name"] for one in shown.listed()} == {record.name for record in store.shown() if record.guess}
    store.rescan()  # what was written beside the images is not to be labelled
    assert len(store.shown()) == 16
    export = panel.commands([Asked(step="export", folder="models")])["export"]
    assert shlex.split(export) == ["artseg", "export", str(folder / "artseg-runs" / "run-1"), "--out", "models"]


def test_a_page_that_is_told_to_end_takes_its_training_along(
    fields: Fields, label: Callable[..., Any], tiny: list[str]
) -> None:
    """As when somebody logs out: nothing goes on unseen, and the next page offers to go on."""
    folder = fields(12)
    labelled(folder, 12)
    server = label(folder, *(part for setting in tiny for part in ("--set", setting)))
    address = httpx.URL(server.address)
    bearer = {"Authorization": f"Bearer {address.params['token']}"}
    started = httpx.post(address.copy_with(path="/api/model/start", query=None), json={"step": "learn"}, headers=bearer)
    assert started.json()["job"]["running"]
    training = psutil.Process(json.loads((folder / "artseg-runs" / "job.json").read_text())["pid"])
    assert server.terminate() == 143
    assert not training.is_running()
    state = ModelPanel(Store([folder], folder / "labels.csv"), settings=tiny).state()
    assert (state["job"]["running"], state["job"]["stopped"], state["unfinished"]) == (False, True, "run-1")


def test_a_command_that_fails_says_so_and_nothing_follows(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "job.json")
    jobs.start([Job("First", ["labels", "check", str(tmp_path / "nothing.csv")]), Job("Second", ["--help"])])
    while jobs.running():
        time.sleep(0.05)
    state = jobs.state()
    assert (state["name"], state["failed"], state["partly"]) == ("First", True, False)
    assert "nothing.csv" in state["log"]
    # a number of a process that another program has meanwhile is not ours
    told = json.loads((tmp_path / "job.json").read_text())
    (tmp_path / "job.json").write_text(json.dumps(told | {"pid": os.getpid()}))
    assert not Jobs(tmp_path / "job.json").running()


# ---- masks ----


def discs(shape: tuple[int, int]) -> np.ndarray:
    """Two artifacts, one with a hole."""
    mask = np.zeros(shape, dtype=bool)
    mask[draw.disk((20, 30), 12)] = True
    mask[draw.disk((20, 30), 5)] = False
    mask[50:60, 60:75] = True
    return mask


@pytest.fixture
def segmented(fields: Fields, tmp_path: Path) -> tuple[Store, ResultsPanel]:
    """Three images with maps as `artseg segment` writes them; the classifier called the second one clean."""
    folder = fields(3)
    out = tmp_path / "masks"
    images = sorted(folder.glob("*.tif"))
    rows = []
    for number, image in enumerate(images):
        write_image(out / f"{image.stem}_probability.tif", np.where(discs((64, 80)), 0.8, 0.1).astype(np.float32))
        row = dict.fromkeys(COLUMNS, "") | {"image": str(image), "cutoff": "0.5", "smallest_artifact_px": "10"}
        rows.append(row | {"artifact_probability": "0.2" if number == 1 else "0.9", "gate_threshold": "0.5"})
    failed = dict.fromkeys(COLUMNS, "") | {"image": str(folder / "bad.tif"), "error": "could not be read"}
    with open(out / "segmentation.csv", "w", encoding="utf-8", newline="") as opened:
        table = csv.DictWriter(opened, COLUMNS)
        table.writeheader()
        table.writerows([*rows, failed])
    store = Store([folder], folder / "labels.csv", order="name")
    return store, ResultsPanel(store, folder=out)


def test_an_accepted_mask_is_a_pixel_mask_of_the_table(segmented: tuple[Store, ResultsPanel]) -> None:
    store, panel = segmented
    listed = panel.listed()
    assert [one["gateOpen"] for one in listed] == [True, False, True]
    names = [one["name"] for one in listed]
    # only the ring is larger than 200 pixels; a stroke adds one, another takes a part of the ring away
    strokes = [
        Stroke(tool="brush", radius=3, points=[(10.5, 50.5), (30.5, 50.5)]),
        Stroke(tool="polygon", erase=True, points=[(25, 0), (35, 0), (35, 64), (25, 64)]),
    ]
    panel.judge(Judged(image=names[0], label="artifact", cutoff=0.5, smallest=200, strokes=strokes, who="a"))
    panel.judge(Judged(image=names[1], label="clean", cutoff=0.5, smallest=10, who="a"))
    panel.judge(Judged(image=names[2], label="unsure", cutoff=0.5, smallest=10, who="a"))
    accepted, clean = read_labels(store.table).images
    assert (accepted.label, clean.label, clean.mask) == ("artifact", "clean", None)
    mask = read_mask(accepted, shape=(64, 80))
    assert mask[20, 22]  # the ring
    assert mask[50, 15]  # painted
    assert not mask[55, 65]  # too small
    assert not mask[:, 26:34].any()  # erased
    assert [one["label"] for one in panel.listed()] == ["artifact", "clean", "unsure"]
    # judged again as clean, its mask is gone from the table
    panel.judge(Judged(image=names[0], label="clean", cutoff=0.5, smallest=10, who="a"))
    assert all(image.mask is None for image in read_labels(store.table).images)


def test_an_empty_mask_and_a_strange_image_are_refused(segmented: tuple[Store, ResultsPanel]) -> None:
    store, panel = segmented
    name = panel.listed()[0]["name"]
    with pytest.raises(ArtSegError, match="The mask is empty"):
        panel.judge(Judged(image=name, label="artifact", cutoff=1.0, smallest=10))
    with pytest.raises(ArtSegError, match="none of the images"):
        panel.judge(Judged(image="../labels.csv", label="clean", cutoff=1.0, smallest=10))
    with pytest.raises(ArtSegError, match="none yet"):
        panel.export(Exported(format="via"))
    assert not store.table.exists() or read_labels_count(store.table) == 0


def read_labels_count(table: Path) -> int:
    return len(table.read_text(encoding="utf-8").splitlines()) - 1


def test_exported_masks_come_back_as_they_were(segmented: tuple[Store, ResultsPanel], tmp_path: Path) -> None:
    store, panel = segmented
    name = panel.listed()[0]["name"]
    panel.judge(Judged(image=name, label="artifact", cutoff=0.5, smallest=10, who="a"))
    truth = discs((64, 80))
    folder = store.table.parent / "artseg-export"
    for kind in ("via", "geojson", "masks"):
        told = panel.export(Exported(format=kind))
        assert (told["images"], told["folder"]) == (1, str(folder))
        # the command that is shown writes the same
        command = [
            *shlex.split(told["command"])[1:2],
            "export",
            str(tmp_path / "again"),
            *shlex.split(told["command"])[4:],
        ]
        assert CliRunner().invoke(app, command).exit_code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()
    }
    image = store.record(name).path
    via = LabelledImage(image, "artifact", None, name, MaskSource(folder / "via.json"))
    np.testing.assert_array_equal(read_mask(via, shape=(64, 80)), truth)
    np.testing.assert_array_equal(mask_of_geojson(folder / f"{name}.geojson", shape=(64, 80)), truth)
    np.testing.assert_array_equal(read_mask_image(folder / f"{name}_mask.png") > 0, truth)


def test_shapes_of_any_mask_are_exact(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    blobs = np.kron(random.random((12, 15)) > 0.6, np.ones((6, 6), dtype=bool))
    image = write_image_file(tmp_path)
    key, entry = via_entry(image, blobs)
    assert key == f"{image.name}{image.stat().st_size}"
    (tmp_path / "via.json").write_text(json.dumps({key: entry}))
    item = LabelledImage(image, "artifact", None, "g", MaskSource(tmp_path / "via.json"))
    np.testing.assert_array_equal(read_mask(item, shape=blobs.shape), blobs)
    (tmp_path / "one.geojson").write_text(json.dumps(geojson_of(blobs)))
    np.testing.assert_array_equal(mask_of_geojson(tmp_path / "one.geojson", shape=blobs.shape), blobs)


def test_exports_have_the_form_that_the_annotator_and_qupath_read(tmp_path: Path) -> None:
    """As VIA 2.0 imports annotations, and QuPath 0.5 objects, by their sources; neither program runs here."""
    mask = discs((72, 90))
    key, entry = via_entry(write_image_file(tmp_path), mask)
    # the annotator drops an entry whose key is not name and size
    assert key == entry["filename"] + str(entry["size"])
    assert set(entry) == {"filename", "size", "regions", "file_attributes"}
    assert len(entry["regions"]) == 2
    for region in entry["regions"]:
        shape = region["shape_attributes"]
        assert shape["name"] == "polygon"
        assert len(shape["all_points_x"]) == len(shape["all_points_y"]) >= 3
        assert region["region_attributes"] == {"artifact": "artifact"}
    # a rectangle has four corners, not one for each pixel of its edge
    assert sorted(len(region["shape_attributes"]["all_points_x"]) for region in entry["regions"])[0] == 9
    collection = geojson_of(mask)
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == 2
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] == "Artifact"
        geometry = feature["geometry"]
        assert geometry["type"] == "Polygon"
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in geometry["coordinates"])


@pytest.mark.parametrize("kind", ["via", "geojson", "masks"])
def test_masks_drawn_elsewhere_are_taken_over(segmented: tuple[Store, ResultsPanel], tmp_path: Path, kind: str) -> None:
    store, panel = segmented
    name = panel.listed()[0]["name"]
    panel.judge(Judged(image=name, label="artifact", cutoff=0.5, smallest=10, who="a"))
    panel.export(Exported(format=kind))
    source = store.table.parent / "artseg-export"
    source.rename(tmp_path / "elsewhere")
    source = tmp_path / "elsewhere" / "via.json" if kind == "via" else tmp_path / "elsewhere"
    table = tmp_path / "again" / "labels.csv"
    command = ["labels", "import", str(store.table.parent), "--masks", str(source), "--out", str(table), "--name", "b"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    assert "1 masks and 0 clean images" in done.output
    (taken,) = read_labels(table).images
    np.testing.assert_array_equal(read_mask(taken, shape=(64, 80)), discs((64, 80)))
    with pytest.raises(ArtSegError, match="none is"):
        import_masks(store, tmp_path / "again", who="b")


def test_images_of_one_name_in_two_folders_keep_their_own_masks(tmp_path: Path) -> None:
    """Plates call their images alike: what is accepted, exported and imported for one is not the other's."""
    images = [tmp_path / "images" / plate / "A01.png" for plate in ("plate 1", "plate 2")]
    masks = [np.zeros((40, 50), dtype=bool), np.zeros((40, 50), dtype=bool)]
    masks[0][5:10, 5:20], masks[1][20:30, 30:40] = True, True
    for image, mask in zip(images, masks, strict=True):
        write_image(image, np.arange(2000, dtype=np.uint16).reshape(40, 50))
        write_image(tmp_path / "drawn" / f"{image.parent.name}_{image.name}_mask.png", mask)
    store = Store([tmp_path / "images"], tmp_path / "images" / "labels.csv")
    import_masks(store, tmp_path / "drawn", who="a")
    panel = ResultsPanel(store)
    for kind in ("via", "geojson", "masks"):
        assert panel.export(Exported(format=kind))["images"] == 2
        source = tmp_path / "images" / "artseg-export"
        again = Store([tmp_path / "images"], tmp_path / kind / "labels.csv")
        done = import_masks(again, source / "via.json" if kind == "via" else source, who="b")
        assert (len(done.labels), done.unused) == (2, [])
        for image, mask in zip(sorted(read_labels(again.table).images, key=lambda one: one.path), masks, strict=True):
            np.testing.assert_array_equal(read_mask(image, shape=(40, 50)), mask)
        for path in source.iterdir():
            path.unlink()
    # a name that fits both fits neither
    write_image(tmp_path / "one" / "A01_mask.png", masks[0])
    with pytest.raises(ArtSegError, match="none is"):
        import_masks(store, tmp_path / "one", who="b")
    (tmp_path / "via.json").write_text(json.dumps({"x": {"filename": "A01.png", "regions": []}}))
    with pytest.raises(ArtSegError, match="name of 2 images"):
        import_masks(store, tmp_path / "via.json", who="b")


def write_image_file(folder: Path) -> Path:
    write_image(folder / "field.png", np.arange(72 * 90, dtype=np.uint16).reshape(72, 90))
    return folder / "field.png"


def test_geojson_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.geojson"
    for text in ("no json", "{}", json.dumps({"geometry": {"type": "Point", "coordinates": [1, 2]}})):
        path.write_text(text)
        with pytest.raises(ArtSegError, match=r"x\.geojson"):
            mask_of_geojson(path, shape=(10, 10))


def test_strokes_count_in_their_order() -> None:
    empty = np.zeros((40, 40), dtype=bool)
    square = {"tool": "polygon", "erase": False, "points": [(5, 5), (35, 5), (35, 35), (5, 35)]}
    hole = {"tool": "brush", "radius": 4, "erase": True, "points": [(20.5, 20.5)]}
    assert paint(empty, [square]).sum() == 900
    assert not paint(empty, [square, hole])[20, 20]
    assert paint(empty, [hole, square])[20, 20]
    assert not empty.any()
