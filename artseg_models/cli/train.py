"""`artseg train`: from labels to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from artseg_models.cli.terminal import LABELS_HELP, app, console
from artseg_models.errors import ArtSegError

#: kept equal to `artseg_models.methods.METHODS` by a test: importing that would load PyTorch for --help
Method = Literal["scorecam-unet", "unet", "scorecam", "autoencoder", "padim", "patch-svdd"]


@app.command(rich_help_panel="Main job")
def train(
    labels: Annotated[
        Path,
        typer.Argument(help=LABELS_HELP),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder, e.g. runs/my-plate.")],
    method: Annotated[
        Method,
        typer.Option(
            help="What learns. scorecam-unet: the method of this program. unet: a U-Net trained on drawn masks. "
            "scorecam: the classifier's maps alone. autoencoder, padim, patch-svdd: what differs from clean "
            "images, from which alone they learn."
        ),
    ] = "scorecam-unet",
    preset: Annotated[
        Literal["best", "quick", "paper"] | None,
        typer.Option(
            help="best (unet, scorecam-unet): small networks on binned images, minutes on a laptop; pseudo-labels from "
            "what each pixel contributes, drawn to edges and tested part by part, artifacts pasted on clean images. "
            "quick: the same networks, a plainer and faster way from labels to masks, which are far worse where that "
            "was measured. paper: as published (scorecam-unet: ResNet50 and the full U-Net for 150 epochs); for a GPU.",
            show_default="best; quick where a method has no best",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one setting of the preset, e.g. --set unet.schedule.epochs=30 --set binning=2 "
            "--set device=cuda. Repeat for more; configuration.json in a run folder shows all names.",
        ),
    ] = None,
    masks: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many drawn masks of artifact images in the train split join (scorecam-unet); without this, none "
            "is read. With preset best they also teach how far artifacts reach in all other images. "
            "`artseg suggest` names images that are worth it.",
        ),
    ] = None,
    kinds: Annotated[
        bool,
        typer.Option(
            "--kinds",
            help="Tell kinds of artifact apart (scorecam-unet), by the column kinds of labels.csv, e.g. dust;fibre.",
        ),
    ] = False,
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(min=0, help="Side of a pixel in um, instead of what the files say.")
    ] = None,
    no_export: Annotated[bool, typer.Option("--no-export", help="Train only; run `artseg export` later.")] = False,
) -> None:
    """Learn to find artifacts from images sorted into clean and artifact.

    A classifier learns the labels, ScoreCAM shows which pixels convinced it, and a U-Net learns these pixels. Masks
    are not needed: they are read only if `--masks` or `--set choose_by=masks` asks for it, or by `--method unet`, and
    images of the test split never.

    The model, for `artseg segment` and CellProfiler, is packages/NAME-unet.zip in the run folder; training.png there
    shows what was learned. A training that was stopped goes on with the same command.
    """
    from artseg_models.methods import METHODS, configure
    from artseg_models.methods import train as train_run
    from artseg_models.packages.export import export_run, why_no_package
    from artseg_models.report.training import write_training_sheet
    from artseg_models.training.configuration import parse_overrides

    chosen = preset or ("best" if "best" in METHODS[method].presets else "quick")
    try:
        overrides = {
            **parse_overrides(settings or []),
            **({} if masks is None else {"masks": masks}),
            **({"kinds": True} if kinds else {}),
            **({} if plane is None else {"plane": plane}),
            **({} if pixel_size is None else {"pixel_size_um": pixel_size}),
        }
        configure(chosen, method=method, seed=seed, overrides=overrides)
    except ArtSegError as error:
        raise typer.BadParameter(str(error)) from error
    run = train_run(labels, out, method=method, preset=chosen, seed=seed, overrides=overrides)
    if not (run / "training.png").exists():
        write_training_sheet(run, run / "training.png")
    console.print(f"Trained: {run} (how it went: {run / 'training.png'})")
    if no_export:
        return
    reason = why_no_package(run)
    if reason is not None:
        console.print(f"No package of {method}: {reason}. Give the run folder itself as --model.")
        return
    for package in export_run(run, run / "packages").paths:
        console.print(f"Package: {package}")
