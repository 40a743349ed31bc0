"""Take the pictures of CellProfiler 5's window that the documentation shows, on Linux, without a screen.

    python packaging/screenshots.py MODEL.zip [--images FOLDER] [--out docs/pictures]

Starts Xvfb and CellProfiler 5, opens an example pipeline, and drives the window: settings, help, plugins, test mode
with the figure, a finished analysis; then once more without artseg, and the button *Check installation*. Look at every
picture before you commit it. Run it with artseg's Python after `make setup`. On Debian: apt-get install xvfb openbox
imagemagick python3-wxgtk4.0 (Debian's wxPython is for Debian's Python, 3.11 in Debian 12; CellProfiler's environment
must have the same version).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CELLPROFILER = ROOT / ".environments" / "cellprofiler" / "bin" / "python"
DEBIANS_WX = Path("/usr/lib/python3/dist-packages/wx")
SCREEN = "1500x950"
#: more would make the repository heavy
LARGEST_BYTES = 150_000

PREFERENCES = """\
PluginDirectoryCP4={plugins}
DefaultImageDirectory={images}
DefaultOutputDirectory={results}
"""


@contextlib.contextmanager
def screen() -> Iterator[str]:
    """Start a screen that nobody sees, with a window manager; gives its name."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{SCREEN}x24", "-nolisten", "tcp"],
        pass_fds=(writing,),
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    manager = None
    try:
        with os.fdopen(reading) as told:
            name = f":{told.readline().strip()}"
        manager = subprocess.Popen(
            ["openbox"], env={**os.environ, "DISPLAY": name}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        yield name
    finally:
        for process in (manager, server):
            if process is not None:
                process.terminate()
                process.wait()


def take(model: Path, images: Path, out: Path) -> None:
    """Drive the window and take the pictures."""
    from artseg_models.cellprofiler import with_package
    from artseg_models.cellprofiler_install import install

    with tempfile.TemporaryDirectory(prefix="artseg-") as name, screen() as display:
        folder = Path(name)
        home, configuration, results, raw = (folder / part for part in ("home", "home/.config", "results", "raw"))
        for made in (configuration / "CellProfiler", results, raw, folder / "wx"):
            made.mkdir(parents=True)
        # Debian's folder holds more than wx, in other versions than CellProfiler's
        (folder / "wx" / "wx").symlink_to(DEBIANS_WX)
        install(plugins=folder / "plugins")
        text = PREFERENCES.format(plugins=folder / "plugins", images=images, results=results)
        preferences = configuration / "CellProfiler" / "CellProfilerLocal.cfg"
        preferences.write_text(text, encoding="utf-8")
        # its path is seen in the pictures
        (folder / "models").mkdir()
        shutil.copyfile(model, folder / "models" / model.name)
        example = ROOT / "plugins" / "pipelines" / "artifacts_masked.cppipe"
        pipeline = with_package(example, folder / "models" / model.name, folder / example.name)
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XDG_"))}
        variables.update(
            DISPLAY=display,
            HOME=str(home),
            XDG_CONFIG_HOME=str(configuration),
            ARTSEG_STATE_DIR=str(folder / "state"),
            NO_AT_BRIDGE="1",
            GTK_A11Y="none",
            PYTHONUNBUFFERED="1",
        )
        log = out / "screenshots.log"
        # for the second, modules alone, as a user has them who did not yet install artseg
        alone = folder / "alone"
        ignored = shutil.ignore_patterns("installation.json", "__pycache__")
        codes: list[int] = []
        with open(log, "w", encoding="utf-8") as written:
            for story, plugins in (("tour", folder / "plugins"), ("without_artseg", alone)):
                if plugins == alone:
                    shutil.copytree(folder / "plugins", alone, ignore=ignored)
                    text = PREFERENCES.format(plugins=alone, images=images, results=results)
                    preferences.write_text(text, encoding="utf-8")
                    variables["PATH"] = f"{CELLPROFILER.parent}{os.pathsep}/usr/bin{os.pathsep}/bin"
                    variables.pop("ARTSEG_PYTHON", None)
                done = subprocess.run(
                    [CELLPROFILER, HERE / "inside_window.py", folder / "wx", pipeline, images, raw, story],
                    env=variables,
                    stdout=written,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    timeout=400,
                    check=False,
                )
                codes.append(done.returncode)
        subprocess.run(
            [sys.executable, "-m", "artseg_models", "serve", "--stop"],
            env={**os.environ, "ARTSEG_STATE_DIR": str(folder / "state")},
            capture_output=True,
            check=False,
        )
        taken = sorted(raw.glob("*.png"))
        for picture in taken:
            shrink(picture, out / picture.name)
        if any(codes):
            raise SystemExit(f"The window ended with exit code {max(codes)}; its log is {log}.")
        log.unlink()
        print(*(f"{path.name}: {(out / path.name).stat().st_size / 1024:.0f} KB" for path in taken), sep="\n")


def shrink(picture: Path, target: Path) -> None:
    """Write a picture with as many colours as keep the file small."""
    for colours in (256, 128, 64, 32):
        subprocess.run(
            ["convert", picture, "-dither", "None", "-colors", str(colours), f"PNG8:{target}"],
            check=True,
        )
        if target.stat().st_size <= LARGEST_BYTES:
            return
    raise SystemExit(f"{target} has {target.stat().st_size} bytes even with 32 colours: show less in it.")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model package, for instance demo/packages/demo-unet.zip")
    parser.add_argument("--images", type=Path, help="FIELD_brightfield, _dna, _signal; default: a simulated plate")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    asked = parser.parse_args()
    lacking = [name for name in ("Xvfb", "openbox", "import", "convert") if shutil.which(name) is None]
    if lacking or not DEBIANS_WX.is_dir() or not CELLPROFILER.is_file():
        missing = [*lacking, *(str(path) for path in (DEBIANS_WX, CELLPROFILER) if not path.exists())]
        raise SystemExit(f"Missing: {', '.join(missing)}.\n{__doc__}")
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.images is not None:
        take(asked.model.resolve(), asked.images.resolve(), asked.out)
        return
    from artseg_models.simulate import simulate_plate

    with tempfile.TemporaryDirectory(prefix="artseg-plate-") as folder:
        simulate_plate(Path(folder), wells=2, fields_per_well=1, shape=(540, 540), seed=11)
        take(asked.model.resolve(), Path(folder), asked.out)


if __name__ == "__main__":
    main()
