"""`artseg demo`: the whole chain on simulated images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from artseg_models.cli.terminal import app, console


@app.command("demo", rich_help_panel="Main job")
def run_demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="Folder for everything that is made.")
    ] = Path("demo"),
    size: Annotated[
        Literal["tiny", "standard"],
        typer.Option(help="standard shows what masks change, in minutes; tiny only that everything works."),
    ] = "standard",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images and training.")] = 0,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", exists=True, help="Use this model package instead of training one."),
    ] = None,
) -> None:
    """Show the whole chain on simulated images: train, export, measure in CellProfiler with and without masks.

    With --model, say the one that comes with the plugin's archive, nothing is trained. Run it again to go on where
    it was stopped.
    """
    from artseg_models.demo import demo

    demo(out, size=size, seed=seed, model=model, say=lambda line: console.print(line, highlight=False, soft_wrap=True))
