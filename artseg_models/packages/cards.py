"""Model cards, filled from a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, StrictUndefined, TemplateError

from artseg_models.errors import ArtSegError
from artseg_models.packages.halo import OVERLAP_PX, HaloEffect


def fill_card(template: Path, fields: Mapping[str, Any]) -> str:
    """Fill a card's template.

    Raises
    ------
    ArtSegError
        The template asks for a field that is not given.
    """
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        return environment.from_string(template.read_text(encoding="utf-8")).render(fields)
    except TemplateError as error:
        raise ArtSegError(
            f"The model card {template} could not be filled: {error}. Install artseg again, or correct the template."
        ) from error


def stated(value: float | None, *, missing: str) -> str:
    """Write a number, or say that there is none."""
    return missing if value is None else f"{value:g}"


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Tabulate the numbers of clean and artifact images per split, in Markdown."""
    rows = ["| split | clean | artifact |", "|---|---|---|"]
    for split, of_split in counts.items():
        rows.append(f"| {split} | {of_split.get('clean', 0)} | {of_split.get('artifact', 0)} |")
    return "\n".join(rows)


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Tabulate figures, in Markdown; a figure that is null was not measured."""
    rows = list(_rows(metrics, ""))
    if not rows:
        return "Nothing was measured: the labels had no validation split."
    return "\n".join(["| figure | value |", "|---|---|", *rows])


def _rows(metrics: Mapping[str, Any], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, value in metrics.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            rows.extend(_rows(cast("Mapping[str, Any]", value), f"{label}, "))
        elif isinstance(value, float):
            rows.append(f"| {label} | {value:.3f} |")
        else:
            rows.append(f"| {label} | {'not measured' if value is None else value} |")
    return rows


def settings_text(settings: Mapping[str, Any], *, lead: str) -> str:
    """Put settings into a sentence; empty where there are none."""
    if not settings:
        return ""
    return f"{lead}: {', '.join(f'{name} {value}' for name, value in settings.items())}."


def epochs_text(epochs: Mapping[str, int] | int) -> str:
    """Say how long the networks were trained."""
    if isinstance(epochs, int):
        return f"{epochs} epochs"
    return ", ".join(f"{name} {count} epochs" for name, count in epochs.items())


SIMULATED = " Trained on simulated images alone: to try, not to measure with."
"""Ends the description of a model that learned from simulated images."""


def simulated_texts(simulated: bool) -> dict[str, str]:
    """Say of a model that learned from simulated images that it did; nothing of another."""
    return {
        "simulated_text": "**All of them are simulated** (`artseg simulate`): no microscope took any. "
        if simulated
        else "",
        "simulated_warning": "**Trained on simulated images alone**, so to try programs and pipelines with: it knows "
        "no real cells, microscope or artifacts. For measurements, train on images of your own.\n\n"
        if simulated
        else "",
    }


def learned_from(drawn_masks: int) -> str:
    """End the description of a model of ScoreCAM-U-Net by what it learned from."""
    masks = f"and {drawn_masks} drawn masks" if drawn_masks else "alone"
    return f" Learned from image-level labels (clean or artifact) {masks}."


def label_texts(drawn_masks: int) -> dict[str, str]:
    """Say what a model of ScoreCAM-U-Net learned from, and what that means for the borders of artifacts."""
    if drawn_masks:
        return {
            "labels_text": f"Labels of whole images (clean or artifact), and drawn masks of {drawn_masks} of them",
            "borders_text": f"It learned from labels of whole images and {drawn_masks} drawn masks: borders of "
            "artifacts unlike those drawn are approximate",
        }
    return {
        "labels_text": "Labels of whole images only (clean or artifact)",
        "borders_text": "It learned from labels of whole images, not from outlines: borders of artifacts are "
        "approximate",
    }


def halo_text(effect: HaloEffect | None) -> str:
    """Say what was measured, or that nothing was."""
    if effect is None:
        return "It was not measured for this model, whose sample image is too small for two by two tiles."
    height, width = effect.shape
    overlapping = (
        ""
        if effect.overlapping is None
        else f"; four tiles of the normalised image that overlap by {OVERLAP_PX} binned pixels, "
        f"{effect.overlapping:.4f}"
    )
    return (
        f"Measured on {height} x {width} pixels of this package's sample image, the largest difference to the map of "
        f"the whole image: padded, {effect.padded:.2f}; in four tiles without overlap, each normalised by itself, "
        f"{effect.tiles:.2f}{overlapping}. `artseg package check` measures it again."
    )
