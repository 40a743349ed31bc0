"""`artseg report`: a page of a plate's artifacts and of what they do to its measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from artseg_models.cli.terminal import app, console
from artseg_models.errors import ArtSegError


@app.command(rich_help_panel="Main job")
def report(
    source: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="Folder of artseg segment; or results of a CellProfiler pipeline with SegmentArtifacts: a folder with "
            "Image.csv, a folder of such, one a plate, or the SQLite file of ExportToDatabase.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="The page to write.")] = Path("report.html"),
    without: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="CellProfiler's results of the same fields without removal of artifacts: shows what removal changes. "
            "Beside a folder of artseg segment your existing results are all that is needed.",
        ),
    ] = None,
    layout: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Plate layout for dose-response curves, CSV: well, concentration_nM (or _M, _uM ...), and if wanted "
            "plate, experiment, compound.",
        ),
    ] = None,
    response: Annotated[
        str | None,
        typer.Option(
            help="With --layout: the column that answers to the dose, of objects or images. Default: the first mean "
            "intensity of objects."
        ),
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="With --layout: column of images that is subtracted from the response.")
    ] = None,
    slope: Annotated[str, typer.Option(help="With --layout: Hill coefficient, a number; or free to fit it.")] = "free",
    objects: Annotated[str, typer.Option(help="Which objects to compare, as the pipeline names them.")] = "Nuclei",
    brightfield: Annotated[str, typer.Option(help="Name of the brightfield image in the pipeline.")] = "Brightfield",
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Where the brightfield images are now, if they were moved."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="The model's package: fields unlike its training images are shown. Without it fields are compared "
            "with one another.",
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="How names of images tell wells: a regular expression with (?P<well>...), and if wanted (?P<site>...) "
            "and (?P<plate>...). Default: names like A01_s1 or plate1_A01_f3.",
        ),
    ] = None,
) -> None:
    """Write one page about the artifacts of a plate: where they are, and what they do to what you measure.

    It shows the plate map, the worst fields with outlines, artifacts over wells and time, and fields unlike the model's
    training images. With --without, how counts, sizes and intensities change when artifacts are removed, and which
    wells change most; with --layout, the dose-response curves too. The page is one file: mail it, or print it to PDF.
    """
    from artseg_models.plates.effects import responses, with_likeness
    from artseg_models.plates.page import write_plate_page
    from artseg_models.plates.tables import read_plate, with_times
    from artseg_models.progress import track

    plate = read_plate(
        source, without=without, objects=objects, brightfield=brightfield, images=images, pattern=pattern
    )
    reference, likeness_of = None, "the other fields of this plate"
    if model is not None:
        from artseg_models.packages.read import read_package

        reference = read_package(model).image_features or None
        if reference is None:
            raise ArtSegError(
                f"{model.name} does not say what its training images look like. Export it again with this artseg while "
                "they are in their place, or leave --model out."
            )
        likeness_of = "the model's training images"
    plate = with_likeness(
        with_times(plate), reference, progress=lambda fields: track(fields, "Looking at fields", len(fields))
    )
    fitted = None
    if layout is not None:
        fitted = responses(
            plate, layout, response=response, background=background, slope=None if slope == "free" else _number(slope)
        )
    write_plate_page(out, plate, source=str(source), likeness_of=likeness_of, response=fitted)
    console.print(f"Open {out}", highlight=False, soft_wrap=True)


def _number(slope: str) -> float:
    try:
        return float(slope)
    except ValueError as error:
        raise typer.BadParameter(f"expected free or a number, got '{slope}'", param_hint="--slope") from error
