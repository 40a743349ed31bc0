"""The page in a real browser: labelled by keys alone, over a crash, in two windows, by everyone."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from artseg_models.images import write_image
from artseg_models.labels import read_labels, read_mask
from artseg_models.provenance import read_history
from artseg_models.segment import COLUMNS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TINY: dict[str, Any] = {
    "binning": 2,
    "classifier": {"depth": 10, "width": 4, "schedule": {"epochs": 1, "batch": 8}},
    "scorecam": {"groups": 8},
    "unet": {"width": 4, "levels": 3, "schedule": {"epochs": 1, "batch": 8}, "crop": 32},
}
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
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open, tmp_path: Path
) -> None:
    from artseg_models.methods import train

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
    run = train(table, tmp_path / "run", overrides=TINY)
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


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1920, 1080)])
def test_every_control_has_a_name_and_nothing_is_cut(
    fields: Callable[..., Path],
    write_field: Callable[..., Path],
    label: Callable[..., Any],
    opened: Open,
    width: int,
    height: int,
) -> None:
    folder = fields(6)
    write_field(folder / "Feld 0 noch einmal.tif", 0, artifact=True)
    page = opened(label(folder, "--kinds", "dust,fibre,bubble", "--order", "name").address, width, height)
    page.wait_for_selector("#twins:not([hidden])", timeout=20000)
    assert unnamed_controls(page) == []
    assert cut_controls(page) == []
    for tab in page.query_selector_all("[role=tab]:not([hidden])"):
        tab.click()
        page.wait_for_timeout(200)
        assert unnamed_controls(page) == []
        assert cut_controls(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_masks_are_judged_in_the_browser(
    fields: Callable[..., Path], label: Callable[..., Any], opened: Open, tmp_path: Path
) -> None:
    """The mask follows the cutoff; what is painted is in the accepted mask, pixel by pixel."""
    folder = fields(2)
    probability = np.full((64, 80), 0.1, dtype=np.float32)
    probability[10:20, 10:30] = 0.9
    probability[40:50, 50:70] = 0.5
    out = tmp_path / "masks"
    rows = []
    for image in sorted(folder.glob("*.tif")):
        write_image(out / f"{image.stem}_probability.tif", probability)
        rows.append(dict.fromkeys(COLUMNS, "") | {"image": str(image), "cutoff": "0.4", "smallest_artifact_px": "5"})
    with open(out / "segmentation.csv", "w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
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
    assert "2 strokes" in page.inner_text("#found")
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
    assert np.mean(mask[:, 15:] != expected[:, 15:]) < 0.01
    assert not mask[15, 10:14].any()
    assert not mask[45, 60]
