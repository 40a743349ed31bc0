"""`artseg labels`: look through sorted images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from artseg_models.cli.terminal import LABELS_HELP, app, console
from artseg_models.errors import ArtSegError

if TYPE_CHECKING:
    from artseg_models.labels import LabelReport

labels_app = typer.Typer(
    no_args_is_help=True, help="Look through sorted images before training; bring masks in and out."
)
app.add_typer(labels_app, name="labels", rich_help_panel="Main job")


@labels_app.command("check")
def labels_check(
    source: Annotated[Path, typer.Argument(help=LABELS_HELP)],
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
    lie in more than one split; also copies that were saved again or slightly changed, where they lie in several splits.
    Where labels name kinds of artifact, tells how many images name each, and how many artifact images name none.
    Where people labelled with `artseg label`, tells how fast, and how far they agree (Cohen's kappa: 1 is always, 0 as
    by chance). Ends with exit code 1 when something must be mended.
    """
    from artseg_models.labels import check_labels

    report = check_labels(source, mask_polarity=mask_polarity)
    _show_labels(report)
    if report.errors:
        raise ArtSegError(f"{source} cannot be trained from: mend the {len(report.errors)} errors listed above.")


@labels_app.command("split")
def labels_split(
    source: Annotated[Path, typer.Argument(help=LABELS_HELP + " With a mask for every artifact image.")],
    out: Annotated[Path, typer.Argument(dir_okay=False, help="The table to write.")],
    by: Annotated[
        Literal["position", "shape", "size"], typer.Option(help="What of the artifacts training is not to see.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of clean and of validation images.")] = 0,
) -> None:
    """Split anew to ask whether a model generalises: the test split holds artifacts of one end, such as the left-most.

    Train and evaluate by the new table as by any other, and compare with a split at random. Masks choose the split and
    nothing else; training reads them no more than before.
    """
    from artseg_models.held_out import hold_out
    from artseg_models.labels import read_labels, write_labels

    labels = hold_out(read_labels(source), by, seed=seed)
    write_labels(out, labels.images)
    for split in ("train", "validation", "test"):
        items = labels.of_split(split)
        artifact = sum(item.label == "artifact" for item in items)
        console.print(f"{split}: {len(items) - artifact} clean, {artifact} artifact", highlight=False)
    console.print(f"Written to {out}", highlight=False, soft_wrap=True)


@labels_app.command("import")
def labels_import(
    images: Annotated[list[Path], typer.Argument(help="Folders of images and image files, as for `artseg label`.")],
    masks: Annotated[
        Path,
        typer.Option(
            "--masks",
            help="The JSON of the VGG Image Annotator; or a folder with NAME.geojson (QuPath), NAME_mask.png or "
            "NAME.png for the image NAME (FOLDER_NAME where several folders have one of that name).",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The table; without this labels.csv in the first folder.")
    ] = None,
    name: Annotated[str, typer.Option(help="Whose masks they are.")] = "",
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
) -> None:
    """Take over masks that were drawn elsewhere, into the table that `artseg label` keeps.

    Where something is drawn the image is labelled artifact and gets the mask; where nothing is drawn it is clean. The
    page of `artseg label` exports the same formats.
    """
    from artseg_models.labelling.importing import import_masks
    from artseg_models.labelling.store import Store

    table = out or (images[0] if images[0].is_dir() else images[0].parent) / "labels.csv"
    done = import_masks(Store(images, table), masks, who=name, plane=plane)
    console.print(f"{done.summary()}. Table: {table}", highlight=False, markup=False)


@labels_app.command("export")
def labels_export(
    out: Annotated[Path, typer.Argument(help="The folder to write into.")],
    table: Annotated[Path, typer.Option("--table", "-t", help="The labels.csv that names the masks.")],
    form: Annotated[
        Literal["via", "geojson", "masks"],
        typer.Option("--as", help="via: VGG Image Annotator 2. geojson: QuPath. masks: PNG files, 255 = artifact."),
    ] = "masks",
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
) -> None:
    """Write the masks that a table names, for other programs: all of images that are called an artifact.

    `artseg labels import` takes the same files back.
    """
    from artseg_models.labelling.exporting import export_masks
    from artseg_models.labelling.store import Store
    from artseg_models.labels import read_labels

    images = [image.path for image in read_labels(table).images]
    written = export_masks(Store(images, table), out, form=form, plane=plane)
    console.print(f"{written} masks in {out}", highlight=False, markup=False)


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
    if report.kinds:
        counted = ", ".join(f"{escape(kind)} ({number} images)" for kind, number in report.kinds.most_common())
        facts.add_row("Kinds", f"{counted}; {report.without_kind} artifact images name none")
        facts.add_row("Masks by kind", f"{report.kind_masks} artifact images have one for each kind that they name")
    facts.add_row("Twice", f"{len(report.duplicates)} images occur more than once")
    facts.add_row("Nearly", f"{len(report.near_duplicates)} sets of near-duplicates are not in one group")
    if report.unsure:
        facts.add_row("Unsure", f"{report.unsure} images, left out of training")
    console.print(facts, highlight=False)
    if report.people:
        _show_people(report)
    for colour, kind, messages in (("yellow", "Warning", report.warnings), ("red", "Error", report.errors)):
        for message in messages:
            console.print(f"[bold {colour}]{kind}:[/] {escape(message)}", highlight=False)
    console.print(
        f"{len(report.errors)} errors, {len(report.warnings)} warnings.", style="red" if report.errors else "green"
    )


def _show_people(report: LabelReport) -> None:
    labellers = Table()
    for name in ("labelled by", "images", "clean", "artifact", "unsure", "seconds an image"):
        labellers.add_column(name, justify="left" if name == "labelled by" else "right")
    for person in report.people:
        labellers.add_row(
            escape(person.name) or "no name",
            str(person.images),
            *(str(person.labels[label]) for label in ("clean", "artifact", "unsure")),
            "-" if person.seconds is None else f"{person.seconds:.1f}",
        )
    console.print(labellers)
    for both in report.agreements:
        first, second = (escape(name) or "no name" for name in both.names)
        kappa = "not defined, all have one label" if both.kappa is None else f"{both.kappa:.2f}"
        console.print(
            f"{first} and {second} labelled {both.images} images both, {both.same} of them alike; "
            f"Cohen's kappa {kappa}.",
            highlight=False,
        )
