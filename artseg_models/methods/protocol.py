"""What a method must be able to do, and what a method is made from.

A method learns and predicts; it knows nothing of label files, run folders, cutoffs, tables or pictures. Those stand
once, in `artseg_models.methods.runs` and above it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from artseg_models.training.configuration import RunSettings
from artseg_models.training.fields import Array, Split

#: labels: clean and artifact images, no mask; masks: those with their masks; clean: clean images alone
LearnsFrom = Literal["labels", "masks", "clean"]


@dataclass(frozen=True)
class Found:
    """What a method says of one image.

    Attributes
    ----------
    map : ndarray
        (y, x) float32, 0..1: the higher, the more like an artifact.
    image_probability : float or None
        Probability that the image holds an artifact, 0..1; None for a method without a classifier.
    kind_maps : ndarray or None
        (kind, y, x) float32, 0..1: probability of an artifact of each kind; None where no kinds are told apart.
    image_kinds : sequence of float
        Probability that the image holds an artifact of each kind, 0..1.
    """

    map: Array
    image_probability: float | None = None
    kind_maps: Array | None = None
    image_kinds: Sequence[float] = ()


@dataclass(frozen=True)
class Fitted:
    """What training leaves to say besides the trained method itself.

    Attributes
    ----------
    networks : mapping
        Arguments of each network, by the name of its folder in the run: what a reader of the weights needs.
    epochs : mapping of str to int
        Epochs by network.
    pseudo_labels : sequence of ndarray, optional
        (y, x) bool for each validation image at working resolution, where the method made labels for itself; the
        cutoff is chosen by them when it is chosen by labels.
    unmarked : float
        How much pixels count then, 0..1, that are found in artifact images where no pseudo-label marks any.
    trials : sequence of (Found, bool)
        What the method finds in validation images that it changed, and whether an artifact is left in them: the gate is
        chosen by them, too.
    """

    networks: Mapping[str, Mapping[str, Any]]
    epochs: Mapping[str, int]
    pseudo_labels: Sequence[NDArray[np.bool_]] | None = None
    unmarked: float = 1.0
    trials: Sequence[tuple[Found, bool]] = ()
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Method(Protocol):
    """One way to find artifacts: six follow it."""

    def fit(self, training: Split, validation: Split, folder: Path) -> Fitted:
        """Learn, or go on where a killed run stopped, or load what a finished one left.

        Parameters
        ----------
        training : Split
            Images to learn from; for a method that learns from clean images, these alone.
        validation : Split
            Images to stop, to scale and to choose by.
        folder : Path
            The run folder: gets checkpoints and whatever `restore` needs. What is there already is not made again.
        """
        ...

    def restore(self, folder: Path) -> None:
        """Load what `fit` left in a run folder.

        Raises
        ------
        ArtSegError
            Something is missing or damaged.
        """
        ...

    def predict(self, image: Array, *, shape: tuple[int, int] | None = None) -> Found:
        """Find artifacts in one image.

        Parameters
        ----------
        image : ndarray
            (y, x) float32 at working resolution: normalised to zero mean and unit variance, then binned.
        shape : tuple of int, optional
            (y, x) of the image before binning: the map is given at that size. By default it is as large as `image`.

        Returns
        -------
        Found
        """
        ...


@dataclass(frozen=True)
class Recipe:
    """How a method is named, set and made.

    Attributes
    ----------
    name : str
        As on the command line.
    summary : str
        One line for the help.
    learns_from : {"labels", "masks", "clean"}
        What it needs to see in training.
    settings : type
        Its settings; their defaults are the values of its paper.
    presets : mapping
        What each preset changes in them.
    quick_side : int
        The longer side, in binned pixels, that a binning chosen by image size aims at.
    make : callable
        Called with settings, binning and device, gives an untrained method.
    """

    name: str
    summary: str
    learns_from: LearnsFrom
    settings: type[RunSettings]
    presets: Mapping[str, Mapping[str, Any]]
    make: Callable[[Any, int, str], Method]
    quick_side: int = 320
