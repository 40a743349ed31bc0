"""The page of a collection in a real browser, from a web server and from a folder, and bioimageio.core by id."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from artseg_models.collection.markdown import to_html
from artseg_models.collection.store import add_packages
from artseg_models.files import sha256
from artseg_models.packages.read import read_package

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

UNET = "artseg-tiny-run-unet"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, packages: dict[str, Path], later: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "models"
    add_packages(folder, [packages["unet"], packages["older_unet"], packages["classifier"]])
    add_packages(folder, [later["unet"], later["older_unet"]])
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """A plain web server that knows nothing of models."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(site)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split("port ")[1].split()[0]
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.fixture(params=["served", "from a folder"])
def start(request: pytest.FixtureRequest, site: Path) -> str:
    return request.getfixturevalue("address") + "/" if request.param == "served" else (site / "index.html").as_uri()


@pytest.fixture(params=[(1366, 768), (1920, 1080), (390, 844)], ids=lambda size: f"{size[0]}px")
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


def opened(chromium: Browser, start: str, size: tuple[int, int] = (1366, 768)) -> tuple[Page, list[str]]:
    """Open the page; also give what the browser complained of, and what it fetched."""
    page = chromium.new_page(viewport={"width": size[0], "height": size[1]})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith(("data:", start)) else None)
    page.goto(start)
    return page, said


def test_it_shows_covers_and_cards_and_fetches_nothing_else(chromium: Browser, start: str) -> None:
    page, said = opened(chromium, start)
    assert page.get_by_role("heading", level=1).inner_text() == "Model collection"
    for name in ("unet", "classifier"):
        article = page.locator(f"#model-artseg-tiny-run-{name}")
        cover = article.get_by_role("img").first
        assert cover.evaluate("image => image.complete && image.naturalWidth") == 640
        assert article.get_by_text("labels.csv; train: 7 clean, 9 artifact").first.is_visible()
        card = article.get_by_text(f"Model card of artseg-tiny-run-{name}")
        text = article.get_by_role("heading", name="Intended use and limits")
        assert not text.is_visible()
        card.click()
        assert text.is_visible()
        assert article.get_by_role("table").first.is_visible()
    assert said == []
    page.close()


def test_everything_has_a_name_and_nothing_scrolls_sideways(
    chromium: Browser, start: str, size: tuple[int, int]
) -> None:
    page, _ = opened(chromium, start, size)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('a, summary, article, nav, section, img, ul[aria-label]')].filter(e => "
        "!(e.getAttribute('aria-label') || e.getAttribute('alt') || e.innerText.trim() || "
        "document.getElementById(e.getAttribute('aria-labelledby')))).length"
    )
    assert unnamed == 0
    names = page.evaluate("[...document.querySelectorAll('a[download], summary')].map(e => e.innerText)")
    assert len(set(names)) == len(names)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    page.close()


def test_a_download_is_the_package_and_loads(chromium: Browser, address: str, tmp_path: Path, site: Path) -> None:
    page, _ = opened(chromium, address + "/")
    article = page.locator(f"#model-{UNET}")
    with page.expect_download() as waiting:
        article.get_by_role("link", name=f"Download {UNET}-0.10.0-0.5.10.zip").click()
    got = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(got)
    assert got.name == f"{UNET}-0.10.0-0.5.10.zip"
    assert sha256(got) in article.inner_text()
    read = read_package(got)
    assert (read.id, read.version, read.format_version) == (UNET, "0.10.0", "0.5.10")
    page.close()


def test_earlier_versions_are_there_too(chromium: Browser, start: str, packages: dict[str, Path]) -> None:
    page, _ = opened(chromium, start)
    article = page.locator(f"#model-{UNET}")
    article.get_by_text("Earlier versions").click()
    link = article.get_by_role("link", name=f"Download {UNET}-0.1.0.zip")
    assert link.is_visible()
    assert sha256(packages["unet"]) in article.inner_text()
    page.close()


def test_bioimageio_core_runs_a_model_by_its_id(address: str, tmp_path: Path, sample: Any) -> None:
    script = f"""
import sys
import numpy as np
from bioimageio.core import create_prediction_pipeline, load_model_description
from bioimageio.core.digest_spec import create_sample_for_model
from bioimageio.spec.model.v0_5 import ModelDescr
for name, version in (("{UNET}", "0.10.0"), ("{UNET}/0.1.0", "0.1.0")):
    model = load_model_description(name, perform_io_checks=True)
    assert isinstance(model, ModelDescr) and str(model.version) == version, model
    image = np.load(sys.argv[1])[None, None].astype("float32")
    with create_prediction_pipeline(model, weight_format="onnx") as pipeline:
        given = create_sample_for_model(pipeline.model_description, inputs=dict(image=image))
        output = pipeline.predict_sample_without_blocking(given)
    np.save(sys.argv[2], output.members["probability"].data.to_numpy()[0, 0])
"""
    import numpy as np

    np.save(tmp_path / "sample.npy", sample)
    environment = os.environ | {
        "BIOIMAGEIO_COLLECTION_HTTP_PATTERN": address + "/{bioimageio_id}/rdf.yaml",
        "BIOIMAGEIO_CACHE_PATH": str(tmp_path / "cache"),
    }
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        environment.pop(variable, None)
        environment.pop(variable.upper(), None)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "sample.npy", tmp_path / "output.npy"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    # the same numbers as ArtSeg's own reader gives with the package that was added
    from artseg_models.predict import Predictor

    with urllib.request.urlopen(f"{address}/downloads/{UNET}/{UNET}-0.1.0.zip") as answer:
        (tmp_path / "got.zip").write_bytes(answer.read())
    own = Predictor(read_package(tmp_path / "got.zip"), device="cpu").predict(sample, gate=False)
    assert np.abs(np.load(tmp_path / "output.npy") - own.probability).max() < 1e-4


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;"),
        ("<img src=x onerror=alert(1)>", "&lt;img"),
        ("[press](javascript:alert(1))", "[press]"),
        ("[see](../../etc/passwd)", "<p>see</p>"),
        ("![far](https://example.org/track.png)", "[far]"),
        ("![own](own.png)", '<img src="data:image/jpeg;base64,AA"'),
        ("# Title", "<h3>Title</h3>"),
        ("a | b\n--|--\n1 | 2", "<td>1</td>"),
    ],
)
def test_cards_of_others_are_only_text(card: str, expected: str) -> None:
    html = to_html(card, picture={"own.png": "data:image/jpeg;base64,AA"}.get, heading_below=2)
    assert expected in html
    assert not any(tag in html for tag in ("<script", "onerror=alert(1)>", "href=", "example.org", "etc/passwd"))
