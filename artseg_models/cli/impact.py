"""`artseg impact`: what artifacts do to results, and what removing them gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from artseg_models.cli.terminal import DEVICE_HELP, Device, app, console
from artseg_models.errors import ArtSegError

if TYPE_CHECKING:
    from artseg_models.impact.affinity import Affinity
    from artseg_models.impact.nuclei import NucleiScore
    from artseg_models.impact.wells import FieldIntensity

impact_app = typer.Typer(
    no_args_is_help=True, help="What artifacts do to your results, and what removing them gives back."
)
app.add_typer(impact_app, name="impact", rich_help_panel="More")


@impact_app.command("affinity")
def affinity(
    layout: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="Plate layout, CSV: well, concentration_M (or _mM, _uM, _nM, _pM, or plain concentration), and if "
            "wanted plate, experiment, compound, true_log_ic50.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder for tables and figures.")],
    treatment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TABLE",
            help="From CellProfiler, repeatable: none=RESULTS, model=RESULTS, manual=RESULTS. TABLE is an output "
            "folder with Image.csv, a CSV file, or the SQLite file of ExportToDatabase.",
        ),
    ] = None,
    cell_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the cells' mean intensity; Cells:Intensity_MeanIntensity_Signal averages Cells.csv over "
            "the pixels of all cells."
        ),
    ] = None,
    background_column: Annotated[
        str | None, typer.Option(help="Column of the background's mean intensity; without it nothing is subtracted.")
    ] = None,
    usable_column: Annotated[
        str | None,
        typer.Option(help="Column of the usable share of the field; ArtSeg_AreaFraction_... is turned round."),
    ] = None,
    saturation_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the share of saturated pixels; ImageQuality_PercentMaximal_... is divided by 100."
        ),
    ] = None,
    well_column: Annotated[str | None, typer.Option(help="Column of the well, instead of Metadata_Well.")] = None,
    plate_column: Annotated[str | None, typer.Option(help="Column of the plate, instead of Metadata_Plate.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Instead of tables: folder with A01_s1_signal.tiff and so on."),
    ] = None,
    cells: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="With --images: folder with label maps, A01_s1_cells.tiff or A01_s1_brightfield_cells.tif.",
        ),
    ] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="With --images, repeatable: folder with A01_s1_artifacts.tiff (or A01_s1_brightfield_artifacts.tif, "
            "as artseg segment writes). The treatment 'none' is always measured too.",
        ),
    ] = None,
    channel: Annotated[str, typer.Option(help="With --images: the channel to measure.")] = "signal",
    reference: Annotated[
        str | None, typer.Option(help="Treatment that the others are compared with. Default: manual, else the first.")
    ] = None,
    slope: Annotated[
        str, typer.Option(help="Hill coefficient: -1 for displacement, 1 for a rising response, or free to fit it.")
    ] = "-1",
    outliers: Annotated[
        Literal["keep", "drop"], typer.Option(help="Whether outliers stay in the fit; they are listed either way.")
    ] = "keep",
    most_saturated: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out wells with more saturated pixels than this share.")
    ] = 0.01,
    least_usable: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out wells with less usable area than this share.")
    ] = 0.05,
) -> None:
    """Fit dose-response curves with and without artifacts removed, and say how far the doses move.

    Fields are averaged to wells, and the background is subtracted from the cells: the specific intensity. Each
    experiment of the layout gives one curve for each treatment. Written are wells.csv, fits.csv, summary.csv, notes.txt
    and curves.png/.svg.

    Rules, each case listed in notes.txt: a well is left out when it was not measured, lost to artifacts
    (--least-usable), has no cells or no background, or is saturated (--most-saturated). Outliers are wells that lie off
    the curve of the others (false discovery rate 1 %). A curve without a half-maximal dose (not converged, interval
    wider than the doses, more than a log unit beyond them) takes no part in the comparison.
    """
    from artseg_models.impact.affinity import compare_treatments, write_affinity
    from artseg_models.impact.curves import write_curves
    from artseg_models.impact.wells import read_layout, read_measurements

    if bool(treatment) == (images is not None):
        raise ArtSegError("Expected either tables (--treatment none=RESULTS ...) or images (--images and --cells).")
    steep = None if slope == "free" else _number(slope)
    places = read_layout(layout)
    measured: dict[str, list[FieldIntensity]] = {}
    if images is not None:
        measured = _from_images(images, cells, _pairs(masks, "--masks"), channel)
    else:
        if cell_column is None:
            raise ArtSegError("Expected --cell-column, the column of the cells' mean intensity in the tables.")
        for name, source in _pairs(treatment, "--treatment").items():
            measured[name] = read_measurements(
                source,
                cell=cell_column,
                background=background_column,
                usable=usable_column,
                saturated=saturation_column,
                well=well_column,
                plate=plate_column,
            )
    compared = compare_treatments(
        places,
        measured,
        reference=reference or ("manual" if "manual" in measured else next(iter(measured))),
        slope=steep,
        outliers=outliers,
        most_saturated=most_saturated,
        least_usable=least_usable,
    )
    write_affinity(compared, out)
    write_curves(compared, out)
    _show(compared)
    console.print(
        f"Written to {out}: wells.csv, fits.csv, summary.csv, notes.txt, curves.png, curves.svg", highlight=False
    )


@impact_app.command("nuclei")
def nuclei(
    truth: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="Folder with label maps of the true nuclei, NAME.tiff; or a folder of such folders, one a plate (then "
            "every other folder holds one a plate, too).",
        ),
    ],
    found: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="The found nuclei. A folder of label maps: NAME.tiff, or NAME_brightfield_nuclei.tiff as the example "
            "pipelines of CellProfiler save them (results folders are taken as they are). Or a model package that "
            "finds nuclei in --images.",
        ),
    ],
    masks: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FOLDER",
            help="Artifact masks, repeatable: true=FOLDER, model=FOLDER. Files NAME.png, NAME_artifacts.tif or "
            "NAME_brightfield_artifacts.tif; above 0 is artifact.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder for tables and figures.")],
    reference: Annotated[str, typer.Option(help="Which of the masks are the true ones.")] = "true",
    measured: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="Nuclei found in images in which the masks of this name were applied, such as the results of "
            "artifacts_masked; repeatable. A nucleus that the mask touches is out there, true ones too.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Brightfield images NAME.tiff or NAME_brightfield.tiff: for a model, and to draw zooms.png.",
        ),
    ] = None,
    overlap: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="A nucleus lies in an artifact from this share of its pixels on."),
    ] = 0.5,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = "auto",
) -> None:
    """Score nuclei in artifacts, beside them, everywhere, and after removal, and measure their size and solidity.

    A nucleus lies in an artifact when at least --overlap of its pixels are under the mask. Pixel and object F1 (found
    and true nucleus overlap by half of their union or more) are averaged over images, size and solidity over nuclei, as
    in the paper. Written are summary.csv, images.csv, nuclei.csv, densities.png (the paper's Figure 5 and Supplementary
    Figure 4) and with --images zooms.png (its Figure 4). Images without a mask count as clean and are listed.
    """
    from artseg_models.impact.nuclei import find_nuclei, score_folders, write_nuclei
    from artseg_models.progress import track

    if found.is_file() or (found / "rdf.yaml").is_file():
        from artseg_models.packages.read import read_package
        from artseg_models.predict import Predictor

        if images is None:
            raise ArtSegError(f"Expected --images, in which {found.name} finds nuclei.")
        predictor = Predictor(read_package(found), device=device)
        found = out / "found"
        find_nuclei(predictor, images, truth, found, progress=lambda paths: track(paths, "Finding nuclei", len(paths)))
    named = _pairs(masks, "--masks")
    scores, notes = score_folders(
        truth,
        found,
        named,
        reference=reference,
        measured=_pairs(measured, "--measured"),
        overlap=overlap,
        progress=lambda paths: track(paths, "Scoring nuclei", len(paths)),
    )
    write_nuclei(scores, out)
    written = "summary.csv, images.csv, nuclei.csv, densities.png"
    if images is not None:
        from artseg_models.impact.zooms import write_zooms

        if write_zooms(scores, out / "zooms.png", images=images, truth=truth, found=found, artifacts=named[reference]):
            written += ", zooms.png"
        else:
            notes.append("No zooms.png: no image has nuclei both in artifacts and beside them.")
    show_nuclei(scores)
    for note in notes:
        console.print(f"! {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Written to {out}: {written}", highlight=False)


@impact_app.command("chain")
def chain(
    out: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the chain; the same command goes on there.")],
    compound: Annotated[
        list[str] | None,
        typer.Option(
            help="Only experiments of this compound, repeatable: see artseg simulate assay. Default: all ten."
        ),
    ] = None,
    fields_per_well: Annotated[int, typer.Option(min=1, help="How many fields of each well.")] = 1,
    size: Annotated[
        Literal["standard", "tiny"],
        typer.Option(help="tiny shows in minutes that everything works, not how well."),
    ] = "standard",
    models: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="packages/ of an earlier chain: nothing is trained then."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images and trainings.")] = 0,
) -> None:
    """Repeat the paper's second half on simulated plates: labels, training, CellProfiler, nuclei and log IC50.

    One plate teaches: clean or artifact the artifact model, label maps the networks of nuclei and cell bodies. On
    another, CellProfiler measures nuclei and intensities without removal of artifacts, with the model's masks, and with
    the true masks. Tables and figures are those of artseg impact nuclei and artseg impact affinity, in OUT/nuclei,
    OUT/nuclei_brightfield and OUT/affinity; OUT/goals.csv says how near the model's masks come to the true ones.

    Stop it at any time: what is done is not done again.
    """
    from artseg_models.impact.chain import read_goals, run_chain

    run_chain(
        out,
        size=size,
        seed=seed,
        compounds=compound,
        fields_per_well=fields_per_well,
        models=models,
        say=lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    )
    table = Table(title="The model's masks against the true ones", title_justify="left")
    for name in ("", "found", "wanted", "met", "paper, other images"):
        table.add_column(name, justify="right" if name else "left", no_wrap=not name)
    for goal in read_goals(out):
        bound = f"{'at most' if goal.at_most else 'at least'} {goal.wanted:g}"
        table.add_row(goal.name, f"{goal.found:.3f}", bound, "yes" if goal.met else "no", f"{goal.paper:g}")
    console.print(table)


@impact_app.command("train")
def train(
    labels: Annotated[
        Path, typer.Argument(exists=True, help="labels.csv with images, splits and masks of the artifacts.")
    ],
    label_maps: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder with a label map an image, of the same name.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="The run folder.")],
    structure: Annotated[Literal["nuclei", "cells"], typer.Option(help="What the label maps show.")] = "nuclei",
    preset: Annotated[
        Literal["quick", "paper"], typer.Option(help="quick: a small network, for a processor; paper: wants a GPU.")
    ] = "quick",
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting: unet.schedule.epochs=30.")
    ] = None,
) -> None:
    """Train a network that finds nuclei or cell bodies in brightfield, and export it as a Model Zoo package.

    Pixels under artifacts add nothing to what it learns. The packages are in OUT/packages: artseg segment, artseg
    impact nuclei and SegmentArtifacts take them. Stop it at any time; the same command goes on.
    """
    from artseg_models.packages.structures import export_structure
    from artseg_models.training.configuration import parse_overrides
    from artseg_models.training.structures import train_structure

    run = train_structure(
        labels,
        label_maps,
        out,
        structure=structure,
        preset=preset,
        seed=seed,
        overrides=parse_overrides(setting or []),
    )
    newest, older = export_structure(run, out / "packages")
    console.print(f"Packages: {newest}, {older}", highlight=False)


def show_nuclei(scores: Sequence[NucleiScore]) -> None:
    """Print the summary beside the paper's figures."""
    from artseg_models.impact.nuclei import summarise

    table = Table(title="In brackets: the paper, other images", title_justify="left")
    for name in ("nuclei", "pixel F1", "object F1", "size, px", "solidity", "found/true"):
        table.add_column(name, justify="left" if name == "nuclei" else "right", no_wrap=name == "nuclei")
    for row in summarise(scores).to_dict("records"):
        cells: list[str] = []
        for name, form in (("pixel_f1", ".3f"), ("object_f1", ".3f"), ("area_px", ".0f"), ("solidity", ".3f")):
            value, paper = float(row[name]), float(row[f"paper_{name}"])
            shown = "-" if math.isnan(value) else f"{value:{form}}"
            cells.append(shown if math.isnan(paper) else f"{shown} ({paper:g})")
        table.add_row(str(row["area"]), *cells, f"{row['nuclei']}/{row['true_nuclei']}")
    console.print(table)


def _from_images(
    images: Path, cells: Path | None, masks: dict[str, Path], channel: str
) -> dict[str, list[FieldIntensity]]:
    from artseg_models.impact.wells import measure_images
    from artseg_models.progress import track

    if cells is None:
        raise ArtSegError("Expected --cells, the folder with the cells' label maps, beside --images.")
    return {
        name: measure_images(
            images,
            cells,
            masks=folder,
            channel=channel,
            progress=lambda paths, name=name: track(paths, f"Measuring, {name}", len(paths)),
        )
        for name, folder in ({**masks, "none": None}).items()
    }


def _pairs(given: list[str] | None, option: str) -> dict[str, Path]:
    pairs: dict[str, Path] = {}
    for item in given or []:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise typer.BadParameter(f"expected NAME=PATH, got '{item}'", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"'{name}' is given twice", param_hint=option)
        pairs[name] = Path(path)
    return pairs


def _number(slope: str) -> float:
    try:
        value = float(slope)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value == 0:
        raise typer.BadParameter(f"expected free or a number other than 0, got '{slope}'", param_hint="--slope")
    return value


def _show(compared: Affinity) -> None:
    from artseg_models.impact.affinity import paper_figures

    def text(value: float, paper: float = math.nan) -> str:
        shown = "-" if math.isnan(value) else f"{value:.3f}"
        return shown if math.isnan(paper) or math.isnan(value) else f"{shown} ({paper:.2f})"

    table = Table(title=f"Against '{compared.reference}' (in brackets: the paper, other images)", title_justify="left")
    for name in ("", "log IC50 apart", "from truth", "R2", "Pearson r", "SD of replicates", "curves", "wells out"):
        table.add_column(name, justify="right" if name else "left")
    for one in compared.summaries:
        # the paper compares with manual masks, so its differences and correlations say nothing of another reference
        paper = paper_figures(one.treatment, compared.reference)
        table.add_row(
            one.treatment,
            text(one.difference, paper.get("difference", math.nan)),
            text(one.from_truth),
            text(one.r2, paper.get("r2", math.nan)),
            text(one.r, paper.get("r", math.nan)),
            text(one.between_replicates, paper.get("between_replicates", math.nan)),
            f"{one.compared}/{one.experiments}",
            str(one.wells_left_out),
        )
    console.print(table)
    for note in compared.notes:
        console.print(f"! {note}", highlight=False, markup=False, soft_wrap=True)
