"""`artseg fill`: artifacts painted over with background."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from artseg_models.cli.terminal import app, console


@app.command(rich_help_panel="More")
def fill(
    source: Annotated[Path, typer.Argument(exists=True, help="An image; or, with --twins, labels with masks.")],
    mask: Annotated[
        Path | None, typer.Option("--mask", "-m", exists=True, dir_okay=False, help="Mask of the image.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", dir_okay=False, help="The filled image, .tif or .png.")
    ] = None,
    twins: Annotated[
        Path | None,
        typer.Option("--twins", file_okay=False, help="Folder for a clean twin of every artifact image of the labels."),
    ] = None,
    order: Annotated[int, typer.Option(min=0, max=6, help="Order of the background polynomial.")] = 2,
    noise: Annotated[bool, typer.Option(help="Add noise as the background has it.")] = True,
    grain: Annotated[
        int, typer.Option(min=1, help="Side in pixels of the pieces in which noise is copied; 1: each pixel alone.")
    ] = 8,
    margin: Annotated[int, typer.Option(min=0, help="Pixels around the mask that are filled too.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same noise.")] = 0,
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    mask_polarity: Annotated[
        Literal["auto", "artifact-high", "artifact-low"],
        typer.Option(help="Whether artifacts are white (artifact-high) or black (artifact-low) in the masks."),
    ] = "auto",
) -> None:
    """Replace artifacts by background: a smooth surface fitted to the rest of the image, with noise.

    For one image: `artseg fill FIELD.tif --mask MASK.tif --out FILLED.tif`. White in the mask is filled.

    Where nearly every image has artifacts, clean images to train from are missing. `artseg fill LABELS --twins FOLDER`
    makes them, as the paper did for ArtSeg-CHO-M4R: FOLDER/labels.csv lists every image, and for each artifact image a
    clean twin in the same split and group. It needs drawn masks. A classifier may learn the fill instead of the
    artifact: see how it does on truly clean images before you trust it.

    Cells under an artifact are gone in the filled image; do not measure there.
    """
    from artseg_models.fill import FillSettings, fill_file, write_twins
    from artseg_models.images import read_mask_image
    from artseg_models.labels import read_labels

    settings = FillSettings(order=order, grain=grain, noise=noise, margin=margin, seed=seed)
    if twins is not None:
        if mask is not None or out is not None:
            raise typer.BadParameter("give --twins for a table of labels, or --mask and --out for one image, not both")
        labels = read_labels(source, mask_polarity=mask_polarity)
        table, made = write_twins(labels, twins, settings=settings, plane=plane)
        console.print(f"{made} clean twins, labels in {table}", highlight=False, markup=False)
        return
    if mask is None or out is None or source.is_dir():
        raise typer.BadParameter("one image needs --mask and --out; labels need --twins")
    marked = read_mask_image(mask)
    white = marked > marked.max() / 2 if mask_polarity != "artifact-low" else marked <= marked.max() / 2
    fill_file(source, white, out, settings=settings, plane=plane)
    console.print(f"{int(white.sum())} pixels of the mask filled: {out}", highlight=False, markup=False)
