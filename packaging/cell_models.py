"""Write dist/models/artseg-simulated-nuclei*.zip and -cells*.zip: nuclei and cell bodies from brightfield.

make cells, or: python packaging/develop.py run python packaging/cell_models.py [--out FOLDER] [--size tiny]

It simulates fields of view with artifacts, trains one network on the label maps of nuclei and one on those of cell
bodies, with the pixels under artifacts left out of the labels, exports both, and scores them on the fields of the test
split. Stop it at any time; with --work the same command goes on. The seed is fixed. In size tiny it shows within a
minute or two that everything works; such networks learn little.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artseg_models.impact.chain import Size

ROOT = Path(__file__).resolve().parent.parent
NAME = "artseg-simulated"
SEED = 2022


def build(
    out: Path, work: Path, *, size: Size = "standard", fields: int | None = None, scale: float | None = None
) -> None:
    """Write the packages into `out`, what they were made from into `work`."""
    from artseg_models.impact.chain import SCALES
    from artseg_models.impact.structures import score_structure
    from artseg_models.packages.structures import export_structure
    from artseg_models.simulate import simulate_family
    from artseg_models.training.structures import STRUCTURES, train_structure

    # cards name the folder as the source of the label maps
    images = work / f"{NAME}-cho-fields"
    labels = images / "labels.csv"
    if not labels.exists():
        simulate_family(
            images,
            "cho-m4r",
            fields=fields or (24 if size == "tiny" else 240),
            seed=SEED,
            scale=scale or SCALES[size].scale,
            prevalence=0.5,
            fluorescence=True,
        )
    for structure in STRUCTURES:
        run = train_structure(
            labels,
            images / structure,
            work / structure,
            structure=structure,
            seed=SEED,
            overrides=SCALES[size].structure_overrides[structure],
        )
        package, _ = export_structure(run, out, name=NAME)
        scores = score_structure(package, labels, images / structure)
        print(
            f"{package}: {scores.images} simulated test fields, beside artifacts: pixel F1 {scores.pixel_f1:.3f}, "
            f"object F1 {scores.object_f1:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "models", help="default: dist/models")
    parser.add_argument("--work", type=Path, help="keep images and training here; by default a folder that is removed")
    parser.add_argument("--size", choices=["standard", "tiny"], default="standard")
    parser.add_argument("--fields", type=int, help="how many fields are simulated; default: 240, in size tiny 24")
    parser.add_argument(
        "--scale", type=float, help="of the images, relative to 1224 x 904 pixels; default: 0.5, in size tiny 0.2"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.monotonic()
    work = given.work or Path(tempfile.mkdtemp(prefix="artseg-cells-"))
    try:
        build(given.out, work, size=given.size, fields=given.fields, scale=given.scale)
    finally:
        if given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(f"in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
