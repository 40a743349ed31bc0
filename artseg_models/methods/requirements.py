"""What settings ask of labels beyond what a method always needs: told before anything is trained or written."""

from __future__ import annotations

from artseg_models.labels import LabelSet, require_distinct_kinds
from artseg_models.methods.scorecam_unet import ScoreCAMUNetSettings, require_drawn_masks
from artseg_models.training.configuration import RunSettings, SegmenterSettings


def require_what_is_asked(labels: LabelSet, settings: RunSettings) -> None:
    """Refuse labels that lack the drawn masks or the distinct kinds that settings ask for.

    Parameters
    ----------
    labels : LabelSet
        With splits.
    settings : RunSettings
        Of `artseg_models.methods.configure`.

    Raises
    ------
    ArtSegError
        The train split has too few masks, or kinds of artifact could be confused.
    """
    masks = settings.masks if isinstance(settings, ScoreCAMUNetSettings) else 0
    kinds = settings.kinds if isinstance(settings, SegmenterSettings) else False
    if masks:
        require_drawn_masks(labels.of_split("train"), masks)
    if kinds:
        require_distinct_kinds(labels, None if kinds is True else kinds)
