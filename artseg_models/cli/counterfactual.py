"""`artseg counterfactual`: tell whether a model looks at the artifact or at its company."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from artseg_models.cli.terminal import DEVICE_HELP, LABELS_HELP, Device, app, console
from artseg_models.errors import ArtSegError


@app.command(rich_help_panel="More")
def counterfactual(
    model: Annotated[
        Path, typer.Argument(exists=True, help="A model package (zip file or folder), or the run folder of a training.")
    ],
    labels: Annotated[Path, typer.Argument(exists=True, help=LABELS_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder for tables and figure.")],
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option(help="Which images are changed; those of the split test took no part in training."),
    ] = "test",
    images: Annotated[int, typer.Option(min=1, help="At most so many artifact images, drawn by chance.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is drawn by chance.")] = 0,
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = "auto",
) -> None:
    """Change one thing in images and see what the model says, to know whether it looks at the artifact.

    Artifacts are painted out (the image should become clean), and cut out and pasted on clean images: at the same
    place, elsewhere, turned, mirrored, smaller, larger, blurred (it should be found, and its pixels are known). Clean
    images are painted too, since paint alone must not matter. Artifacts are cut out by drawn masks where the labels
    have them, else by the model's own, which cannot say how well the artifact of an image as it is was found.

    If many images stay artifact with the artifact painted out, the model has learned the artifact's company: a slide,
    a session, a brightness. If it is not found elsewhere or turned, its place or shape. Pasted artifacts are easier
    than real ones: the shares are an upper mark.

    Writes counterfactual.png, counterfactual.csv (a line for each changed image) and counterfactual.json.
    """
    from artseg_models.counterfactual import KINDS, counterfactuals, write_counterfactuals
    from artseg_models.labels import read_labels
    from artseg_models.methods.predictor import open_model
    from artseg_models.report.counterfactual import write_counterfactual_figure

    known = read_labels(labels)
    items = known.images if split == "all" else known.of_split(split)
    if not items:
        raise ArtSegError(f"Expected images of the split {split} in {labels}, but there are none. Try --split all.")
    found = counterfactuals(open_model(model, device=device), items, images=images, seed=seed, plane=plane)
    write_counterfactuals(found, out)
    write_counterfactual_figure(found, out / "counterfactual.png")
    table = Table(title=f"{len(found.of(KINDS[0]))} artifact images, masks: {found.masks}", title_justify="left")
    for name in ("", "should be", "called right", "IoU of pixels"):
        table.add_column(name)
    for kind in KINDS:
        if found.of(kind):
            iou = found.iou(kind)
            table.add_row(kind.title, kind.expects, f"{found.right(kind):.3f}", "-" if iou != iou else f"{iou:.3f}")
    console.print(table)
    console.print(f"Written to {out}: counterfactual.png, counterfactual.csv, counterfactual.json", highlight=False)
