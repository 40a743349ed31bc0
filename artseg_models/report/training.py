"""How a training went, as a picture: losses, pseudo-labels, and what the U-Net makes of the same images."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from artseg_models.files import read_json
from artseg_models.images import normalise, read_image
from artseg_models.labels import read_labels
from artseg_models.packages.run import read_run
from artseg_models.report.drawing import AMBER, BLUE, MUTED, ORANGE, SKY, outline, save_figure, show, stretch

_EXAMPLES = 4
_WIDTH = 3.2  # inches of an example


def write_training_sheet(run: Path, path: Path) -> None:
    """Draw the losses of both networks, and on validation images pseudo-labels and the U-Net's artifacts.

    Parameters
    ----------
    run : Path
        A finished run folder.
    path : Path
        The PNG to write.

    Raises
    ------
    ArtSegError
        The run is not finished, its images have moved, or the picture cannot be written.
    """
    trained = read_run(run)
    binning = trained.result.unet.binning
    items = read_labels(run / "splits.csv").of_split("validation")
    masks = sorted((run / "pseudo_masks" / "validation").glob("*.png"))[:_EXAMPLES]
    plane = read_json(run / "configuration.json")["plane"]
    pictures = [read_image(items[int(mask.name.split("_")[0])].path, plane=plane).pixels for mask in masks]
    tallest = max(pixels.shape[0] / pixels.shape[1] for pixels in pictures)
    figure = Figure(figsize=(_WIDTH * _EXAMPLES, 3.4 + _WIDTH * tallest + 0.7), layout="constrained")
    grid = figure.add_gridspec(2, 2 * _EXAMPLES, height_ratios=[3.4, _WIDTH * tallest + 0.7])
    curves = [figure.add_subplot(grid[0, :_EXAMPLES]), figure.add_subplot(grid[0, _EXAMPLES:])]
    for axes, (folder, name) in zip(
        curves,
        (("classifier", "Classifier: clean or artifact"), ("unet", "U-Net: pseudo-labels")),
        strict=True,
    ):
        history = pd.read_csv(run / folder / "history.csv")
        axes.plot(history["epoch"], history["training"], color=ORANGE, linestyle="--", label="training")
        axes.plot(history["epoch"], history["validation"], color=BLUE, label="validation")
        best = int(np.argmin(history["validation"].to_numpy()))
        axes.plot(history["epoch"].iloc[best], history["validation"].iloc[best], "o", color=BLUE, label="kept")
        axes.set(title=name, xlabel="epoch", ylabel="loss", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    for place, (mask, pixels) in enumerate(zip(masks, pictures, strict=True)):
        axes = figure.add_subplot(grid[1, 2 * place : 2 * place + 2])
        working = np.asarray(read_image(mask).pixels > 0)
        full = working.repeat(binning, axis=0).repeat(binning, axis=1)[: pixels.shape[0], : pixels.shape[1]]
        show(axes, stretch(pixels))
        outline(axes, full, color=SKY)
        with torch.inference_mode():
            probability = trained.unet(torch.from_numpy(normalise(pixels))[None, None])[0, 0].numpy()
        outline(axes, probability >= trained.result.cutoff, color=AMBER, dashed=True)
        axes.set_title(mask.stem.split("_", 1)[1], fontsize=9)
    figure.supxlabel(
        "Validation images. Blue: the pseudo-label, made from image-level labels alone. "
        "Orange dashes: what the U-Net learned from such labels.",
        fontsize=10,
        color=MUTED,
    )
    save_figure(figure, path)
