"""One picture that shows what ArtSeg does, small enough for a README."""

# pyright: reportUnknownMemberType=false
# matplotlib leaves the types of its keyword arguments open.
from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from artseg_models.errors import ArtSegError
from artseg_models.report.comparison import Comparison, FieldComparison
from artseg_models.report.drawing import MUTED, save_figure
from artseg_models.report.panels import FieldImages, draw_mask, draw_nuclei

LARGEST_BYTES = 400_000


def most_changed(comparison: Comparison) -> FieldComparison:
    """Choose the field where masks removed most false nuclei; of equal ones the one with most artifact area."""
    return max(
        comparison.fields,
        key=lambda field: (
            len(field.false_positions("without")) - len(field.false_positions("masked")),
            float(field.truth.artifact.mean()),
        ),
    )


def write_picture(field: FieldComparison, images: FieldImages, path: Path) -> None:
    """Write a field as three panels: brightfield with the mask, nuclei before and after.

    Parameters
    ----------
    field : FieldComparison
        A field with artifacts.
    images : FieldImages
        Its images.
    path : Path
        The PNG, smaller than `LARGEST_BYTES`.

    Raises
    ------
    ArtSegError
        The picture cannot be made small enough.
    """
    figure = Figure(figsize=(10.4, 3.95), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    draw_mask(first, field, images, title="Brightfield, artifact mask")
    draw_nuclei(second, field, images, run="without", title="Without mask")
    draw_nuclei(third, field, images, run="masked", title="With mask")
    figure.supxlabel(
        "Simulated field of view. Blue: mask found by the model, white dashes: true artifact. "
        "Outlines: nuclei that CellProfiler reports, crosses: false ones.",
        fontsize=9,
        color=MUTED,
    )
    for dpi in (110, 95, 80, 65):
        save_figure(figure, path, dpi=dpi)
        if path.stat().st_size < LARGEST_BYTES:
            return
    raise ArtSegError(f"Expected a picture below {LARGEST_BYTES} bytes, but {path} has {path.stat().st_size}.")
