"""How a training went, as a picture: losses, and what the method makes of validation images."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from artseg_models.images import normalise, read_image
from artseg_models.labels import read_labels
from artseg_models.methods.runs import read_finished_run
from artseg_models.report.drawing import AMBER, BLUE, MUTED, ORANGE, SKY, outline, save_figure, show, stretch
from artseg_models.training.fields import binned

_EXAMPLES = 4
_WIDTH = 3.2  # inches of an example
_LOSSES = 3.4  # inches of the row of losses
#: titles in the order of training, but that a classifier's trainings stand side by side; others follow by name
_NETWORKS = {
    "first_classifier": "Classifier before it saw counterfactuals",
    "classifier": "Classifier: clean or artifact",
    **{f"unet_round_{number}": f"U-Net before round {number + 1} of self-training" for number in range(5)},
    "unet": "U-Net: artifact pixels",
}


def write_training_sheet(run: Path, path: Path) -> None:
    """Draw the losses of each network, and on validation images the map, its artifacts and the pseudo-labels.

    Where the model tells kinds of artifact apart, titles say which are labelled, and how probable the model finds each.

    Parameters
    ----------
    run : Path
        A finished run folder of any method.
    path : Path
        The PNG to write.

    Raises
    ------
    ArtSegError
        The run is not finished, its images have moved, or the picture cannot be written.
    """
    trained = read_finished_run(run)
    histories = {file.parent.name: file for file in sorted(run.glob("*/history.csv"))}
    networks = sorted(histories, key=lambda name: [*_NETWORKS, name].index(name))
    items = read_labels(run / "splits.csv").of_split("validation")
    names: Sequence[str] = trained.result.get("kinds", ())
    shown = [index for index, item in enumerate(items) if item.label == "artifact"][:_EXAMPLES]
    pictures = {index: read_image(items[index].path, plane=trained.settings.plane).pixels for index in shown}
    tallest = max(pixels.shape[0] / pixels.shape[1] for pixels in pictures.values())
    heights = [*([_LOSSES] if histories else []), *[_WIDTH * tallest + 0.4] * 2]
    figure = Figure(
        figsize=(max(_WIDTH * len(shown), _LOSSES * len(networks)), sum(heights) + 0.5), layout="constrained"
    )
    lower: Figure | SubFigure = figure
    if histories:
        parts: Any = figure.subfigures(2, 1, height_ratios=[heights[0], sum(heights[1:])])
        upper, lower = parts
        for axes, name in zip(upper.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
            _draw_losses(axes, pd.read_csv(histories[name]), _NETWORKS.get(name, name))
    grid: Any = lower.subplots(2, len(shown), squeeze=False)
    for column, (index, pixels) in enumerate(pictures.items()):
        found = trained.method.predict(
            binned(normalise(pixels), trained.binning), shape=(pixels.shape[0], pixels.shape[1])
        )
        show(grid[0, column], stretch(pixels))
        label = next((run / "pseudo_masks" / "validation").glob(f"{index:06d}_*.png"), None)
        if label is not None:
            working = np.asarray(read_image(label).pixels > 0)
            full = working.repeat(trained.binning, axis=0).repeat(trained.binning, axis=1)
            outline(grid[0, column], full[: pixels.shape[0], : pixels.shape[1]], color=SKY)
        outline(grid[0, column], found.map >= trained.result["cutoff"], color=AMBER, dashed=True)
        grid[0, column].set_title(
            "\n".join([items[index].path.stem, *_labelled(items[index].kinds, names)]), fontsize=9
        )
        grid[1, column].imshow(found.map, cmap="magma", vmin=0, vmax=max(1e-6, float(found.map.max())))
        grid[1, column].set_axis_off()
        called = [f"{name} {probability:.2f}" for name, probability in zip(names, found.image_kinds, strict=False)]
        grid[1, column].set_title("\n".join([f"map, 0 to {found.map.max():.3g}", *_in_lines(called)]), fontsize=9)
    masks: int = getattr(trained.settings, "masks", 0)  # few methods know the setting
    learned = f"and {masks} drawn masks" if masks else "alone"
    figure.supxlabel(
        "Validation images and their maps. Orange dashes: the map at its cutoff.\nBlue: the pseudo-label, made from "
        f"image-level labels {learned}, where the method makes one."
        + ("\nNumbers at names: how probable the classifier finds an artifact of each kind." if names else ""),
        fontsize=10,
        color=MUTED,
    )
    save_figure(figure, path)


def _labelled(kinds: Sequence[str], names: Sequence[str]) -> list[str]:
    """Say which kinds an image's label names, where the model tells kinds apart."""
    return [f"labelled {', '.join(kinds) or 'artifact'}"] if names else []


def _in_lines(words: Sequence[str], per_line: int = 3) -> list[str]:
    return [", ".join(words[start : start + per_line]) for start in range(0, len(words), per_line)]


def _draw_losses(axes: Axes, history: pd.DataFrame, title: str) -> None:
    axes.plot(history["epoch"], history["training"], color=ORANGE, linestyle="--", label="training")
    axes.plot(history["epoch"], history["validation"], color=BLUE, label="validation")
    best = int(np.argmin(history["validation"].to_numpy()))
    axes.plot(history["epoch"].iloc[best], history["validation"].iloc[best], "o", color=BLUE, label="kept")
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
