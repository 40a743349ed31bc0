"""The page in a real browser: labelled by keys alone, over a crash, in two windows, by everyone."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from artseg_models.annotations import geojson_of, via_entry
from artseg_models.images import write_image
from artseg_models.labelling.store import Store
from artseg_models.labels import read_labels, read_mask
from artseg_models.provenance import read_history
from artseg_models.segment import COLUMNS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CONTROLS = {"button", "checkbox", "combobox", "slider", "tab", "textbox", "spinbutton", "switch", "radio", "menuitem"}

Open = Callable[..., "Page"]


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Open]:
    """Open a page; a script error on it fails the test."""
    errors: list[str] = []
    contexts: list[Any] = []

    def make(address: str, width: int = 1366, height: int = 768) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#stage img, #message:not([hidden])")
        return page

    yield make
    for context in contexts:
        context.close()
    assert errors == []


def shown(page: Page) -> str:
    return page.inner_text("#name")


def decide(page: Page) -> str:
    """Press the key for the shown image, as its name says, and wait for the next one; gives the image's name."""
    name = shown(page)
    page.keyboard.press("a" if "artefakt" in name else "c")
    page.wait_for_function("name => document.getElementById('name').textContent !== name", arg=name)
    return name


def test_a_hundred_images_by_keys_with_a_crash_in_the_middle(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open, tmp_path: Path, tiny: list[str]
) -> None:
    from artseg_models.methods import train
    from artseg_models.training.configuration import parse_overrides

    folder = fields(100)
    table = folder / "labels.csv"
    server = label(folder, "--name", "anna")
    page = opened(server.address)
    done = [decide(page) for _ in range(41)]
    server.kill()
    lost = shown(page)
    page.keyboard.press("c")
    page.wait_for_selector("#banner:not([hidden])")
    assert "The server has ended" in page.inner_text("#banner")
    assert shown(page) == lost  # what is not saved is not passed over
    server = label(folder, "--name", "anna")
    page = opened(server.address)
    assert shown(page) == lost  # the same place
    done += [decide(page) for _ in range(59)]
    assert "Every image has a label" in page.inner_text("#message")

    assert max(Counter(done).values()) == 1
    history = read_history(table)
    assert Counter(one.image for one in history) == Counter(path.name for path in folder.glob("*.tif"))
    assert all(one.who == "anna" and one.seconds is not None and one.seconds > 0 for one in history)
    with open(table, encoding="utf-8", newline="") as opened_table:
        rows = list(csv.DictReader(opened_table))
    assert len(rows) == 100
    assert all((row["label"] == "artifact") == ("artefakt" in row["image"]) for row in rows)
    run = train(table, tmp_path / "run", overrides=parse_overrides(tiny))
    assert (run / "result.json").exists()


def test_two_windows_share_the_work(fields: Callable[..., Path], label: Callable[..., Any], opened: Open) -> None:
    folder = fields(16)
    address = label(folder).address
    pages = [opened(address), opened(address)]
    done = []
    for turn in range(14):
        page = pages[turn % 2]
        done.append(decide(page))
    assert max(Counter(done).values()) == 1
    assert Counter(one.image for one in read_history(folder / "labels.csv")) == Counter(done)


def test_everything_goes_by_keys(fields: Callable[..., Path], label: Callable[..., Any], opened: Open) -> None:
    folder = fields(9)
    page = opened(label(folder, "--kinds", "dust,fibre", "--order", "name").address)
    page.keyboard.press("2")
    page.wait_for_function("() => document.getElementById('name').textContent.startsWith('Feld 1 ')")
    page.keyboard.press("s")
    page.wait_for_function("() => document.getElementById('name').textContent.startsWith('Feld 2 ')")
    page.keyboard.press("b")
    page.wait_for_function("() => document.getElementById('name').textContent.startsWith('Feld 1 ')")
    page.keyboard.press("u")
    page.wait_for_function("() => document.getElementById('name').textContent.startsWith('Feld 2 ')")
    page.keyboard.press("r")
    page.wait_for_selector("#raw[aria-pressed=true]")
    page.keyboard.press("]")
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    assert "scale(1.4)" in (page.get_attribute("#stage img", "style") or "")
    page.keyboard.press("b")
    page.wait_for_function("() => document.getElementById('standing').textContent.startsWith('unsure')")
    page.keyboard.press("Delete")
    page.wait_for_function("() => document.getElementById('standing').textContent === 'not labelled yet'")
    # the grid: two by hand, then all others
    page.keyboard.press("v")
    page.wait_for_selector("#cells .cell")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("a")
    page.wait_for_function("() => document.querySelectorAll('#cells .cell').length === 6")
    page.keyboard.press("x")
    page.keyboard.press("c")
    page.wait_for_function("() => document.querySelectorAll('#cells .cell').length === 0")
    with open(folder / "labels.csv", encoding="utf-8", newline="") as table:
        rows = {row["image"].split()[1]: row for row in csv.DictReader(table)}
    assert {number: row["label"] for number, row in rows.items()} == {
        **dict.fromkeys("345678", "clean"),
        **dict.fromkeys("012", "artifact"),
    }
    assert rows["0"]["kind"] == "fibre"
    assert rows["5"]["seconds"] == ""


def test_an_image_that_cannot_be_shown_is_skipped_and_left_out(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open
) -> None:
    folder = fields(3)
    (folder / "Feld 0 aa kaputt.tif").write_bytes(b"II*\x00")
    (folder / "Feld 1 zz kaputt.tif").write_bytes(b"")
    page = opened(label(folder, "--order", "name").address)
    page.wait_for_function("() => document.getElementById('message').textContent.includes('cannot be shown')")
    page.keyboard.press("c")
    page.keyboard.press("s")
    page.wait_for_function("() => document.getElementById('name').textContent.startsWith('Feld 0 artefakt')")
    # the second one was tried ahead, and is passed over
    assert [decide(page) for _ in range(3)] == ["Feld 0 artefakt.tif", "Feld 1 ok.tif", "Feld 2 ok.tif"]
    assert "Every image has a label" in page.inner_text("#message")
    assert "2 cannot be shown" in page.inner_text("#counts")
    assert len(read_history(folder / "labels.csv")) == 3
    page.select_option("#filter", "error")
    page.wait_for_function(
        "() => document.getElementById('message').textContent.includes('0 bytes') || "
        "document.getElementById('name').textContent.includes('kaputt')"
    )


def tab_to(page: Page, selector: str) -> None:
    """Go to a control as somebody without a mouse does."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} cannot be reached by the Tab key")


@pytest.mark.slow
def test_from_labels_to_a_model_in_cellprofilers_folder_by_keys_alone(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open, tmp_path: Path, tiny: list[str]
) -> None:
    folder = fields(40)
    store = Store([folder], folder / "labels.csv")
    for record in store.shown():
        store.decide([record.name], label="artifact" if "artefakt" in record.name else "clean", who="anna")
    (folder / "Feld 7 kaputt.tif").write_bytes(b"II*\x00")
    (tmp_path / "plugins").mkdir()
    settings = [part for setting in tiny for part in ("--set", setting)]
    page = opened(label(folder, *settings).address)

    def run(job: str, told: str) -> None:
        """Press Enter on a button, and wait until nothing runs."""
        page.keyboard.press("Enter")
        named = "job => document.getElementById('job-name').textContent.startsWith(job)"
        page.wait_for_function(named, arg=job)
        ended = "() => !document.getElementById('job-name').textContent.endsWith('runs …')"
        page.wait_for_function(ended, timeout=900_000)  # it gives way to other work on the computer
        assert page.inner_text("#job-name") == told, page.inner_text("#job-log")

    tab_to(page, "[role=tab]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#model .act[data-step=learn]:not([disabled])")
    tab_to(page, "#model .act[data-step=learn]")
    # one image is broken: the others have been looked at
    run("Training", "Looking at all images with the model: done, but not for every image (see below)")
    assert page.locator("#curves svg").count() == 2
    page.wait_for_selector("#model .act[data-step=export]:not([disabled])")
    tab_to(page, "#model .act[data-step=export]")
    run("Export", "Export: done")
    tab_to(page, "#install-folder")
    page.keyboard.type(str(tmp_path / "plugins"))
    tab_to(page, "#model .act[data-step=install]")
    # it follows what is typed a little later
    told = "folder => document.querySelector('.command[data-of=install]').textContent.endsWith(folder)"
    page.wait_for_function(told, arg=str(tmp_path / "plugins"))
    command = page.inner_text(".command[data-of=install]")
    run("Installation", "Installation into CellProfiler: done")
    assert command == f"artseg cellprofiler install --plugins-folder {tmp_path / 'plugins'}"
    assert (tmp_path / "plugins" / "segmentartifacts.py").exists()
    assert (folder / "artseg-models" / "run-1-unet.zip").exists()
    # the model helps from now on
    page.keyboard.press("v")
    said = "() => document.getElementById('learning-said').textContent.startsWith('The model has looked at 40 images')"
    page.wait_for_function(said)


def test_people_see_how_far_they_agree_and_look_at_where_they_do_not(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open
) -> None:
    folder = fields(4)
    store = Store([folder], folder / "labels.csv", order="name")
    names = [record.name for record in store.shown()]
    for who, artifacts in (("anna", (0, 1)), ("ben", (0,))):
        for number, name in enumerate(names):
            store.decide([name], label="artifact" if number in artifacts else "clean", who=who)
    page = opened(label(folder, "--order", "name", "--name", "anna").address)
    page.click("#tab-model")
    page.wait_for_selector("#conflicts:not([hidden])")
    assert page.inner_text("#people").splitlines() == [
        "anna: 4 images",
        "ben: 4 images",
        "anna and ben: 3 of 4 images alike, Cohen's kappa 0.50",
        "1 images on which people disagree; where as many say otherwise, they are not trained on",
    ]
    tab_to(page, "#conflicts")
    page.keyboard.press("Enter")
    page.wait_for_function("name => document.getElementById('name').textContent === name", arg=names[1])
    assert page.inner_text("#standing") == "artifact (anna), clean (ben): people disagree"


def test_the_page_says_that_a_training_tells_kinds_apart(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open
) -> None:
    folder = fields(10)
    store = Store([folder], folder / "labels.csv", order="name")
    for number, record in enumerate(store.shown()):
        store.decide([record.name], label="artifact", kind=("dust", "fibre")[number % 2], who="anna")
    page = opened(label(folder, "--order", "name", "--name", "anna").address)
    page.click("#tab-model")
    page.wait_for_function("() => document.getElementById('model-labels').textContent.includes('10 artifact')")
    assert page.inner_text("#model-labels").endswith(" The training tells kinds apart: dust, fibre.")
    # it is said once, however often the page looks
    page.wait_for_timeout(2000)
    assert page.inner_text("#model-labels").count("The training tells") == 1


# as VIA 2 draws the shapes of an image, corner by corner, and as every reader of GeoJSON fills a polygon with holes
FILLED = """({ shapes, rule, width, height }) => {
    const context = new OffscreenCanvas(width * 4, height * 4).getContext('2d');
    context.scale(4, 4);
    for (const rings of shapes) {
        context.beginPath();
        for (const ring of rings) {
            ring.forEach(([x, y], at) => at ? context.lineTo(x, y) : context.moveTo(x, y));
            context.closePath();
        }
        context.fill(rule);
    }
    const { data } = context.getImageData(0, 0, width * 4, height * 4);
    // the middle of each pixel
    return Array.from({ length: height }, (_, y) => Array.from({ length: width },
        (_, x) => data[4 * ((4 * y + 2) * width * 4 + 4 * x + 2) + 3] > 127));
}"""


def test_exported_shapes_are_the_mask_when_another_program_fills_them(chromium: Browser, tmp_path: Path) -> None:
    """Blobs with holes and corners that touch, filled by Chromium instead of by what reads them here."""
    mask = np.kron(np.random.default_rng(0).random((12, 15)) > 0.6, np.ones((6, 6), dtype=bool))
    (tmp_path / "field.tif").touch()
    regions = via_entry(tmp_path / "field.tif", mask)[1]["regions"]
    shapes = [one["shape_attributes"] for one in regions]
    # pixel centres at whole numbers
    via = [
        [[(x + 0.5, y + 0.5) for x, y in zip(one["all_points_x"], one["all_points_y"], strict=True)]] for one in shapes
    ]
    geometries = [feature["geometry"] for feature in geojson_of(mask)["features"]]
    rings = [
        polygon
        for one in geometries
        for polygon in ([one["coordinates"]] if one["type"] == "Polygon" else one["coordinates"])
    ]
    page = chromium.new_page()
    for drawn, rule in ((via, "nonzero"), (rings, "evenodd")):
        filled = page.evaluate(FILLED, {"shapes": drawn, "rule": rule, "width": 90, "height": 72})
        np.testing.assert_array_equal(np.array(filled), mask)
    page.close()


def unnamed_controls(page: Page) -> list[str]:
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if not node.get("ignored") and node["role"]["value"] in CONTROLS]
    assert len(controls) > 5
    return [str(node) for node in controls if not node.get("name", {}).get("value", "").strip()]


def cut_controls(page: Page) -> list[str]:
    """Controls in view that reach beyond the window, or whose text does not fit."""
    return page.evaluate(
        """() => [...document.querySelectorAll('header *, aside *, .bar *, footer *')]
            .filter((one) => one.matches('button, input, select, span, strong') && one.getClientRects().length
                && !one.matches('.unseen, #name, .place, #folder'))
            .filter((one) => {
                const box = one.getBoundingClientRect();
                return box.right > innerWidth + 1 || box.bottom > innerHeight + 1 || box.left < -1
                    || (one.matches('button') && one.scrollWidth > one.clientWidth + 1);
            }).map((one) => one.outerHTML)"""
    )


def test_every_control_has_a_name_and_nothing_is_cut(
    fields: Callable[..., Path], write_field: Callable[..., Path], label: Callable[..., Any], opened: Open
) -> None:
    folder = fields(6)
    write_field(folder / "Feld 0 noch einmal.tif", 0, artifact=True)
    page = opened(label(folder, "--kinds", "dust,fibre,bubble", "--order", "name").address)
    page.wait_for_selector("#twins:not([hidden])", timeout=20000)
    for width, height in ((1366, 768), (1920, 1080)):
        page.set_viewport_size({"width": width, "height": height})
        for tab in page.query_selector_all("[role=tab]"):
            tab.click()
            page.wait_for_timeout(200)
            assert unnamed_controls(page) == []
            assert cut_controls(page) == []
        page.keyboard.press("?")
        assert page.evaluate("() => document.getElementById('keys').scrollHeight <= innerHeight")
        page.keyboard.press("Escape")
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def write_results(folder: Path, out: Path, probability: np.ndarray, verdicts: dict[str, str] | None = None) -> None:
    """Write what `artseg segment` writes: the same map for each image, and what a classifier says of it."""
    rows = []
    for image in sorted(folder.glob("*.tif")):
        write_image(out / f"{image.stem}_probability.tif", probability)
        row = dict.fromkeys(COLUMNS, "") | {"image": str(image), "cutoff": "0.4", "smallest_artifact_px": "5"}
        if verdicts is not None:
            row |= {"artifact_probability": verdicts[image.name], "gate_threshold": "0.5"}
        rows.append(row)
    with open(out / "segmentation.csv", "w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_the_model_helps_without_swaying(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open, tmp_path: Path
) -> None:
    """Doubtful images first, the guess hidden until one has decided, a second look where model and person disagree."""
    folder = fields(6)
    run = folder / "artseg-runs" / "run-1"
    (run / "packages").mkdir(parents=True)
    (run / "configuration.json").write_text("{}")
    (run / "packages" / "run-1-unet.zip").touch()
    verdicts = {
        **{f"Feld {number} artefakt.tif": "0.9" for number in (0, 3)},
        **{"Feld 1 ok.tif": "0.8", "Feld 2 ok.tif": "0.45", "Feld 4 ok.tif": "0.05", "Feld 5 ok.tif": "0.1"},
    }
    write_results(folder, run / "segmented", np.full((64, 80), 0.1, dtype=np.float32), verdicts)
    page = opened(label(folder, "--order", "name", "--name", "anna").address)
    page.wait_for_function("() => document.getElementById('learning-said').textContent.includes('looked at 6 images')")
    assert shown(page) == "Feld 2 ok.tif"  # where the model doubts most
    assert page.inner_text("#standing") == "not labelled yet"
    done = [decide(page) for _ in range(6)]
    assert done[:2] == ["Feld 2 ok.tif", "Feld 1 ok.tif"]
    page.keyboard.press("b")
    page.wait_for_function("() => document.getElementById('standing').textContent.includes('the model says')")
    page.wait_for_function("() => document.getElementById('learning-said').textContent.includes('disagrees with 1 of')")
    page.click("#second-look")
    page.wait_for_function("() => document.getElementById('name').textContent === 'Feld 1 ok.tif'")
    assert page.inner_text("#standing") == "clean (anna); the model says artifact"
    page.keyboard.press("c")  # the person remains of their opinion, and is not asked again
    page.wait_for_function("() => document.getElementById('message').textContent.includes('nothing more to look at')")
    assert all(
        row.value == ("artifact" if "artefakt" in row.image else "clean") for row in read_history(folder / "labels.csv")
    )


def test_masks_from_elsewhere_come_in_by_a_button_and_are_painted_by_keys(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open, tmp_path: Path
) -> None:
    folder = fields(3)
    page = opened(label(folder, "--order", "name", "--name", "anna").address)
    page.click("#tab-results")
    page.wait_for_function("() => document.getElementById('results-message').textContent.includes('No masks yet')")
    assert unnamed_controls(page) == []
    mask = np.zeros((64, 80), dtype=bool)
    mask[10:20, 30:50] = True
    write_image(tmp_path / "Feld 1 ok_mask.png", mask)
    write_image(tmp_path / "stranger.png", mask)
    page.set_input_files("#import-files", [tmp_path / "Feld 1 ok_mask.png", tmp_path / "stranger.png"])
    page.wait_for_function("() => document.getElementById('exported').textContent.startsWith('1 masks')")
    assert page.inner_text("#exported").endswith("no image is named like stranger.png")
    assert page.inner_text("#exported-command").startswith("artseg labels import ")
    page.wait_for_function("() => document.getElementById('result-standing').textContent.includes('not looked at')")
    assert page.is_disabled("#cutoff")
    # a dab of the brush, moved to by keys from the middle, and a triangle of three corners
    page.keyboard.press("p")
    page.fill("#radius", "8")
    page.focus("#canvas-stage")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    page.keyboard.press("l")
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press("Space")
        for _ in range(4):
            page.keyboard.press(key)
    assert "3 corners" in page.inner_text("#drawing-said")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('found').textContent.endsWith('2 strokes')")
    page.keyboard.press("a")
    page.wait_for_function("() => document.getElementById('found').textContent.endsWith('in all')")  # saved, shown anew
    (image,) = read_labels(folder / "labels.csv").images
    painted = read_mask(image, shape=(64, 80))
    assert painted[mask].all()
    assert painted[32, 20]
    assert painted[34, 30]
    assert not painted[45, 22]
    for wrong, said in (("notes.txt", "Expected the JSON"), ("other.png", "none is")):
        (tmp_path / wrong).write_bytes((tmp_path / "stranger.png").read_bytes())
        page.set_input_files("#import-files", [tmp_path / wrong])
        page.wait_for_function("said => document.getElementById('banner').textContent.includes(said)", arg=said)


def test_masks_are_judged_in_the_browser(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open, tmp_path: Path
) -> None:
    """The mask follows the cutoff; what is painted is in the accepted mask, pixel by pixel."""
    folder = fields(2)
    probability = np.full((64, 80), 0.1, dtype=np.float32)
    probability[10:20, 10:30] = 0.9
    probability[40:50, 50:70] = 0.5
    out = tmp_path / "masks"
    write_results(folder, out, probability)
    page = opened(label(out, "--order", "name", "--name", "anna").address)
    page.click("#tab-results")
    page.wait_for_function("() => document.getElementById('found').textContent.startsWith('2 found')")
    assert unnamed_controls(page) == []
    assert cut_controls(page) == []
    page.fill("#cutoff", "0.7")
    page.wait_for_function("() => document.getElementById('found').textContent.startsWith('1 found')")
    page.keyboard.press("e")
    box = page.locator("#layers").bounding_box()
    assert box is not None

    def drag(points: list[tuple[float, float]]) -> None:
        places = [(box["x"] + x / 80 * box["width"], box["y"] + y / 64 * box["height"]) for x, y in points]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()

    page.fill("#radius", "3")
    drag([(10, 15), (12, 15)])
    page.keyboard.press("l")
    drag([(60, 5), (75, 5), (75, 15), (60, 15)])
    # corner by corner, the last one clicked twice
    for x, y in ((20, 30), (30, 30), (30, 36)):
        page.mouse.click(box["x"] + x / 80 * box["width"], box["y"] + y / 64 * box["height"])
    page.mouse.dblclick(box["x"] + 20 / 80 * box["width"], box["y"] + 36 / 64 * box["height"])
    page.wait_for_function("() => document.getElementById('found').textContent.includes('3 strokes')")
    page.keyboard.press("a")
    page.wait_for_function("() => document.getElementById('result-standing').textContent.includes('1 judged')")
    page.keyboard.press("c")
    page.wait_for_function("() => document.getElementById('result-standing').textContent.includes('2 judged')")
    artifact, clean = read_labels(out / "labels.csv").images
    assert clean.label == "clean"
    mask = read_mask(artifact, shape=(64, 80))
    expected = np.zeros((64, 80), dtype=bool)
    expected[10:20, 15:30] = True
    expected[5:15, 60:75] = True
    expected[30:36, 20:30] = True
    assert np.mean(mask[:, 15:] != expected[:, 15:]) < 0.01
    assert not mask[15, 10:14].any()
    assert not mask[45, 60]
