"""`artseg ablation`: what each part of the preset `best` is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from artseg_models.cli.terminal import LABELS_HELP, app, console
from artseg_models.errors import ArtSegError


@app.command(rich_help_panel="More")
def ablation(
    labels: Annotated[Path, typer.Argument(exists=True, help=LABELS_HELP + " With masks, to score by.")],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder; the same folder goes on.")],
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Seed of the trainings; repeat for more.")] = None,
    rung: Annotated[
        list[str] | None, typer.Option(help="Only this one; repeat for more. The table shows the names.")
    ] = None,
    ignore: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Image that is white where pixels are not to be scored."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="For all trainings, as in `artseg train`; repeat for more."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Begin no training after this time.")] = None,
) -> None:
    """Train with and without each part of the preset best, and score on the test images, beside full supervision.

    The ladder: a U-Net on drawn masks (`supervised`, the upper mark); `quick`; then labels drawn to the edges of
    artifacts, joined by what no clean image shows, artifacts pasted on clean images, counterfactuals for the classifier
    (`best`); best without one of them, with invented artifacts among the pasted ones, and with a round of
    self-training; and best with 5, 10 and 20 drawn masks, and with 10 that do not redraw the labels of other images.
    All have the same seed and the same U-Net (`quick` trains it a third as long); networks that two rungs share are
    trained once.

    The column labels is the IoU of pseudo-labels with masks, on validation images: what the U-Net learned from.

    Writes ablation.csv, ablation.png, and annotation.png, the IoU against the minutes that an expert spends (2 s a
    label, 279 s a mask). A folder for each training holds its run, a model like any other, and errors.png:
    what the wrong pixels of the test images are, and the images that show the three largest causes most.
    """
    from artseg_models.ablation import run_ablation
    from artseg_models.evaluate import read_ignore
    from artseg_models.report.ablation import write_ablation_figure, write_annotation_figure
    from artseg_models.training.configuration import parse_overrides

    try:
        overrides = parse_overrides(settings or [])
    except ArtSegError as error:
        raise typer.BadParameter(str(error)) from error
    found = run_ablation(
        labels,
        out,
        seeds=seed or [0],
        rungs=rung or [],
        overrides=overrides,
        ignore=None if ignore is None else read_ignore(ignore),
        minutes=minutes,
    )
    write_ablation_figure(found, out / "ablation.png")
    curve = write_annotation_figure(found, out / "annotation.png")
    run = [one for one in found if one.iou is not None]
    # narrow: what a rung changes stands in the figure, and in the lines below
    table = Table("rung", "seed", "expert min", "img F1", "labels", "prec", "recall", "IoU", "ratio", box=SIMPLE_HEAD)
    for one in run:
        values = [one.image_f1, one.label_iou, one.precision, one.recall, one.iou, one.ratio]
        shown = ["" if value is None else f"{value:.3f}" for value in values]
        table.add_row(one.rung.name, str(one.seed), "" if one.minutes is None else f"{one.minutes:.0f}", *shown)
    if run:
        console.print(table)
        for title in {one.rung.name: f"{one.rung.name}: {one.rung.title}" for one in run}.values():
            console.print(title, highlight=False, soft_wrap=True)
    missing = [f"{one.rung.name} (seed {one.seed})" for one in found if one.iou is None]
    if missing:
        console.print(f"Not run: {', '.join(missing)}", highlight=False)
    more = ", annotation.png" if curve else ""
    console.print(f"Written to {out}: ablation.csv, ablation.png{more}", highlight=False)
