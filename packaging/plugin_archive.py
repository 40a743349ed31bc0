"""Write dist/artseg-cellprofiler-plugin-VERSION.zip: what a user unzips into CellProfiler's plugins folder.

python packaging/plugin_archive.py [--out FOLDER] [--without-model]

It packs the model to try first, which packaging/shipped_model.py makes.
"""

from __future__ import annotations

import argparse
import os
import re
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "plugins"
#: trained on simulated fields, in the format that every program opens
MODEL = ROOT / "dist" / "models" / "artseg-simulated-unet-0.5.10.zip"

README = """ArtSeg {version}: the CellProfiler modules SegmentArtifacts and MeasureArtifactOverlap
========================================================================================

1. Unzip this file into CellProfiler's plugins folder. Its path stands in CellProfiler under
   File > Preferences > "CellProfiler plugins directory"; set one if there is none.
   segmentartifacts.py and measureartifactoverlap.py must lie directly in that folder, _artseg_client beside them.

2. Install artseg, once on this computer, in a Python of its own (3.11 or newer); CellProfiler's own Python stays
   as it is:

       python -m venv artseg
       artseg/bin/pip install artseg-{version}-py3-none-any.whl

   with the wheel that comes with this archive (on Windows: artseg\\Scripts\\pip; and in step 3 the same way).

3. Tell the module where it is. Either let artseg write it down:

       artseg/bin/artseg cellprofiler install --help

   or choose, in the module's settings, the Python of step 2 as "Python that has artseg".

4. Start CellProfiler again. The modules SegmentArtifacts and MeasureArtifactOverlap are in the list of modules. The
   folder "pipelines" holds examples: nuclei measured without artifacts (artifacts_masked, artifacts_filtered), the same
   without ArtSeg (no_masking), fields of view flagged by their artifacts (image_quality), and intensities over cells
   and beside them for dose-response plates (affinity_...).
"""

MODEL_README = """
To try it first
---------------

models/{model} was trained on simulated fields of view alone. Choose it as the
model in SegmentArtifacts and look at the masks; the example pipelines take it too. It knows no microscope, no cells and
no artifacts but simulated ones: for measurements of your own, train on your own images (artseg train --help). Its card
is README.md inside. Without images at hand:

    artseg/bin/artseg demo --model models/{model}
"""


def version() -> str:
    """Read artseg's version without importing it."""
    text = (ROOT / "artseg_models" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit('Expected a line __version__ = "..." in artseg_models/__init__.py, but there is none.')
    return found.group(1)


def plugin_files() -> list[Path]:
    """List what belongs to the plugin, without what an installation or a run of it left behind."""
    return sorted(
        path
        for path in PLUGINS.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.name.startswith(".")
        and path.name != "installation.json"
    )


def built_model() -> Path | None:
    """Find the model to try first, if it was built."""
    return MODEL if MODEL.is_file() else None


def write_archive(out: Path, *, model: Path | None = None) -> Path:
    """Write the archive, the same bytes for the same files; it appears whole or not at all."""
    number = version()
    archive = out / f"artseg-cellprofiler-plugin-{number}.zip"
    out.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".unfinished")
    contents = {str(path.relative_to(PLUGINS).as_posix()): path.read_bytes() for path in plugin_files()}
    readme = README.format(version=number)
    if model is not None:
        readme += MODEL_README.format(model=model.name)
        contents[f"models/{model.name}"] = model.read_bytes()
    contents["README.txt"] = readme.replace("\n", "\r\n").encode()  # for Windows' Notepad
    contents["_artseg_client/LICENSE.txt"] = (ROOT / "LICENSE").read_bytes()
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            opened.writestr(entry, content)
    os.replace(unfinished, archive)
    return archive


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the archive (default: dist)")
    parser.add_argument("--without-model", action="store_true", help="leave out the model to try first")
    given = parser.parse_args()
    model = None if given.without_model else built_model()
    if model is None and not given.without_model:
        raise SystemExit(
            f"Expected the model to try first at {MODEL}: make it with `make model`, or say --without-model."
        )
    print(write_archive(given.out, model=model))
