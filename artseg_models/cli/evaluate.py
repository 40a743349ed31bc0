"""`artseg evaluate`: score a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from artseg_models.cli.terminal import DEVICE_HELP, LABELS_HELP, Device, app, console, reason_of
from artseg_models.errors import ArtSegError

if TYPE_CHECKING:
    from artseg_models.evaluate import Evaluation
    from artseg_models.kind_scores import KindFigures


@app.command(rich_help_panel="Main job")
def evaluate(
    package: Annotated[
        Path, typer.Argument(exists=True, help="A model package (zip file or folder), or the run folder of a training.")
    ],
    labels: Annotated[Path, typer.Argument(exists=True, help=LABELS_HELP)],
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
        typer.Option("--out", "-o", file_okay=False, help="Folder for tables, curve, figure and overlays."),
    ] = None,
    cutoff: Annotated[float | None, typer.Option(min=0, max=1, help="Instead of the model's own cutoff.")] = None,
    smallest_artifact: Annotated[
        int | None, typer.Option(min=0, help="Smallest artifact in pixels, instead of the model's own.")
    ] = None,
    gate: Annotated[bool, typer.Option(help="Let the classifier call images clean.")] = True,
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = "auto",
    mask_polarity: Annotated[
        Literal["auto", "artifact-high", "artifact-low"],
        typer.Option(help="Whether artifacts are white (artifact-high) or black (artifact-low) in the masks."),
    ] = "auto",
) -> None:
    """Score a model on labelled images: how many images it calls right, and how well its masks fit drawn ones.

    Precision is the share of what was found that is right, recall the share of the true that was found, F1 their
    mean, IoU the overlap of found and drawn area divided by their union. Images without a drawn mask count for the
    verdicts only. Objects are connected artifacts; a true one counts as found where it overlaps a found one by that
    IoU or more. Brackets hold 95 % confidence intervals, by drawing groups of images anew.

    With --out: evaluation.json (every figure, its interval, and how it is spread over images), evaluation.csv (a line
    an image), precision_recall.csv (every cutoff), evaluation.png (these as a figure), overlays.png, reliability.png
    (of the images and pixels that were given a probability, the share that is truly artifact), and errors.png: what
    the wrong pixels are, and the images that show the three largest causes most.

    Where the model tells kinds of artifact and labels name them (column kinds): how well it tells each kind on images
    and, with masks by kind (column kind_masks), on pixels, and which it takes for which; with --out also as kinds.csv
    and kinds.png. Artifact images that name no kind are left out of these figures.
    """
    from artseg_models.evaluate import Options, read_ignore, write_evaluation
    from artseg_models.evaluate import evaluate as score
    from artseg_models.labels import read_labels
    from artseg_models.methods.predictor import open_model
    from artseg_models.report.errors import write_errors_figure
    from artseg_models.report.evaluation import write_evaluation_figure, write_kinds_figure, write_reliability_figure
    from artseg_models.report.montage import write_montage

    found = read_labels(labels, mask_polarity=mask_polarity)
    items = found.images if split == "all" else found.of_split(split)
    if not items:
        raise ArtSegError(
            f"Expected images of the split {split} in {labels}, but none of its {len(found.images)} images has it. "
            "Give the splits.csv of the training run, or --split all."
        )
    predictor = open_model(package, device=device)
    options = Options(cutoff=cutoff, smallest_artifact_px=smallest_artifact, gate=gate)
    ignored = None if ignore is None else read_ignore(ignore)
    evaluation = score(predictor, items, ignore=ignored, options=options, plane=plane)
    _show_evaluation(evaluation, split)
    if out is not None:
        write_montage(predictor, evaluation, out / "overlays.png", options=options, plane=plane)
        write_evaluation(evaluation, out)
        write_evaluation_figure(evaluation, out / "evaluation.png")
        listed = "evaluation.csv, evaluation.json, evaluation.png, overlays.png"
        if evaluation.reliability:
            write_reliability_figure(evaluation, out / "reliability.png")
            listed += ", reliability.png"
        more = "" if evaluation.curve is None else ", precision_recall.csv"
        if write_errors_figure(predictor, evaluation, out / "errors.png", ignore=ignored, options=options, plane=plane):
            more += ", errors.png"
        if write_kinds_figure(evaluation, out / "kinds.png"):
            more += ", kinds.csv, kinds.png"
        console.print(f"Written to {out}: {listed}{more}", highlight=False)
    if evaluation.failed:
        listed = "\n".join(f"  {reason_of(item.path, reason)}" for item, reason in evaluation.failed)
        raise ArtSegError(f"{len(evaluation.failed)} of {len(items)} images could not be scored:\n{listed}")


def _show_evaluation(evaluation: Evaluation, split: str) -> None:
    from artseg_models.metrics import CAUSES

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
    figures = evaluation.figures()
    shown = {
        "image_f1": "F1 of images",
        "pixel_f1": "F1 of pixels",
        "pixel_iou": "IoU of pixels",
        "pixel_pr_area": "Area under precision-recall curve",
        "object_f1_iou_0.5": "F1 of objects at IoU 0.5",
        "average_object_iou": "Average IoU of objects",
    }
    title = f"Figures with 95 % confidence intervals over {evaluation.drawn_over}"
    details = Table(title=title, title_justify="left")
    details.add_column("")
    details.add_column("value", justify="right")
    details.add_column("interval", justify="right")
    for name, title in shown.items():
        if name in figures:
            value, low, high = figures[name]
            interval = "-" if low != low else f"[{low:.3f}, {high:.3f}]"
            details.add_row(title, "-" if value != value else f"{value:.3f}", escape(interval))
    console.print(details)
    if evaluation.rough_intervals:
        console.print(evaluation.rough_intervals, highlight=False)
    spread = evaluation.distributions()["artifact_images_iou"]
    if spread.images:
        console.print(
            f"IoU of single artifact images: median {spread.median:.3f}, half of them from {spread.lower_quartile:.3f} "
            f"to {spread.upper_quartile:.3f} ({spread.images} images).",
            highlight=False,
        )
    wrong = {cause: pixels for cause, pixels in evaluation.wrong_pixels.items() if pixels}
    if wrong:
        causes = Table(title="Wrong pixels by cause", title_justify="left")
        for column in ("", "pixels", "share"):
            causes.add_column(column, justify="right" if column else "left")
        for cause, pixels in wrong.items():
            causes.add_row(CAUSES[cause], f"{pixels:,}", f"{pixels / sum(wrong.values()):.1%}")
        console.print(causes)
    by_kind = evaluation.by_kind()
    if by_kind is not None:
        _show_kinds(by_kind)
    console.print(f"Rule for images: {evaluation.rule}.", highlight=False)
    console.print(evaluation.audit.line(), highlight=False, soft_wrap=True)


def _show_kinds(found: KindFigures) -> None:
    def said(value: float) -> str:
        return "-" if value != value else f"{value:.3f}"

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left")
        for at, name in enumerate(columns):
            made.add_column(escape(name), justify="right" if at else "left")
        return made

    mean = found.averages()
    ratios = ("precision", "recall", "f1")
    images = table(
        f"Kinds of artifact, {found.images} images", "kind", "images", "precision", "recall", "F1", "95 %", "AP"
    )
    for score in found.scores:
        counts, (_, low, high) = score.images, score.image_f1
        images.add_row(
            escape(score.kind),
            str(counts.true_positive + counts.false_negative),
            *(said(getattr(counts, name)) for name in ratios),
            "-" if low != low else escape(f"[{low:.2f}, {high:.2f}]"),
            said(score.average_precision),
        )
    images.add_section()
    average = [said(mean[f"image_{name}"]) for name in ratios]
    images.add_row("average", "", *average, "", said(mean["classifier_average_precision"]))
    console.print(images)
    console.print("AP: average precision of images by the classifier's probability of the kind.", highlight=False)
    if found.drawn:
        ratios = ("iou", "precision", "recall")
        pixels = table("Pixels of each kind, pooled", "kind", "IoU", "precision", "recall")
        for score in found.scores:
            pixels.add_row(escape(score.kind), *(said(getattr(score.pixels, name)) for name in ratios))
        pixels.add_section()
        pixels.add_row("average", *(said(mean[f"pixel_{name}"]) for name in ratios))
        console.print(pixels)
        title = "Pixels of each true kind, by what they were found as"
        taken = table(title, "true kind", "pixels", *found.kinds, "not found")
        for kind, row, shares in zip(found.true_kinds, found.taken_for, found.shares, strict=True):
            told = ("-" if share != share else f"{100 * share:.1f} %" for share in shares.tolist())
            taken.add_row(escape(kind), f"{int(row.sum()):,}", *told)
        console.print(taken)
    if found.unnamed:
        console.print(
            f"{found.unnamed} artifact images name no kind and are left out of the figures of kinds.", highlight=False
        )
    if found.unknown:
        console.print(
            f"The labels name kinds that the model does not tell: {escape(', '.join(found.unknown))}.", highlight=False
        )
