"""Gather everything that artseg needs into one folder, for computers without network.

    python packaging/develop.py run python packaging/wheelhouse.py [--out FOLDER] [--torch cpu|cuda] [--only NAME ...]

Run it on a computer with network, with the Python version and the operating system of the computer that is to have
artseg, then carry the folder there; its README.txt says how to install. `--only artseg` gathers artseg's own wheel and
the plugin alone, for a site that has the libraries already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from plugin_archive import built_model, write_archive

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = Path(__file__).resolve().parent / "constraints"

INSTALL = '''"""Install artseg from this folder, without network, into a new environment: python install.py FOLDER."""

import os
import subprocess
import sys
import venv
from pathlib import Path

WHEELS = Path(__file__).resolve().parent / "wheels"

if len(sys.argv) != 2:
    sys.exit("Expected one argument, the folder for the new environment: python install.py FOLDER")
if sys.version_info[:2] != {python}:
    sys.exit("This folder was gathered for Python {dotted}; start install.py with that version.")
folder = Path(sys.argv[1]).resolve()
venv.create(folder, with_pip=True)
python = folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"
pip = [str(python), "-I", "-m", "pip", "install", "--no-index", "--find-links", str(WHEELS)]
for name in ("torch", "artseg"):
    subprocess.run([*pip, name], check=True)
print("artseg is installed:", python.with_name("artseg.exe" if os.name == "nt" else "artseg"))
'''

README = """artseg for a computer without network ({platform}, Python {dotted})

1. python install.py FOLDER      makes an environment in FOLDER with artseg in it
2. Unzip {plugin} into CellProfiler's plugins folder; its README.txt says the rest.
"""


def build_wheel(wheels: Path) -> Path:
    """Build artseg's own wheel from a copy of its sources, so that no older build in the checkout gets into it."""
    with tempfile.TemporaryDirectory(prefix="artseg-wheel-") as folder:
        for name in ("artseg_models", "plugins", "bioimageio", "packaging"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy2(ROOT / name, folder)
        # with the environment's own setuptools: a build environment would have to be downloaded
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
        run([sys.executable, "-m", "pip", "wheel", *options, folder])
    return next(wheels.glob("artseg-*.whl"))


def run(command: Sequence[str]) -> None:
    """Run pip; it shows its own errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True)


def download_command(wheels: Path, *, torch: str, names: Sequence[str], dependencies: bool) -> list[str]:
    """Give the command that gathers wheels, in the versions that artseg's tests run with."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels), "--find-links", str(wheels)]
    command += ["--only-binary", ":all:", "--constraint", str(CONSTRAINTS / f"{torch}.txt")]
    return [*command, *([] if dependencies else ["--no-deps"]), *names]


def gather(out: Path, *, torch: str, only: Sequence[str]) -> Path:
    """Fill the folder; it appears whole or not at all."""
    if not (CONSTRAINTS / f"{torch}.txt").is_file():
        raise SystemExit(f"Expected --torch cpu or cuda, but got {torch}.")
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    wheels = unfinished / "wheels"
    wheels.mkdir(parents=True)
    if "artseg" in only:
        build_wheel(wheels)
    if not only:
        # torch by itself first, as at installation: its constraint decides between the CPU and the CUDA build
        run(download_command(wheels, torch=torch, names=["torch"], dependencies=True))
        # by its file, so that no package of that name from elsewhere is taken
        run(download_command(wheels, torch=torch, names=[str(build_wheel(wheels))], dependencies=True))
    others = [name for name in only if name != "artseg"]
    if others:
        run(download_command(wheels, torch=torch, names=others, dependencies=False))
    plugin = write_archive(unfinished, model=built_model())
    dotted = "{}.{}".format(*sys.version_info[:2])
    (unfinished / "install.py").write_text(
        INSTALL.format(python=tuple(sys.version_info[:2]), dotted=dotted), encoding="utf-8"
    )
    (unfinished / "README.txt").write_text(
        README.format(platform=sys.platform, dotted=dotted, plugin=plugin.name), encoding="utf-8"
    )
    shutil.rmtree(out, ignore_errors=True)
    os.replace(unfinished, out)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "wheelhouse", help="folder to make")
    parser.add_argument("--torch", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="gather these packages alone")
    asked = parser.parse_args()
    print(gather(asked.out.resolve(), torch=asked.torch, only=asked.only))
