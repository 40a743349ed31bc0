"""Drawing on microscopy images: contrast, outlines, and files whole or not at all.

Blue and orange are told apart by every common form of colour blindness (Okabe and Ito, 2008); they mean the same in
every figure: blue = with artifact masks (or predicted), orange = without, white = truth.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from artseg_models.files import whole_file

BLUE = "#0072B2"
ORANGE = "#D55E00"
SKY = "#56B4E9"  # blue that shows on dark images
AMBER = "#FFA62B"  # orange that shows on dark images
WHITE = "#FFFFFF"
INK = "#1B2733"
MUTED = "#5B6B7A"


def stretch(pixels: NDArray[Any], *, low: float = 0.5, high: float = 99.7) -> NDArray[np.float32]:
    """Spread the bulk of the grey values over 0..1 for showing.

    Parameters
    ----------
    pixels : ndarray, (y, x)
        Any range.
    low, high : float
        Percentiles that become 0 and 1.

    Returns
    -------
    ndarray
        (y, x) float32, 0..1.
    """
    values = pixels.astype(np.float64)
    bottom, top = np.percentile(values, [low, high])
    return np.clip((values - bottom) / max(top - bottom, 1e-9), 0, 1).astype(np.float32)


def show(axes: Axes, image: NDArray[np.float32], title: str = "") -> None:
    """Show a grey image, (y, x), or one in colours, (y, x, 3), of 0..1 without ticks."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    axes.set_axis_off()
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=11)


def outline(axes: Axes, mask: NDArray[np.bool_], *, color: str, width: float = 1.6, dashed: bool = False) -> None:
    """Draw the border of a mask; a dark rim keeps it visible on bright images."""
    if not mask.any():
        return
    padded = np.pad(mask.astype(np.float32), 1)  # closes outlines at the image's border
    height, width_px = mask.shape
    contour = axes.contour(
        np.arange(-1, width_px + 1),
        np.arange(-1, height + 1),
        padded,
        levels=[0.5],
        colors=[color],
        linewidths=[width],
        linestyles=["dashed" if dashed else "solid"],
    )
    contour.set_path_effects([Stroke(linewidth=width + 1.2, foreground="#00000099"), Normal()])
    axes.set_xlim(-0.5, width_px - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def plain(axes: Axes) -> None:
    """Give a chart light axes and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#A9B4BE")
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.grid(color="#E6EAEE", linewidth=0.8)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path, *, dpi: float = 110, audit: Mapping[str, str] | None = None) -> None:
    """Write a figure as PNG, whole or not at all; `audit` goes into the file's text fields."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, facecolor="white", metadata=dict(audit or {}))


def as_data_uri(figure: Figure, *, dpi: float = 110) -> str:
    """Draw a figure as PNG for a page: a `data:` address that needs no file beside the page."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, facecolor="white")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
