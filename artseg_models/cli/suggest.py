"""`artseg suggest`: which images are worth a drawn mask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from artseg_models.cli.terminal import DEVICE_HELP, Device, app, console


@app.command(rich_help_panel="More")
def suggest(
    run: Annotated[Path, typer.Argument(help="The run folder of a training.")],
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many images to name.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", dir_okay=False, help="Also write the order to this CSV file.")
    ] = None,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = "auto",
) -> None:
    """Name the images whose mask would teach a model most, if you have a few minutes to draw some.

    Looks again at the artifact images that the run learned from: where it is unsure of many pixels, or finds something
    else than its own label says, a drawn mask mends most. Of near-duplicates (one group) only one is named; images that
    have a mask already are left out.

    Then draw these masks (`artseg label masks`, or any program that writes mask images), name them in labels.csv, and
    train with `artseg train LABELS --preset best --masks N`.
    """
    from artseg_models.suggest import suggest as order
    from artseg_models.suggest import write_suggestions

    found = order(run, number=number, device=device)
    table = Table(title="Worth a mask, the most useful first", title_justify="left")
    for name in ("image", "group", "gain", "unsure", "differs from its label"):
        table.add_column(name)
    for one in found:
        table.add_row(
            one.item.path.name, one.item.group or "", *(f"{v:.2f}" for v in (one.gain, one.unsure, one.differs))
        )
    console.print(table)
    if out is not None:
        write_suggestions(found, out)
        console.print(f"Written: {out}", highlight=False)
