"""What a model says when the artifact alone is taken away, put elsewhere or changed.

A model that still says "artifact" when the artifact is painted out has learned its company (a slide, a session, a
brightness). One that does not find it elsewhere, turned or in another size has learned its place or shape.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artseg_models.errors import ArtSegError
from artseg_models.evaluate import defined
from artseg_models.files import write_json, write_text
from artseg_models.fill import FillSettings, fill
from artseg_models.images import normalise, read_image
from artseg_models.labels import Label, LabelledImage, read_mask
from artseg_models.metrics import Counts, count_agreement, pool
from artseg_models.predict import Audit, ImagePredictor, Prediction
from artseg_models.progress import track
from artseg_models.transplant import Change, changed, cutouts_of, pasted

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: soft edges reach beyond the mask: they are painted out too, and move with the artifact
_MARGIN = 6


@dataclass(frozen=True)
class Kind:
    """One way in which images are changed.

    Attributes
    ----------
    name, title : str
        In tables and in figures.
    expects : {"clean", "artifact"}
        What a model should say then.
    change, elsewhere : Change or None, bool
        What happens to the artifact that is pasted on a clean image; None: nothing is pasted.
    """

    name: str
    title: str
    expects: Label
    change: Change | None = None
    elsewhere: bool = False


KINDS: tuple[Kind, ...] = (
    Kind("original", "artifact image as it is", "artifact"),
    Kind("painted_out", "artifact painted out", "clean"),
    Kind("clean", "clean image as it is", "clean"),
    Kind("clean_painted", "clean image painted at the same place", "clean"),
    Kind("pasted", "pasted on a clean image, same place", "artifact", Change()),
    Kind("elsewhere", "pasted elsewhere", "artifact", Change(), elsewhere=True),
    Kind("turned", "pasted elsewhere, turned by 90 degrees", "artifact", Change(degrees=90), elsewhere=True),
    Kind("mirrored", "pasted elsewhere, mirrored", "artifact", Change(mirrored=True), elsewhere=True),
    Kind("smaller", "pasted elsewhere, 0.6 times the size", "artifact", Change(scale=0.6), elsewhere=True),
    Kind("larger", "pasted elsewhere, 1.6 times the size", "artifact", Change(scale=1.6), elsewhere=True),
    Kind("blurred", "pasted elsewhere, blurred by 4 pixels", "artifact", Change(blur=4), elsewhere=True),
)


@dataclass(frozen=True)
class Trial:
    """One changed image, and what the model said.

    Attributes
    ----------
    kind : Kind
        The change.
    image, clean : str
        File names of the artifact image and of the clean one.
    called : {"clean", "artifact"}
        By the gate, where the model has one, else by whether an artifact was found.
    image_probability : float or None
        The classifier's.
    pixels : Counts or None
        Found against true artifact pixels, where the artifact is there; None where these are what the model itself
        found in this image.
    """

    kind: Kind
    image: str
    clean: str
    called: Label
    image_probability: float | None
    pixels: Counts | None

    @property
    def right(self) -> bool:
        """Whether the model said what it should."""
        return self.called == self.kind.expects


@dataclass(frozen=True)
class Example:
    """Pictures of one kind.

    Attributes
    ----------
    kind : Kind
        The change.
    image : ndarray
        (y, x) float32, normalised.
    truth, found : ndarray
        (y, x) bool.
    called : {"clean", "artifact"}
        What the model said.
    """

    kind: Kind
    image: Image
    truth: Mask
    found: Mask
    called: Label


@dataclass(frozen=True)
class Counterfactuals:
    """All trials of a model.

    Attributes
    ----------
    trials : tuple of Trial
        In the order of images, then of `KINDS`.
    examples : tuple of Example
        Each kind of the first image.
    masks : {"drawn", "the model's own"}
        What artifacts were cut out by.
    audit : Audit
        Model and settings.
    """

    trials: tuple[Trial, ...]
    examples: tuple[Example, ...]
    masks: str
    audit: Audit

    def of(self, kind: Kind) -> list[Trial]:
        """Give the trials of a kind."""
        return [trial for trial in self.trials if trial.kind == kind]

    def right(self, kind: Kind) -> float:
        """Share of the images of a kind that were called right, 0..1."""
        return float(np.mean([trial.right for trial in self.of(kind)]))

    def iou(self, kind: Kind) -> float:
        """Intersection over union of pixels, pooled over the images of a kind; NaN where none is known."""
        counts = [trial.pixels for trial in self.of(kind) if trial.pixels is not None]
        return pool(counts).iou if counts else float("nan")

    def summary(self) -> dict[str, object]:
        """Everything as plain values for JSON."""
        return {
            "images": len(self.of(KINDS[0])),
            "masks": self.masks,
            "kinds": {
                kind.name: {
                    "title": kind.title,
                    "expected": kind.expects,
                    "called_right": self.right(kind),
                    "pixel_iou": defined(self.iou(kind)),
                }
                for kind in KINDS
            },
            "audit": vars(self.audit),
        }


def counterfactuals(
    predictor: ImagePredictor,
    items: Sequence[LabelledImage],
    *,
    images: int = 24,
    seed: int = 0,
    plane: int | None = None,
) -> Counterfactuals:
    """Change images one thing at a time, and see what a model says.

    Artifacts are painted out by `artseg_models.fill`, and cut out by `artseg_models.transplant`. Masks are drawn ones
    where every chosen artifact image has one; else the model's own, which then also says where artifacts are.

    Parameters
    ----------
    predictor : ImagePredictor
        The model.
    items : sequence of LabelledImage
        Artifact and clean images, best such that took no part in training.
    images : int
        At most so many artifact images, drawn by chance.
    seed : int
        Seed of all choices.
    plane : int, optional
        Which plane of files with several.

    Raises
    ------
    ArtSegError
        Clean or artifact images are missing, or no artifact could be cut out.
    """
    random = np.random.default_rng(seed)
    spoilt = [item for item in items if item.label == "artifact"]
    clean = [item for item in items if item.label == "clean"]
    if not spoilt or not clean:
        raise ArtSegError(
            f"Expected artifact and clean images to change, got {len(spoilt)} and {len(clean)}. "
            "Choose another split, or --split all."
        )
    with_masks = [item for item in spoilt if item.mask is not None]
    drawn = bool(with_masks)
    chosen = [(with_masks or spoilt)[int(at)] for at in random.permutation(len(with_masks or spoilt))[:images]]
    trials: list[Trial] = []
    examples: list[Example] = []
    last: Prediction | None = None
    for number, item in enumerate(track(chosen, "Changing images", len(chosen))):
        other = clean[int(random.integers(len(clean)))]
        pixels = [normalise(read_image(one.path, plane=plane).pixels) for one in (item, other)]
        shape = (pixels[0].shape[0], pixels[0].shape[1])
        mask = read_mask(item, shape=shape) if drawn else predictor.predict(pixels[0], source=str(item.path)).mask
        if not mask.any() or mask.mean() > 0.5:
            continue
        for kind, image, truth in _variants(pixels[0], pixels[1], mask, random, seed=seed + number):
            last = predictor.predict(image, source=f"{item.path} ({kind.name})")
            found = last.mask
            open_ = last.count > 0 if last.gate_threshold is None else last.gate_open
            called: Label = "artifact" if open_ else "clean"
            # an image as it is, held against what the model found in it, would agree whatever the model is worth
            known = kind.expects == "artifact" and (drawn or kind.change is not None)
            counts = count_agreement(truth, found) if known else None
            trials.append(Trial(kind, item.path.name, other.path.name, called, last.image_probability, counts))
            if len(examples) < len(KINDS):
                examples.append(Example(kind, image, truth, found, called))
    if last is None:
        raise ArtSegError(
            "Expected artifacts to cut out, but no chosen image has a mask with pixels, drawn or of the model's own. "
            "Give labels with masks, or a model that finds something in them."
        )
    return Counterfactuals(
        tuple(trials), tuple(examples), "drawn" if drawn else "the model's own", last.audit(predictor.model)
    )


def write_counterfactuals(found: Counterfactuals, out: Path) -> None:
    """Write ``counterfactual.json``, the shares by kind, and ``counterfactual.csv``, a line for each changed image."""
    text = io.StringIO(newline="")
    columns = ["kind", "image", "clean_image", "expected", "called", "right", "image_probability", "pixel_iou"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for trial in found.trials:
        iou = None if trial.pixels is None else defined(trial.pixels.iou)
        writer.writerow(
            [
                trial.kind.name,
                trial.image,
                trial.clean,
                trial.kind.expects,
                trial.called,
                trial.right,
                trial.image_probability,
                iou,
            ]
        )
    write_text(out / "counterfactual.csv", text.getvalue())
    write_json(out / "counterfactual.json", found.summary())


def _variants(
    image: Image, clean: Image, mask: Mask, random: np.random.Generator, *, seed: int
) -> Iterator[tuple[Kind, Image, Mask]]:
    """Make each kind of an artifact image, a clean one and a mask: kind, image, true artifact pixels."""
    settings = FillSettings(margin=_MARGIN, seed=seed)
    nothing = np.zeros(image.shape, np.bool_)
    elsewhere_on_clean = np.zeros(clean.shape, np.bool_)
    rows, columns = min(image.shape[0], clean.shape[0]), min(image.shape[1], clean.shape[1])
    elsewhere_on_clean[:rows, :columns] = mask[:rows, :columns]
    plain: dict[str, Callable[[], tuple[Image, Mask]]] = {
        "original": lambda: (image, mask),
        "painted_out": lambda: (fill(image, mask, settings=settings), nothing),
        "clean": lambda: (clean, np.zeros(clean.shape, np.bool_)),
        "clean_painted": lambda: (
            fill(clean, elsewhere_on_clean, settings=settings),
            np.zeros(clean.shape, np.bool_),
        ),
    }
    # the largest: a speck cut out of a mask's ragged edge says little
    cutouts = cutouts_of(image, mask, margin=_MARGIN)
    cutout = max(cutouts, key=lambda one: int(one.mask.sum())) if cutouts else None
    for kind in KINDS:
        if kind.change is None:
            yield kind, *plain[kind.name]()
        elif cutout is not None:
            ys, xs = np.nonzero(mask)
            place = (int(ys.min() + ys.max()) // 2, int(xs.min() + xs.max()) // 2)
            if kind.elsewhere:
                place = (int(random.integers(int(rows))), int(random.integers(int(columns))))
            yield kind, *pasted(clean, changed(cutout, kind.change), place, margin=_MARGIN)
