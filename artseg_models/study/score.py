"""Test images of a cell scored once, with the cutoff and the smallest object that validation chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artseg_models.evaluate import defined
from artseg_models.labels import LabelledImage, read_mask
from artseg_models.metrics import Curve, count_agreement, mean_defined, pool
from artseg_models.predict import artifact_objects
from artseg_models.scores import FieldScore, curve_of, image_figures, pixel_figures, score_field
from artseg_models.study import paper
from artseg_models.study.cell import Maps
from artseg_models.study.choose import smallest_in

Mask = NDArray[np.bool_]


def true_masks(items: Sequence[LabelledImage], maps: Sequence[NDArray[Any]]) -> list[Mask]:
    """Read the true mask (y, x) of each image; a clean one has no artifact pixel."""
    return [read_mask(item, shape=(map_.shape[0], map_.shape[1])) for item, map_ in zip(items, maps, strict=True)]


def with_masks(found: Maps) -> Maps:
    """Leave out artifact images without a drawn mask: they cannot be scored by pixels."""
    chosen = [at for at, item in enumerate(found.items) if item.label == "clean" or item.mask is not None]
    probability = found.image_probability
    return Maps(
        items=tuple(found.items[at] for at in chosen),
        maps=tuple(found.maps[at] for at in chosen),
        image_probability=None if probability is None else probability[chosen],
        gate_threshold=found.gate_threshold,
        model_sha256=found.model_sha256,
    )


def predicted_mask(
    map_: NDArray[Any], *, passes: bool, cutoff: float, size: int, area_of_pixel: float
) -> NDArray[np.int32]:
    """Objects (y, x) of a map after gate, cutoff and smallest object."""
    if not passes:
        return np.zeros(map_.shape, np.int32)
    return artifact_objects(map_, cutoff=cutoff, smallest_artifact_px=smallest_in(size, area_of_pixel))


def score_test(
    found: Maps, *, cutoff: float, size: int, area_of_pixel: float, ignore: Mask | None = None
) -> tuple[dict[str, Any], list[dict[str, object]], Curve]:
    """Score a cell on the test split.

    Parameters
    ----------
    found : Maps
        Of the test images.
    cutoff : float
        Of the map.
    size : int
        Smallest object, pixels of the full image.
    area_of_pixel : float
        Pixels of the full image in one of the map.
    ignore : bool array, (y, x), optional
        Pixels that are not scored.

    Returns
    -------
    tuple
        The figures with their intervals and the IoU by smallest object; a row for each image; and the curve.
    """
    valid = None if ignore is None else ~ignore
    gate = found.gate_open
    groups = [item.group for item in found.items]
    fields: list[FieldScore] = []
    rows: list[dict[str, object]] = []
    verdicts: list[bool] = []
    masks = true_masks(found.items, found.maps)
    gated = found.image_probability is not None
    for at, (item, map_, mask) in enumerate(zip(found.items, found.maps, masks, strict=True)):
        objects = predicted_mask(map_, passes=bool(gate[at]), cutoff=cutoff, size=size, area_of_pixel=area_of_pixel)
        field = score_field(mask, objects, map_, gate_open=bool(gate[at]), valid=valid)
        fields.append(field)
        survives = bool((objects if valid is None else objects[valid]).any())
        verdicts.append(bool(gate[at]) if gated else survives)
        rows.append(
            {
                "image": item.path.name,
                "group": item.group,
                "label": item.label,
                "verdict": "artifact" if verdicts[-1] else "clean",
                "image_probability": None if found.image_probability is None else float(found.image_probability[at]),
                "precision": defined(field.pixels.precision),
                "recall": defined(field.pixels.recall),
                "f1": defined(field.pixels.f1),
                "iou": defined(field.pixels.iou),
                "average_object_iou": defined(mean_defined(field.overlaps)),
            }
        )
    truth = np.array([item.label == "artifact" for item in found.items], dtype=np.bool_)
    figures = image_figures(truth, np.array(verdicts, dtype=np.bool_), groups) | pixel_figures(fields, groups)
    by_size: Mapping[str, float | None] = {
        str(other): defined(
            pool(
                count_agreement(
                    mask,
                    predicted_mask(map_, passes=bool(passes), cutoff=cutoff, size=other, area_of_pixel=area_of_pixel)
                    > 0,
                    valid=valid,
                )
                for map_, mask, passes in zip(found.maps, masks, gate, strict=True)
            ).iou
        )
        for other in paper.SIZES
    }
    content: dict[str, Any] = {
        "cutoff": cutoff,
        "smallest_object_px": size,
        "verdict_by": "classifier" if gated else "objects",
        "images": len(found.items),
        "groups": len(set(groups)),
        "figures": {name: [defined(part) for part in figure] for name, figure in figures.items()},
        "iou_by_smallest_object": by_size,
    }
    return content, rows, curve_of(fields, points=200)
