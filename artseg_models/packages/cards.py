"""Model cards and covers, filled from a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from jinja2 import Environment, StrictUndefined, TemplateError
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.errors import ArtSegError

_ndimage: Any = ndimage  # its own types are incomplete
_LARGEST_COVER = 500_000
#: an orange that is told from grey by every common form of colour blindness
_ARTIFACT_COLOUR = (255, 166, 43)


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


def draw_cover(path: Path, pixels: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """Draw an image, and beside it the same with its artifacts outlined; 2:1 and below 500 kB.

    Parameters
    ----------
    path : Path
        PNG to be written.
    pixels : ndarray
        (y, x), any range.
    mask : ndarray
        (y, x) bool, True on artifacts.
    """
    side = min(pixels.shape)
    # the square that shows most of the artifacts
    top, left = _best_offset(mask.sum(axis=1), side), _best_offset(mask.sum(axis=0), side)
    square = np.s_[top : top + side, left : left + side]
    low, high = np.percentile(pixels, [0.5, 99.5])
    grey = np.clip((pixels[square].astype(np.float64) - low) / max(float(high - low), 1e-9), 0, 1)
    for shown in (512, 384, 256, 192):
        small = _resized(grey, shown)
        artifact = _resized(mask[square], shown) >= 0.5
        plain = np.repeat((255 * small)[..., None], 3, axis=2)
        marked = plain.copy()
        marked[artifact] = 0.75 * marked[artifact] + 0.25 * np.array(_ARTIFACT_COLOUR)
        edge = artifact & ~_ndimage.binary_erosion(artifact, iterations=2)
        marked[edge] = _ARTIFACT_COLOUR
        Image.fromarray(np.hstack([plain, marked]).round().astype(np.uint8)).save(path, optimize=True)
        if path.stat().st_size < _LARGEST_COVER:
            return


def _resized(values: NDArray[Any], side: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((side, side), Image.Resampling.BOX))


def _best_offset(along: NDArray[Any], side: int) -> int:
    sums = np.convolve(along.astype(np.float64), np.ones(side), mode="valid")
    return int(sums.argmax()) if sums.any() else (len(along) - side) // 2
