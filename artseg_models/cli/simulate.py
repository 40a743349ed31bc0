"""`artseg simulate`: images whose artifacts are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from artseg_models.cli.terminal import app, console

simulate_app = typer.Typer(no_args_is_help=True, help="Make images in which every artifact is known, to try things on.")
app.add_typer(simulate_app, name="simulate", rich_help_panel="More")

SimulationFolder = Annotated[Path, typer.Argument(help="Folder to write; made if it is not there.", file_okay=False)]
SimulationSide = Annotated[int, typer.Option(min=32, help="Width and height of a field in pixels.")]
SimulationSeed = Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")]
SimulationFraction = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of fields with artifacts.")]


@simulate_app.command("training")
def simulate_training(
    out: SimulationFolder,
    fields: Annotated[int, typer.Option(min=1, help="How many fields of view.")] = 240,
    side: SimulationSide = 512,
    seed: SimulationSeed = 0,
    artifact_fraction: SimulationFraction = 0.5,
) -> None:
    """Simulate brightfield fields with image-level labels to train from, and their masks to score with."""
    from artseg_models.simulate import simulate_training_set

    labels = simulate_training_set(
        out, fields=fields, shape=(side, side), seed=seed, artifact_fraction=artifact_fraction
    )
    console.print(f"{fields} fields, labels in {labels}", highlight=False, markup=False)


@simulate_app.command("plate")
def simulate_a_plate(
    out: SimulationFolder,
    wells: Annotated[int, typer.Option(min=1, max=96, help="How many wells.")] = 8,
    fields_per_well: Annotated[int, typer.Option(min=1, help="How many fields of each well.")] = 2,
    side: SimulationSide = 512,
    seed: SimulationSeed = 0,
    artifact_fraction: SimulationFraction = 0.5,
) -> None:
    """Simulate a plate: brightfield, DNA and signal channel, a dose that raises the signal, and the truth."""
    from artseg_models.simulate import simulate_plate

    simulate_plate(
        out,
        wells=wells,
        fields_per_well=fields_per_well,
        shape=(side, side),
        seed=seed,
        artifact_fraction=artifact_fraction,
    )
    console.print(f"{wells * fields_per_well} fields in {out}; truth in truth.csv", highlight=False, markup=False)
