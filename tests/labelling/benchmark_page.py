"""Measure the labelling page: key press to next image, first image of ten thousand, previews, memory.

Run it by its path: ``python tests/labelling/benchmark_page.py``. It makes its images in a temporary folder.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import tifffile
from playwright.sync_api import Page, sync_playwright

# the time that the key press bears, to the frame after the one in which the next image stands
MEASURE = """() => {
    window.taken = [];
    let pressed = 0;
    addEventListener('keydown', (event) => { pressed = event.timeStamp; }, true);
    new MutationObserver((changes) => {
        if (![...changes].some((one) => [...one.addedNodes].some((node) => node.tagName === 'IMG'))) return;
        requestAnimationFrame(() => requestAnimationFrame((now) => window.taken.push(performance.now() - pressed)));
    }).observe(document.getElementById('stage'), { childList: true });
}"""


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "artseg_models", "label", str(folder), "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://\S+", line)
        if found:
            return process, found.group()
    raise RuntimeError("artseg label did not start")


def fields(folder: Path, count: int, shape: tuple[int, int]) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = np.kron(random.normal(0, 900, (shape[0] // 20 + 1, shape[1] // 20 + 1)), np.ones((20, 20)))
        pixels = 8000 + coarse[: shape[0], : shape[1]] + random.normal(0, 150, shape)
        tifffile.imwrite(folder / f"field {number}.tif", pixels.astype(np.uint16))


def key_to_image(page: Page, presses: int) -> list[float]:
    page.wait_for_selector("#stage img")
    page.evaluate(MEASURE)
    for _ in range(presses):
        name = page.inner_text("#name")
        page.wait_for_timeout(250)  # a fast person
        page.keyboard.press("c")
        page.wait_for_function("name => document.getElementById('name').textContent !== name", arg=name)
    page.wait_for_timeout(200)
    return page.evaluate("window.taken")


def main() -> None:
    work = Path(tempfile.mkdtemp())
    program = shutil.which("chromium")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            for side in ((1080, 1080), (2156, 2556)):
                fields(work / f"{side[0]}", 60, side)
                process, address = serve(work / f"{side[0]}")
                page = browser.new_page(viewport={"width": 1920, "height": 1080})
                page.goto(address)
                taken = key_to_image(page, 40)
                tell(
                    f"{side[1]} x {side[0]}, 16 bit: key press to next image, {len(taken)} presses: "
                    f"median {statistics.median(taken):.0f} ms, largest {max(taken):.0f} ms"
                )
                with httpx.Client() as client:
                    client.get(address, follow_redirects=True)
                    base = address.split("/?")[0]
                    times = []
                    for number in range(40, 60):
                        start = time.perf_counter()
                        asked = {"image": f"field {number}.tif", "side": 1500}
                        client.get(f"{base}/api/preview", params=asked).raise_for_status()
                        times.append(time.perf_counter() - start)
                tell(f"  preview: median {statistics.median(times) * 1000:.0f} ms, largest {max(times) * 1000:.0f} ms")
                page.close()
                process.terminate()
                process.wait()
            many = work / "many"
            fields(many, 1, (540, 540))
            content = (many / "field 0.tif").read_bytes()
            for number in range(1, 10_000):
                (many / f"field {number}.tif").write_bytes(content)
            start = time.perf_counter()
            process, address = serve(many)
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            page.goto(address)
            page.wait_for_selector("#stage img")
            tell(f"10,000 images: first one after {time.perf_counter() - start:.1f} s from the start of the program")
            server = psutil.Process(process.pid)
            tell(f"  memory of the server: {server.memory_info().rss / 2**20:.0f} MiB")
            for _ in range(6):
                time.sleep(15)
                tell(f"  after 15 s more: {server.memory_info().rss / 2**20:.0f} MiB")
            process.terminate()
            process.wait()
            browser.close()
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
