"""Outlines of artifact objects as GeoJSON, which QuPath and other viewers open."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# scikit-image leaves the types of regions and contours open.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import find_contours, points_in_poly, regionprops


def to_geojson(
    labels: NDArray[np.int32], *, properties: dict[str, str | float], classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Describe labelled objects as a GeoJSON FeatureCollection.

    Parameters
    ----------
    labels : ndarray
        (y, x) int32, objects 1..N.
    properties : dict
        Written into every feature beside its label and area in pixels.
    classes : sequence of str
        N names: QuPath's classification of each object; empty: "Artifact" for all.

    Returns
    -------
    dict
        One feature an object, a Polygon or MultiPolygon with holes; coordinates (x, y) in pixels from the upper left
        corner of the image, so that the centre of the first pixel is at (0.5, 0.5).
    """
    features: list[dict[str, Any]] = []
    for region in regionprops(labels):
        top, left = (int(edge) for edge in region.bbox[:2])
        rings = [
            # contours are given between pixel centres and relative to the padded box
            [[float(x) + left - 0.5, float(y) + top - 0.5] for y, x in _corners(ring)]
            for ring in find_contours(np.pad(np.asarray(region.image, dtype=np.float64), 1), 0.5)
        ]
        outer = [ring for ring in rings if _signed_area(ring) > 0]
        inner = [ring for ring in rings if _signed_area(ring) <= 0]
        polygons = [[ring, *(hole for hole in inner if points_in_poly(hole[:1], ring)[0])] for ring in outer]
        single = len(polygons) == 1
        features.append(
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon" if single else "MultiPolygon",
                    "coordinates": polygons[0] if single else polygons,
                },
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": classes[region.label - 1] if classes else "Artifact"},
                    "label": int(region.label),
                    "area_px": int(region.area),
                    **properties,
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def _corners(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out the points of a closed ring that lie on a straight line between their neighbours: it stays the same."""
    before, after = ring[:-1] - np.roll(ring[:-1], 1, axis=0), np.roll(ring[:-1], -1, axis=0) - ring[:-1]
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    corners = ring[:-1][turns]
    return np.concatenate([corners, corners[:1]])


def _signed_area(ring: list[list[float]]) -> float:
    """Area of a closed ring; its sign says which way round it runs."""
    x, y = np.array(ring).T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)
