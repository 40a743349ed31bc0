"""The command line: parses, calls, prints. Each verb is a function elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from artseg_models import __version__
from artseg_models.errors import ArtSegError

if TYPE_CHECKING:
    from artseg_models.evaluate import Evaluation
    from artseg_models.labels import LabelReport

app = typer.Typer(
    name="artseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",  # without it, lines of a docstring are not joined to the terminal's width
    help="""Find dust, fibres, bubbles and dead cells in brightfield images, and mask them.

You sort whole images into clean and artifact; nobody draws outlines. In this order:

1. `artseg labels check LABELS` looks through the sorted images.

2. `artseg train LABELS --out runs/NAME` learns a model from them.

3. `artseg segment IMAGES --model runs/NAME/packages/NAME-unet.zip --out masks` writes the masks; in CellProfiler the
module SegmentArtifacts does so, after `artseg cellprofiler install`.

`artseg demo` shows all of it on simulated images.""",
)
console = Console()

Device = Literal["auto", "cuda", "mps", "cpu"]
_DEVICE_HELP = (
    "Where the network runs: auto takes a graphics card where there is one, cuda is an NVIDIA card, mps an Apple one, "
    "cpu the processor."
)


def _show_version(asked: bool) -> None:
    if asked:
        console.print(f"artseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show more of what is done.")] = False,
) -> None:
    """Options of every command."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_level=verbose)],
    )
    for noisy in ("matplotlib", "PIL", "httpx", "urllib3", "bioimageio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # it logs what it then raises
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


# ---- labels and simulation ----

_LABELS_HELP = (
    "A folder with the subfolders clean and artifact; or a table labels.csv with the columns image and label, and if "
    "wanted split, group and mask; or a folder in the layout of ArtSeg-CHO-M4R."
)

labels_app = typer.Typer(no_args_is_help=True, help="Look through sorted images before training.")
app.add_typer(labels_app, name="labels", rich_help_panel="Main job")


@labels_app.command("check")
def labels_check(
    source: Annotated[Path, typer.Argument(help=_LABELS_HELP)],
    mask_polarity: Annotated[
        Literal["auto", "artifact-high", "artifact-low"],
        typer.Option(
            help="Only where there are masks: whether artifacts are white (artifact-high) or black (artifact-low) in "
            "them; auto finds out and says why."
        ),
    ] = "auto",
) -> None:
    """Look through labels, images and masks, and say what to mend before training.

    Counts images by class and split, and finds unreadable or missing files, images that occur twice, and groups that
    lie in more than one split. Ends with exit code 1 when something must be mended.
    """
    from artseg_models.labels import check_labels

    report = check_labels(source, mask_polarity=mask_polarity)
    _show_labels(report)
    if report.errors:
        raise ArtSegError(f"{source} cannot be trained from: mend the {len(report.errors)} errors listed above.")


def _show_labels(report: LabelReport) -> None:
    from artseg_models.labels import SPLITS

    console.print(f"Labels of {report.source}", highlight=False, markup=False)
    images = Table()
    for name in ("split", "clean", "artifact"):
        images.add_column(name, justify="left" if name == "split" else "right")
    for split in (*SPLITS, None):
        clean, artifact = report.counts.get((split, "clean"), 0), report.counts.get((split, "artifact"), 0)
        if clean or artifact:
            images.add_row(split or "none given", str(clean), str(artifact))
    console.print(images)
    facts = Table.grid(padding=(0, 2))
    for name, counted in (
        ("Sizes", {f"{width} x {height}": number for (width, height), number in report.sizes.most_common()}),
        ("Bits", {str(bits): number for bits, number in report.bit_depths.most_common()}),
        (
            "Pixel size",
            {f"{size:g} um" if size else "unknown": number for size, number in report.pixel_sizes_um.most_common()},
        ),
    ):
        shown = [f"{value} ({number} images)" for value, number in list(counted.items())[:5]]
        if len(counted) > len(shown):
            shown.append(f"and {len(counted) - len(shown)} more")
        facts.add_row(name, ", ".join(shown) or "-")
    facts.add_row("Groups", str(report.groups))
    facts.add_row("Masks", f"{report.masks}. {report.polarity}".strip())
    facts.add_row("Twice", f"{len(report.duplicates)} images occur more than once")
    console.print(facts, highlight=False)
    for colour, kind, messages in (("yellow", "Warning", report.warnings), ("red", "Error", report.errors)):
        for message in messages:
            console.print(f"[bold {colour}]{kind}:[/] {escape(message)}", highlight=False)
    console.print(
        f"{len(report.errors)} errors, {len(report.warnings)} warnings.", style="red" if report.errors else "green"
    )


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


# ---- training, prediction ----


@app.command(rich_help_panel="Main job")
def train(
    labels: Annotated[
        Path,
        typer.Argument(help=_LABELS_HELP),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder, e.g. runs/my-plate.")],
    preset: Annotated[
        Literal["quick", "paper"],
        typer.Option(
            help="quick: small networks on binned images, minutes on a laptop. paper: ResNet50 and the full U-Net for "
            "150 epochs, as published; for a GPU."
        ),
    ] = "quick",
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
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(min=0, help="Side of a pixel in um, instead of what the files say.")
    ] = None,
    no_export: Annotated[bool, typer.Option("--no-export", help="Train only; run `artseg export` later.")] = False,
) -> None:
    """Learn to find artifacts from images sorted into clean and artifact.

    A classifier learns the labels, ScoreCAM shows which pixels convinced it, and a U-Net learns these pixels. Masks
    are not needed: they are read only if `--set choose_by=masks` asks for it, and images of the test split never.

    The model, for `artseg segment` and CellProfiler, is packages/NAME-unet.zip in the run folder; training.png there
    shows what was learned. A training that was stopped goes on with the same command.
    """
    from artseg_models.methods import train as train_run
    from artseg_models.packages.export import export_packages
    from artseg_models.report.training import write_training_sheet
    from artseg_models.training.configuration import configure, parse_overrides

    try:
        overrides = {
            **parse_overrides(settings or []),
            **({} if plane is None else {"plane": plane}),
            **({} if pixel_size is None else {"pixel_size_um": pixel_size}),
        }
        configure(preset, seed=seed, overrides=overrides)
    except ArtSegError as error:
        raise typer.BadParameter(str(error)) from error
    run = train_run(labels, out, preset=preset, seed=seed, overrides=overrides)
    if not (run / "training.png").exists():
        write_training_sheet(run, run / "training.png")
    console.print(f"Trained: {run} (losses and pseudo-labels: {run / 'training.png'})")
    if no_export:
        return
    for package in export_packages(run, run / "packages").paths:
        console.print(f"Package: {package}")


@app.command(rich_help_panel="Main job")
def segment(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            "-m",
            help="The model: NAME-unet.zip of a training, or another package of the BioImage Model Zoo.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks, maps and segmentation.csv.")],
    device: Annotated[Device, typer.Option(help=_DEVICE_HELP)] = "auto",
    cutoff: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Pixels from this probability on are artifact; lower finds more. Default: as the model says.",
        ),
    ] = None,
    smallest_artifact: Annotated[
        int | None, typer.Option(min=0, help="Drop artifacts with fewer pixels. Default: as the model says.")
    ] = None,
    smallest_artifact_um2: Annotated[
        float | None, typer.Option(min=0, help="The same as an area in um2; needs the images' pixel size.")
    ] = None,
    gate_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Image probability below which an image is clean. Default: as the model says."),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Whether the classifier may call a whole image clean.")
    ] = True,
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(min=0, help="Side of a pixel in um, instead of what the files say.")
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write pictures with the artifacts outlined.")
    ] = False,
    geojson: Annotated[bool, typer.Option("--geojson", help="Also write outlines that QuPath opens.")] = False,
) -> None:
    """Write an artifact mask and a probability map for every image, and one table for all.

    NAME_artifacts.tif holds 255 on artifacts and 0 elsewhere, NAME_probability.tif the probability of artifact, 0 to 1,
    and segmentation.csv one row for each image: verdict, area fraction, number of artifacts. A file that cannot be
    used is listed there and at the end; the others are done.
    """
    if smallest_artifact is not None and smallest_artifact_um2 is not None:
        raise typer.BadParameter("give --smallest-artifact or --smallest-artifact-um2, not both")
    from artseg_models.packages.read import read_package
    from artseg_models.predict import Predictor
    from artseg_models.segment import images_of, segment_images

    done = segment_images(
        Predictor(read_package(model), device=device),
        images_of(images),
        out,
        cutoff=cutoff,
        smallest_artifact_px=smallest_artifact,
        smallest_artifact_um2=smallest_artifact_um2,
        gate=gate,
        gate_threshold=gate_threshold,
        plane=plane,
        pixel_size_um=pixel_size,
        overlay=overlay,
        geojson=geojson,
    )
    console.print(f"{done.done} images segmented; table: {done.table}")
    if done.failed:
        listed = "\n".join(f"  {path}: {reason}" for path, reason in done.failed)
        raise ArtSegError(
            f"{len(done.failed)} of {done.done + len(done.failed)} images could not be segmented:\n{listed}"
        )


# ---- packages ----

PackagePath = Annotated[Path, typer.Argument(help="A package: zip file or folder.")]


@app.command("export", rich_help_panel="Main job")
def export_run(
    run: Annotated[Path, typer.Argument(help="Run folder, as given to `artseg train --out`.", file_okay=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the packages; packages/ in the run folder if not given.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the packages; that of the run if not given.")] = None,
    model_version: Annotated[str, typer.Option(help="Version of the model.")] = "0.1.0",
    author: Annotated[str, typer.Option(help="Who trained the model.")] = "ArtSeg developers",
    maintainer: Annotated[
        str | None, typer.Option(help="GitHub user who answers questions; the Model Zoo asks for one.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the model, an SPDX identifier.")] = "BSD-3-Clause",
) -> None:
    """Write a run's Model Zoo packages: NAME-unet.zip, NAME-classifier.zip and NAME-combined.zip.

    The combined one gives a mask instead of a map, for programs that only run a network, such as deepImageJ.

    Those that end in -0.5.10.zip are the same models in the format that deepImageJ, ilastik and older versions of
    bioimageio.core open.
    """
    from artseg_models.packages.export import export_packages

    exported = export_packages(
        run,
        out or run / "packages",
        name=name,
        version=model_version,
        author=author,
        maintainer=maintainer,
        licence=licence,
    )
    for path in exported.paths:
        console.print(str(path), highlight=False, soft_wrap=True)


package_app = typer.Typer(no_args_is_help=True, help="Look at a model: where it comes from, and whether it is whole.")
app.add_typer(package_app, name="package", rich_help_panel="More")


@package_app.command("info")
def package_info(package: PackagePath) -> None:
    """Show what a package is, and the cutoff, smallest artifact and gate that it states."""
    from artseg_models.packages.read import read_package

    read = read_package(package, any_kind=True)
    origin = "" if read.stated else " (not stated by the package)"
    numbers = {name: value for name, value in read.validation.items() if isinstance(value, int | float)}
    rows = {
        "id": read.id,
        "name": read.name,
        "version": read.version,
        "kind": read.kind,
        "SHA-256": read.sha256,
        "format": read.format_version,
        "weights": ", ".join(read.weights),
        "image size": f"from {read.y.minimum} x {read.x.minimum} pixels, in steps of {read.y.step} x {read.x.step}",
        "cutoff": f"{read.cutoff:g}{origin}",
        "smallest artifact": f"{read.smallest_artifact_px} pixels{origin}",
        "gate": "none" if read.gate_threshold is None else f"{read.gate_threshold:g}",
        "pixel size": "unknown" if read.pixel_size_um is None else f"{read.pixel_size_um:g} um",
        "trained on": _trained_on(read.training),
        "validation": ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()) or "not stated",
        "preprocessing": ", ".join(operation.id for operation in read.preprocessing) or "none",
        "postprocessing": ", ".join(operation.id for operation in read.postprocessing) or "none",
        "authors": ", ".join(read.authors),
        "licence": read.licence,
        "cite": "; ".join(citation.doi or citation.text for citation in read.cite),
        "description": read.description,
    }
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for row, value in rows.items():
        table.add_row(row, escape(value))
    console.print(table, highlight=False)


def _trained_on(training: Mapping[str, Any]) -> str:
    """Name a model's labels and how many images of each split they are."""
    counts: Mapping[str, Mapping[str, int]] = training.get("counts") or {}
    images = [
        f"{split}: {', '.join(f'{number} {label}' for label, number in of_split.items())}"
        for split, of_split in counts.items()
    ]
    return "; ".join([str(training.get("source") or "not stated"), *images])


@package_app.command("check")
def package_check(
    package: PackagePath,
    trust: Annotated[
        bool, typer.Option("--trust", help="Also test the state dict, which runs the package's own Python.")
    ] = False,
) -> None:
    """Say which programs open a package and why not, and test it with the Model Zoo's own reader.

    Whether a program opens it follows from rules, each with its source; only what the second table names was run.
    Exits with 1 when ArtSeg does not open it or the Zoo's test fails.
    """
    from artseg_models.packages.check import check_package

    found = check_package(package, trust=trust)
    if found.consumers:
        programs = Table("program", "opens it", "why not, or what to know", "rule from")
        for verdict in found.consumers:
            opens = "[green]yes[/]" if verdict.opens else "[red]no[/]"
            reasons, sources = (escape("; ".join(texts)) for texts in (verdict.reasons, verdict.sources))
            programs.add_row(verdict.consumer, opens, reasons, sources)
        console.print(programs, highlight=False)
    table = Table("tried here", "outcome", "detail")
    colours = {"passed": "green", "failed": "red", "not run": "yellow"}
    for finding in found.findings:
        table.add_row(finding.what, f"[{colours[finding.outcome]}]{finding.outcome}[/]", escape(finding.detail))
    console.print(table, highlight=False)
    if found.failed:
        raise typer.Exit(1)


# ---- evaluation, demo ----


@app.command(rich_help_panel="Main job")
def evaluate(
    package: Annotated[Path, typer.Argument(exists=True, help="A model package: zip file or folder.")],
    labels: Annotated[Path, typer.Argument(exists=True, help=_LABELS_HELP)],
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option(help="Which images to score; those of the split test took no part in training."),
    ] = "test",
    ignore: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Image that is white where pixels are not to be scored."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", file_okay=False, help="Folder for evaluation.csv, .json and overlays.png."),
    ] = None,
    cutoff: Annotated[float | None, typer.Option(min=0, max=1, help="Instead of the model's own cutoff.")] = None,
    smallest_artifact: Annotated[
        int | None, typer.Option(min=0, help="Smallest artifact in pixels, instead of the model's own.")
    ] = None,
    gate: Annotated[bool, typer.Option(help="Let the classifier call images clean.")] = True,
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    device: Annotated[Device, typer.Option(help=_DEVICE_HELP)] = "auto",
    mask_polarity: Annotated[
        Literal["auto", "artifact-high", "artifact-low"],
        typer.Option(help="Whether artifacts are white (artifact-high) or black (artifact-low) in the masks."),
    ] = "auto",
) -> None:
    """Score a model on labelled images: how many images it calls right, and how well its masks fit drawn ones.

    Precision is the share of what was found that is right, recall the share of the true that was found, F1 their
    mean, IoU the overlap of found and drawn area divided by their union. Images without a drawn mask count for the
    verdicts only.
    """
    from artseg_models.evaluate import Options, read_ignore, write_evaluation
    from artseg_models.evaluate import evaluate as score
    from artseg_models.labels import read_labels
    from artseg_models.packages.read import read_package
    from artseg_models.predict import Predictor
    from artseg_models.report.montage import write_montage

    found = read_labels(labels, mask_polarity=mask_polarity)
    items = found.images if split == "all" else found.of_split(split)
    if not items:
        raise ArtSegError(
            f"Expected images of the split {split} in {labels}, but none of its {len(found.images)} images has it. "
            "Give the splits.csv of the training run, or --split all."
        )
    predictor = Predictor(read_package(package), device=device)
    options = Options(cutoff=cutoff, smallest_artifact_px=smallest_artifact, gate=gate)
    ignored = None if ignore is None else read_ignore(ignore)
    evaluation = score(predictor, items, ignore=ignored, options=options, plane=plane)
    _show_evaluation(evaluation, split)
    if out is not None:
        write_montage(predictor, evaluation, out / "overlays.png", options=options, plane=plane)
        write_evaluation(evaluation, out)
        console.print(f"Written to {out}: evaluation.csv, evaluation.json, overlays.png", highlight=False)
    if evaluation.failed:
        listed = "\n".join(f"  {item.path}: {reason}" for item, reason in evaluation.failed)
        raise ArtSegError(f"{len(evaluation.failed)} of {len(items)} images could not be scored:\n{listed}")


def _show_evaluation(evaluation: Evaluation, split: str) -> None:
    table = Table(title=f"{len(evaluation.scores)} images ({split})", title_justify="left")
    for name in ("", "precision", "recall", "F1", "IoU", "found", "false", "missed"):
        table.add_column(name, justify="right" if name else "left")
    rows = [("Images", evaluation.images), ("Images, by objects alone", evaluation.images_by_objects)]
    if evaluation.pixels is not None:
        rows.append(("Pixels, pooled", evaluation.pixels))
    for name, counts in rows:
        ratios = (counts.precision, counts.recall, counts.f1, counts.iou)
        table.add_row(
            name,
            *("-" if ratio != ratio else f"{ratio:.3f}" for ratio in ratios),
            *map(str, (counts.true_positive, counts.false_positive, counts.false_negative)),
        )
    console.print(table)
    console.print(f"Rule for images: {evaluation.rule}.", highlight=False)
    console.print(evaluation.audit.line(), highlight=False, soft_wrap=True)


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
) -> None:
    """Show the whole chain on simulated images: train, export, measure in CellProfiler with and without masks.

    Run it again to go on where it was stopped.
    """
    from artseg_models.demo import demo

    demo(out, size=size, seed=seed, say=lambda line: console.print(line, highlight=False, soft_wrap=True))


# ---- CellProfiler, service ----

cellprofiler_app = typer.Typer(no_args_is_help=True, help="Set up CellProfiler and run pipelines without its window.")
app.add_typer(cellprofiler_app, name="cellprofiler", rich_help_panel="Main job")


@cellprofiler_app.command("install")
def cellprofiler_install(
    plugins_folder: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="CellProfiler's plugins folder; without it, the one in CellProfiler's preferences.",
        ),
    ] = None,
) -> None:
    """Copy the module SegmentArtifacts into CellProfiler's plugins folder and note where this Python is."""
    from artseg_models.cellprofiler import install

    for folder in install(plugins=plugins_folder):
        console.print(f"SegmentArtifacts is in {folder}; start CellProfiler again to see it.", highlight=False)


@cellprofiler_app.command("compare")
def cellprofiler_compare(
    before: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Results of one run, say without masks.")
    ],
    after: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Results of the other, say with masks.")],
    objects: Annotated[str, typer.Option(help="The objects to compare, as the pipeline names them.")] = "Nuclei",
    measurements: Annotated[
        list[str] | None,
        typer.Option("--measurement", help="Only measurements whose name holds this; repeat for more."),
    ] = None,
) -> None:
    """Show how counts and mean measurements differ between two runs of a pipeline."""
    from artseg_models.compare import compare_runs

    changes = compare_runs(before, after, objects=objects, measurements=tuple(measurements or ()))
    table = Table("measurement", *(f"{folder.name}" for folder in (before, after)), "change")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for change in changes:
        table.add_row(change.measurement, f"{change.before:.5g}", f"{change.after:.5g}", f"{change.relative:+.1%}")
    console.print(table)


@cellprofiler_app.command("run")
def cellprofiler_run(
    pipeline: Annotated[
        str, typer.Argument(help="A .cppipe or .cpproj file, or an example: artifacts_masked, no_masking.")
    ],
    images: Annotated[
        Path, typer.Option("--images", "-i", exists=True, file_okay=False, help="Folder with the images.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder for what the pipeline writes.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", exists=True, help="Model package for every SegmentArtifacts.")
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PATTERN, repeatable: which files are the channels of the example pipelines, for instance "
            "brightfield=*ch1*, dna=*ch5*, signal=*ch2*.",
        ),
    ] = None,
    cellprofiler: Annotated[
        Path | None,
        typer.Option(help="The cellprofiler executable; without it, ARTSEG_CELLPROFILER, then the one on PATH."),
    ] = None,
) -> None:
    """Run a pipeline in CellProfiler without its window and check that it wrote its results."""
    from artseg_models.cellprofiler import find_pipeline, run_pipeline

    channels: dict[str, str] = {}
    for item in channel or []:
        name, equals, pattern = item.partition("=")
        if not (name and equals and pattern):
            raise typer.BadParameter(f"expected NAME=PATTERN, got '{item}'", param_hint="--channel")
        channels[name] = pattern
    written = run_pipeline(
        find_pipeline(pipeline),
        images,
        out,
        package=model,
        cellprofiler=[str(cellprofiler)] if cellprofiler else None,
        channels=channels or None,
    )
    console.print(f"CellProfiler wrote its results to {written}", highlight=False)


@cellprofiler_app.command("insert")
def cellprofiler_insert(
    pipeline: Annotated[Path, typer.Argument(help="The pipeline to insert into, a .cppipe file; it stays as it is.")],
    brightfield: Annotated[str, typer.Option(help="Name of the brightfield image in the pipeline.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new .cppipe file.")],
    mask_images: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Image in which artifacts are blanked; repeat, or separate by commas."),
    ] = None,
    objects: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Objects to drop where artifacts are; repeat, or separate by commas."),
    ] = None,
    package: Annotated[
        Path | None, typer.Option("--package", "-m", help="Model package; without it, choose one in CellProfiler.")
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Objects are dropped whole if more than this share of them lies under artifacts. Default: 0.5. In "
            "objects that are found in a masked image, every touch counts.",
        ),
    ] = None,
    cut_objects: Annotated[
        bool, typer.Option("--cut-objects", help="Cut artifacts off objects instead of dropping them whole.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
) -> None:
    """Put SegmentArtifacts into a pipeline so that every measurement keeps its name.

    The raw image or objects get a new name (DNA becomes DNA_unmasked), the masked ones take the old; all else stays as
    it is. The changes are listed first.
    """
    if cut_objects and overlap is not None:
        raise typer.BadParameter("give --overlap or --cut-objects, not both")
    from artseg_models.pipelines.insert import plan_insertion, write_pipeline
    from artseg_models.pipelines.text import read_pipeline

    plan = plan_insertion(
        read_pipeline(pipeline),
        brightfield=brightfield,
        mask_images=_names(mask_images),
        objects=_names(objects),
        package=package,
        overlap=overlap,
        cut_objects=cut_objects,
    )
    for line in plan.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for note in plan.notes:
        console.print(f"! {note}", highlight=False, markup=False, soft_wrap=True)
    if not yes:
        if not sys.stdin.isatty():
            raise ArtSegError(f"{out} was not written: nobody is there to ask. Add --yes to write it.")
        if not typer.confirm(f"Write {out}?"):
            raise typer.Exit(1)
    write_pipeline(plan.apply(), out)
    console.print(f"Wrote {out}", highlight=False, markup=False, soft_wrap=True)


def _names(given: list[str] | None) -> list[str]:
    return [name.strip() for item in given or [] for name in item.split(",") if name.strip()]


@app.command(rich_help_panel="More")
def serve(
    device: Annotated[Device, typer.Option(help=_DEVICE_HELP)] = "auto",
    idle_minutes: Annotated[
        float, typer.Option(min=0, help="End after so many minutes without a request; 0 means never.")
    ] = 10.0,
    status: Annotated[bool, typer.Option("--status", help="Tell whether a service runs; start none.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the running service.")] = False,
) -> None:
    """Serve models to CellProfiler on this computer; the module SegmentArtifacts starts this by itself."""
    from artseg_models.service import server

    if status:
        found = server.status(device=device)
        if found is None:
            console.print("No service runs.")
            raise typer.Exit(1)
        console.print_json(data=found)
    elif stop:
        console.print("The service has ended." if server.stop(device=device) else "No service runs.")
    else:
        try:
            server.serve(device=device, idle_minutes=idle_minutes)
        except server.AlreadyRunningError as error:
            Console(stderr=True).print(str(error), highlight=False)
            raise typer.Exit(server.ALREADY_RUNNING) from error


def main() -> None:
    """Run the command line; a problem that the user can mend ends in its message and exit code 1."""
    # before PyTorch is loaded: its threads spin while they wait, which costs half the speed as soon as anything else
    # runs on the machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ArtSegError as error:
        _fail(str(error))
    except OSError as error:
        # wherever it happens, it is the disk's or the user's to mend
        logging.getLogger(__name__).debug("where it happened", exc_info=True)
        _fail(
            f"Could not read or write {error.filename or 'a file'}: {error.strerror or error}. Free space, or check "
            "the path and whether you may write there. With artseg --verbose the place in the program is shown too."
        )


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
