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

labels_app = typer.Typer(no_args_is_help=True, help="Look through sorted images before training.")
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
