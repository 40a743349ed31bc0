"""How fast people label, and how far they agree."""

# pyright: reportUnknownVariableType=false, reportMissingTypeStubs=false
# scikit-learn leaves the types of its metrics open.
from __future__ import annotations

import itertools
import math
import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from artseg_models.provenance import TABLE, Decision, votes_of

PAUSE_SECONDS = 120.0
"""Whoever looked longer than this at one image was away; it does not count for the pace."""


@dataclass(frozen=True)
class Person:
    """What one person did.

    Attributes
    ----------
    name : str
        Empty where labels came without a name.
    images : int
        Images with a label of this person that holds.
    labels : Counter
        Of these, how many are clean, artifact, unsure.
    seconds : float or None
        Median time per image, of those looked at one by one.
    timed : int
        How many were.
    """

    name: str
    images: int
    labels: Counter[str]
    seconds: float | None
    timed: int


@dataclass(frozen=True)
class Agreement:
    """How far two people agree.

    Attributes
    ----------
    names : (str, str)
        Who.
    images : int
        Labelled by both.
    same : int
        Labelled alike.
    kappa : float or None
        Cohen's kappa over clean, artifact and unsure: 1 = always, 0 = as by chance; None where it is not defined,
        because both gave one and the same label to all. Cohen, Educational and Psychological Measurement 20 (1960).
    """

    names: tuple[str, str]
    images: int
    same: int
    kappa: float | None


def people(decisions: Sequence[Decision]) -> list[Person]:
    """Sum up what each person did, by name.

    Parameters
    ----------
    decisions : sequence of Decision
        A history.

    Returns
    -------
    list of Person
    """
    votes = votes_of(decisions)
    names = sorted({who for said in votes.values() for who in said if who != TABLE})
    found: list[Person] = []
    for name in names:
        labels = Counter(said[name].value for said in votes.values() if name in said)
        seconds = [
            one.seconds
            for one in decisions
            if one.what == "label" and one.who == name and one.seconds is not None and one.seconds < PAUSE_SECONDS
        ]
        found.append(
            Person(name, labels.total(), labels, statistics.median(seconds) if seconds else None, len(seconds))
        )
    return found


def agreements(decisions: Sequence[Decision]) -> list[Agreement]:
    """Compare each two people who labelled the same images.

    Parameters
    ----------
    decisions : sequence of Decision
        A history.

    Returns
    -------
    list of Agreement
        For each pair of people with images in common.
    """
    votes = votes_of(decisions)
    names = sorted({who for said in votes.values() for who in said if who != TABLE})
    found: list[Agreement] = []
    for first, second in itertools.combinations(names, 2):
        both = [(said[first].value, said[second].value) for said in votes.values() if first in said and second in said]
        if both:
            one, other = zip(*both, strict=True)
            same = sum(a == b for a, b in both)
            found.append(Agreement((first, second), len(both), same, _kappa(one, other)))
    return found


def conflicts(decisions: Sequence[Decision]) -> dict[str, dict[str, str]]:
    """List the images on which people disagree.

    Returns
    -------
    dict
        Image to person to label.
    """
    return {
        image: {who: vote.value for who, vote in said.items()}
        for image, said in votes_of(decisions).items()
        if len({vote.value for vote in said.values()}) > 1
    }


def _kappa(one: Sequence[str], other: Sequence[str]) -> float | None:
    from sklearn.metrics import cohen_kappa_score  # takes a second to load; a page that labels must not wait for it

    with warnings.catch_warnings():  # what is not defined is told by None
        warnings.simplefilter("ignore")
        kappa = float(cohen_kappa_score(one, other))
    return None if math.isnan(kappa) else kappa
