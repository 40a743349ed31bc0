"""Measure the labelling page: key press to next image, first image of ten thousand, previews, memory.

Run it by its path: ``python tests/labelling/benchmark_page.py [keys] [many]``; without a word it measures both.
It makes its images in a temporary folder.
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
from playwright.sync_api import Browser, Page, sync_playwright

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


def measure_keys(browser: Browser, work: Path) -> None:
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


def measure_many(browser: Browser, work: Path, count: int = 10_000) -> None:
    many = work / "many"
    fields(many, count, (64, 64))
    start = time.perf_counter()
    process, address = serve(many)
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(address)
    page.wait_for_selector("#stage img")
    taken = time.perf_counter() - start
    server = psutil.Process(process.pid)
    spent = server.cpu_times()
    tell(
        f"{count:,} different images: first one {taken:.1f} s after the start of the program, "
        f"{spent.user + spent.system:.1f} s of its processor time"
    )

    def memory(when: str) -> None:
        heap = page.evaluate("() => performance.memory.usedJSHeapSize") / 2**20
        tell(f"  {when}: server {server.memory_info().rss / 2**20:.0f} MiB, page {heap:.0f} MiB")

    memory("at the first image")
    started = time.perf_counter()
    for _ in range(120):
        page.wait_for_timeout(5000)
        searching = page.inner_text("#searching")
        memory(f"after {time.perf_counter() - started:.0f} s, {searching or 'near-duplicates done'}")
        if not searching:
            break
    presses = key_to_image(page, 100)
    tell(f"  key press to next image, {len(presses)} presses: median {statistics.median(presses):.0f} ms")
    memory("after 100 labels by keys")
    page.keyboard.press("v")
    page.wait_for_selector("#cells .cell")
    for number in range(1, 41):
        start = time.perf_counter()
        page.keyboard.press("PageDown")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.cell img')].slice(0, 28).every((one) => one.complete)"
        )
        if number % 10 == 0:
            memory(f"grid, page {number + 1}, drawn in {(time.perf_counter() - start) * 1000:.0f} ms")
    page.select_option("#filter", "all")
    memory("grid of all images")
    page.close()
    process.terminate()
    process.wait()


def main() -> None:
    wanted = sys.argv[1:] or ["keys", "many"]
    work = Path(tempfile.mkdtemp())
    program = shutil.which("chromium")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            if "keys" in wanted:
                measure_keys(browser, work)
            if "many" in wanted:
                measure_many(browser, work)
            browser.close()
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
