"""Run unpacked packages by onnxruntime-web in a real browser: read_with_browser.py NODE_MODULES FOLDER..."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from own_reader import tell, tell_refusal
from playwright.sync_api import sync_playwright

PAGE = """<!doctype html><script type="module">
import * as ort from "/modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import * as yaml from "/modules/js-yaml/dist/js-yaml.mjs";
import { differenceOf } from "/reader.mjs";
ort.env.wasm.wasmPaths = "/modules/onnxruntime-web/dist/";
ort.env.wasm.numThreads = 1;
window.run = (folder) => differenceOf(ort, yaml, async (name) => {
  const answer = await fetch(`/packages/${folder}/${name}`);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
});
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the page, the libraries and the packages, to this computer alone."""

    def __init__(self, *arguments: object, places: dict[str, Path]) -> None:
        self.places = places
        super().__init__(*arguments)  # pyright: ignore[reportArgumentType]

    def do_GET(self) -> None:
        if self.path == "/":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())
        else:
            super().do_GET()

    def translate_path(self, path: str) -> str:
        first, _, rest = path.lstrip("/").partition("/")
        if first == "packages":
            folder, _, name = rest.partition("/")
            return str(self.places[folder] / name)
        if first == "modules":
            return str(self.places["modules"] / rest)
        return str(Path(__file__).with_name("reader.mjs"))

    def guess_type(self, path: object) -> str:
        return "text/javascript" if str(path).endswith((".mjs", ".js")) else super().guess_type(str(path))

    def log_message(self, *arguments: object) -> None:
        pass


def main(modules: Path, folders: list[Path]) -> None:
    browser_program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_program is None:
        raise SystemExit("no Chromium on PATH")
    version = json.loads((modules / "onnxruntime-web" / "package.json").read_text())["version"]
    places = {"modules": modules, **{folder.name: folder for folder in folders}}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, places=places))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program, args=quiet)
        program = f"onnxruntime-web {version}, Chromium {browser.version.split('.')[0]}"
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_function("window.run !== undefined")
        for folder in folders:
            try:
                tell(program, str(folder), "onnx", page.evaluate("folder => window.run(folder)", folder.name))
            except Exception as error:
                tell_refusal(program, str(folder), error)
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
