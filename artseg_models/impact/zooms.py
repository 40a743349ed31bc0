"""Figure 4: what artifacts do to the segmentation of nuclei, as pairs of zooms with outlines."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# matplotlib, scipy and scikit-image leave types open.
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch, Patch, Rectangle
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.errors import ArtSegError
from artseg_models.images import read_image, read_mask_image
from artseg_models.impact.nuclei import INSIDE, OUTSIDE, NucleiScore, beside_name, own_folder, true_nuclei_of
from artseg_models.report.drawing import INK, save_figure, stretch

_FOUND = (0.62, 0.05, 0.05)
_TRUE = "#ffe9a8"
_BORDER = "white"
_FREE_FRAME, _SPOILT_FRAME = "#7E57C2", "#F08A8A"
_ZOOM = 0.22
"""Side of a zoom relative to the image's smaller side."""


@dataclass(frozen=True)
class Pair:
    """One field to show.

    Attributes
    ----------
    name : str
        Of the image.
    brightfield : ndarray of shape (y, x)
        As stored.
    truth, found : integer array of shape (y, x)
        Label maps of nuclei.
    artifact : bool array of shape (y, x)
        True on artifacts.
    f1_free, f1_spoilt : float
        Pixel F1 of the nuclei beside artifacts and in them.
    """

    name: str
    brightfield: NDArray[Any]
    truth: NDArray[np.integer[Any]]
    found: NDArray[np.integer[Any]]
    artifact: NDArray[np.bool_]
    f1_free: float
    f1_spoilt: float


def choose_pairs(scores: Sequence[NucleiScore], number: int = 2) -> list[str]:
    """Name the images with nuclei in artifacts and beside them, in which the artifacts did most harm."""
    by_image: dict[str, dict[str, NucleiScore]] = {}
    for one in scores:
        by_image.setdefault(one.image, {})[one.area] = one
    harm: list[tuple[float, str]] = []
    for name, areas in by_image.items():
        inside, outside = areas.get(INSIDE), areas.get(OUTSIDE)
        if inside is None or outside is None or not inside.true_nuclei or not outside.true_nuclei:
            continue
        if not (math.isnan(inside.pixel_f1) or math.isnan(outside.pixel_f1)):
            harm.append((outside.pixel_f1 - inside.pixel_f1, name))
    return [name for _, name in sorted(harm, reverse=True)[:number]]


def read_pairs(
    names: Sequence[str], scores: Sequence[NucleiScore], images: Path, truth: Path, found: Path, artifacts: Path
) -> list[Pair]:
    """Read the fields to show; folders as in `artseg_models.impact.nuclei.score_folders`.

    Raises
    ------
    ArtSegError
        A brightfield image is missing.
    """
    pairs: list[Pair] = []
    for plate, path in true_nuclei_of(truth):
        name = path.stem.removesuffix("_nuclei")
        shown = f"{plate}/{name}" if plate else name
        if shown not in names:
            continue
        image = beside_name(images / plate, name, ("", "_brightfield"))
        if image is None:
            raise ArtSegError(f"Expected the brightfield image {name} or {name}_brightfield in {images / plate}.")
        labels = beside_name(own_folder(found, plate), name, ("", "_nuclei", "_brightfield_nuclei"))
        mask = beside_name(own_folder(artifacts, plate), name, ("", "_artifacts", "_brightfield_artifacts"))
        if labels is None or mask is None:
            continue
        f1 = {one.area: one.pixel_f1 for one in scores if one.image == shown}
        pairs.append(
            Pair(
                name=shown,
                brightfield=read_image(image).pixels,
                truth=read_mask_image(path),
                found=read_mask_image(labels),
                artifact=read_mask_image(mask) > 0,
                f1_free=f1[OUTSIDE],
                f1_spoilt=f1[INSIDE],
            )
        )
    return pairs


def zooms_figure(pairs: Sequence[Pair]) -> Figure:
    """Draw each field with a zoom of an artifact-free (violet) and one of an artifactual area (red) beside it.

    Found nuclei are filled in dark red, true ones outlined in yellowish white, artifacts outlined in white.
    """
    figure = Figure(figsize=(12.5, 4.3 * len(pairs) + 0.5), layout="constrained")
    panels = figure.subplots(len(pairs), 3, squeeze=False, width_ratios=(1, 1.7, 1))
    for row, pair in enumerate(pairs):
        whole: Axes = panels[row, 1]
        _show(whole, pair, None)
        whole.set_title(pair.name, loc="left", fontsize=10, color=INK)
        free, spoilt = (zoom_window(pair.truth > 0, pair.artifact, spoilt=wanted) for wanted in (False, True))
        # each zoom on the side on which its square lies, so that their lines do not cross
        left, right = (0, 2) if free[1].start <= spoilt[1].start else (2, 0)
        for column, window, color, name, f1 in (
            (left, free, _FREE_FRAME, "artifact-free", pair.f1_free),
            (right, spoilt, _SPOILT_FRAME, "artifactual", pair.f1_spoilt),
        ):
            axes: Axes = panels[row, column]
            _show(axes, pair, window)
            for spine in axes.spines.values():
                spine.set(edgecolor=color, linewidth=3)
            axes.set_title(f"{name}: pixel F1 {f1:.2f} in the field", loc="left", fontsize=9.5, color=INK)
            rows, columns = window
            corner, size = (columns.start, rows.start), (columns.stop - columns.start, rows.stop - rows.start)
            whole.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=2.5))
            # from the side of the frame that looks at the zoom
            edge = columns.stop if column == 2 else columns.start
            figure.add_artist(
                ConnectionPatch(
                    xyA=(edge, (rows.start + rows.stop) / 2),
                    coordsA=whole.transData,
                    xyB=(0.0 if column == 2 else 1.0, 0.5),
                    coordsB=axes.transAxes,
                    color=color,
                    linewidth=1.2,
                )
            )
    figure.legend(
        handles=[
            Patch(facecolor=_FOUND, alpha=0.55, label="nuclei found"),
            Line2D([], [], color="#c9a227", linewidth=2, label="true nuclei (pale yellow)"),
            Line2D([], [], color="0.6", linewidth=2, label="borders of artifacts (white)"),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return figure


def zoom_window(nuclei: NDArray[np.bool_], artifact: NDArray[np.bool_], *, spoilt: bool) -> tuple[slice, slice]:
    """Choose the square with most nuclei under artifacts, or with most nuclei and least artifact.

    Parameters
    ----------
    nuclei, artifact : bool array of shape (y, x)
        Where true nuclei and artifacts are.
    spoilt : bool
        Whether the square is to show artifacts.
    """
    side = max(16, round(_ZOOM * min(nuclei.shape)))
    wanted = (nuclei & artifact) * 1.0 + 0.2 * artifact if spoilt else nuclei * 1.0 - 10.0 * artifact
    sums = np.asarray(uniform_filter(wanted, side, mode="constant"))
    half = side // 2
    inner = sums[half : nuclei.shape[0] - side + half + 1, half : nuclei.shape[1] - side + half + 1]
    top, left = np.unravel_index(int(inner.argmax()), inner.shape)
    return slice(int(top), int(top) + side), slice(int(left), int(left) + side)


def _show(axes: Axes, pair: Pair, window: tuple[slice, slice] | None) -> None:
    grey = stretch(pair.brightfield)
    picture = np.repeat(grey[..., None], 3, axis=2)
    found = pair.found > 0
    picture[found] = 0.45 * picture[found] + 0.55 * np.array(_FOUND)
    rows, columns = window or (slice(0, grey.shape[0]), slice(0, grey.shape[1]))
    axes.imshow(picture, interpolation="nearest")
    for mask, color, width in ((pair.truth > 0, _TRUE, 1.0), (pair.artifact, _BORDER, 1.4)):
        if mask.any() and not mask.all():
            axes.contour(mask.astype(np.float32), [0.5], colors=color, linewidths=width)
    axes.set_xlim(columns.start - 0.5, columns.stop - 0.5)
    axes.set_ylim(rows.stop - 0.5, rows.start - 0.5)
    axes.set_xticks([])
    axes.set_yticks([])


def write_zooms(
    scores: Sequence[NucleiScore], path: Path, *, images: Path, truth: Path, found: Path, artifacts: Path
) -> bool:
    """Choose the fields, draw them and write the figure; False where no field has nuclei in and beside artifacts."""
    pairs = read_pairs(choose_pairs(scores), scores, images, truth, found, artifacts)
    if pairs:
        save_figure(zooms_figure(pairs), path)
    return bool(pairs)
