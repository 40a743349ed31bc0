"""What a classifier in which few positions answer says of each pixel: where it says artifact, and because of what.

Such a classifier knows from labels of whole images that an artifact is there, not that it must answer where the
artifact is: it may answer beside it, on one side, on both. Two things bring the evidence back to it. The image is
looked at turned and mirrored as well, and the mean taken. And what the positions answer is combined with what each
pixel contributes to it: integrated gradients (Sundararajan et al. 2017), from the image without its details.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from artseg_models.networks.resnet import ResNet
from artseg_models.scorecam import Evidence
from artseg_models.training.fields import Array, blurred

_STEPS = 2
"""Steps between the image without its details and the image: contributions are means over them."""
_BACKGROUND = 2.0
"""Details are what a blur of so many strides between positions takes away: its standard deviation."""
_BLUR = 0.5
"""Contributions jump from pixel to pixel; so many strides are the standard deviation of their blur."""
_BATCH_PX = 2_000_000
"""Pixels that go through the network at once."""


@dataclass(frozen=True)
class Views:
    """What views of one image say, each turned back to the image; the image as it is first.

    Attributes
    ----------
    odds : ndarray
        (views, y, x) float32: log-odds of an artifact above the level of clean images, at least 0.
    contributions : ndarray or None
        (views, y, x) float32: what each pixel contributes to the sum of these; None where it was not asked for.
    stride : int
        Pixels between the positions that answered.
    """

    odds: NDArray[np.float32]
    contributions: NDArray[np.float32] | None
    stride: int

    def view(self, number: int) -> Self:
        """Give one of the views alone."""
        some = slice(number, number + 1)
        contributions = None if self.contributions is None else self.contributions[some]
        return type(self)(self.odds[some], contributions, self.stride)

    @property
    def evidence(self) -> Array:
        """(y, x) float32, at least 0: the mean of the odds; with contributions, its geometric mean with theirs."""
        odds = self.odds.mean(axis=0)
        if self.contributions is None:
            return odds
        contributed = blurred(self.contributions.mean(axis=0), _BLUR * self.stride)
        return np.sqrt(np.maximum(contributed, 0) * blurred(odds, _BLUR * self.stride))


def look(
    network: ResNet, image: Tensor, *, level: Tensor | None = None, turned: bool = False, attributed: bool = False
) -> Views:
    """Ask the classifier's positions for the evidence of an artifact in one image, from one view of it or from several.

    Parameters
    ----------
    network : ResNet
        The trained classifier, in evaluation mode, that pools the positions with the strongest answers.
    image : Tensor
        (1, 1, y, x) float32, binned and normalised.
    level : Tensor, optional
        (1,) from `artseg_models.scorecam.clean_levels`: log-odds up to it count as none; by default up to even odds.
    turned : bool
        Look at the image mirrored as well, and turned by quarters if it is square: the views that training shows
        (`artseg_models.training.fields.augmented`). What a classifier answers beside an artifact differs between them.
    attributed : bool
        Ask also what each pixel contributes.
    """
    turns = _turns(image, turned)
    # in batches, which take a fraction of the time that one view after the other takes, but not of any size
    each = max(1, _BATCH_PX // (_STEPS * image.shape[-2] * image.shape[-1]))
    batches = [turns[start : start + each] for start in range(0, len(turns), each)]
    odds = np.concatenate([_above(network, image, some, level) for some in batches])
    contributions = None
    if attributed:
        contributions = np.concatenate([_contributions(network, image, some, level) for some in batches])
    return Views(odds, contributions, network.stride)


def position_evidence(
    network: ResNet, image: Tensor, *, level: Tensor | None = None, turned: bool = False, attributed: bool = False
) -> Evidence:
    """Give the evidence of `look`, and the classifier's probability of the image as it is."""
    views = look(network, image, level=level, turned=turned, attributed=attributed)
    with torch.inference_mode():
        probability = float(torch.sigmoid(network.strongest(network.log_odds(image)[None]))[0, 0])
    return Evidence(evidence=views.evidence, probability=probability)


@torch.inference_mode()
def position_odds(network: ResNet, image: Tensor, *, turned: bool = False) -> Tensor:
    """Log-odds of an artifact at each pixel (y, x), the mean of all views if wanted; see `look`."""
    return _odds(network, image, _turns(image, turned)).mean(0)


#: quarter turns, and whether the image is mirrored before
_Turn = tuple[int, bool]


def _turns(image: Tensor, turned: bool) -> list[_Turn]:
    if not turned:
        return [(0, False)]
    quarters = range(4) if image.shape[-2] == image.shape[-1] else (0, 2)
    return list(itertools.product(quarters, (False, True)))


def _turned(image: Tensor, turn: _Turn) -> Tensor:
    quarters, mirrored = turn
    return torch.rot90(image.flip(-1) if mirrored else image, quarters, (-2, -1))


def _back(turned: Tensor, turn: _Turn) -> Tensor:
    quarters, mirrored = turn
    image = torch.rot90(turned, -quarters, (-2, -1))
    return image.flip(-1) if mirrored else image


def _odds(network: ResNet, image: Tensor, turns: Sequence[_Turn]) -> Tensor:
    """Give the log-odds (views, y, x) of views, turned back."""
    answers = _at_pixels(network, torch.cat([_turned(image, turn) for turn in turns]))
    return torch.stack([_back(one, turn) for one, turn in zip(answers.unbind(), turns, strict=True)])


@torch.inference_mode()
def _above(network: ResNet, image: Tensor, turns: Sequence[_Turn], level: Tensor | None) -> NDArray[np.float32]:
    """Give the log-odds above the level (views, y, x) of views, turned back."""
    odds = _odds(network, image, turns)
    return F.relu(odds if level is None else odds - level).cpu().numpy()


def _contributions(network: ResNet, image: Tensor, turns: Sequence[_Turn], level: Tensor | None) -> NDArray[np.float32]:
    """Give what pixels contribute to the log-odds above the level (views, y, x), turned back."""
    # gradients cannot be had of what was made in inference mode
    with torch.inference_mode(False), torch.enable_grad():
        details, steps = _towards(image.clone(), network.stride)
        views = torch.cat([_turned(steps, turn) for turn in turns]).requires_grad_()
        answers = network.log_odds(views)
        total = F.relu(answers if level is None else answers - level.clone()).sum()
        [slopes] = torch.autograd.grad(total, views)
    means = slopes.reshape(len(turns), _STEPS, *details.shape).mean(1)
    return (
        torch.stack([_back(one, turn) * details for one, turn in zip(means.unbind(), turns, strict=True)]).cpu().numpy()
    )


def _towards(image: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Give the details (y, x) of an image (1, 1, y, x), and it with ever more of them, (steps, 1, y, x)."""
    background = torch.from_numpy(blurred(image[0, 0].cpu().numpy(), _BACKGROUND * stride)).to(image.device)
    details = image[0, 0] - background
    shares = ((step + 0.5) / _STEPS for step in range(_STEPS))
    return details, torch.stack([background + share * details for share in shares])[:, None]


def _at_pixels(network: ResNet, images: Tensor) -> Tensor:
    """Draw what the positions answer out to the pixels of their images (n, 1, y, x): (n, y, x).

    Position (i, j) looks at the surroundings of pixel (i * stride, j * stride): padding makes it so in each of a
    ResNet's strided layers. Resizing as if positions were tiles would put all of it half a stride too far on.
    """
    answers = network.log_odds(images)
    (rows, columns), (height, width) = answers.shape[-2:], images.shape[-2:]
    between = (network.stride * (rows - 1) + 1, network.stride * (columns - 1) + 1)
    drawn = F.interpolate(answers[None], size=between, mode="bilinear", align_corners=True)
    rest = (0, max(0, width - between[1]), 0, max(0, height - between[0]))
    return F.pad(drawn, rest, mode="replicate")[0, :, :height, :width]
