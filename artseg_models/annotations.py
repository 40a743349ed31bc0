"""Pixel masks as other programs keep them: shapes of the VGG Image Annotator, GeoJSON of QuPath, mask files."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# scikit-image leaves the types of its functions open.
from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from skimage import draw
from skimage.measure import label

from artseg_models.errors import ArtSegError
from artseg_models.outlines import to_geojson


def via_entry(image: Path, mask: NDArray[np.bool_], *, name: str = "") -> tuple[str, dict[str, Any]]:
    """Describe a mask for the VGG Image Annotator 2.

    Parameters
    ----------
    image : Path
        The image file, for its name and size.
    mask : ndarray of bool of shape (y, x)
        True = artifact.
    name : str, optional
        What the annotator calls the image, instead of the file's name.

    Returns
    -------
    str
        The key that the annotator gives to the image.
    dict
        Its entry: one polygon an artifact. The annotator knows no holes; they are cut in from the outline, along a line
        without width, and come back as they were.
    """
    size = image.stat().st_size
    regions: list[dict[str, Any]] = []
    for polygon in _polygons(mask):
        outer = polygon[0]
        path = list(outer)
        for hole in polygon[1:]:
            path += [*hole, outer[0]]
        regions.append(
            {
                "shape_attributes": {
                    "name": "polygon",
                    # pixel centres lie at whole numbers here, and at halves in GeoJSON
                    "all_points_x": [x - 0.5 for x, _ in path],
                    "all_points_y": [y - 0.5 for _, y in path],
                },
                "region_attributes": {"artifact": "artifact"},
            }
        )
    name = name or image.name
    return f"{name}{size}", {"filename": name, "size": size, "regions": regions, "file_attributes": {}}


def geojson_of(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Describe a mask as GeoJSON, which QuPath opens; coordinates as in `artseg_models.outlines.to_geojson`."""
    return to_geojson(np.asarray(label(mask, connectivity=2), dtype=np.int32), properties={})


def mask_of_geojson(path: Path, *, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw the polygons of a GeoJSON file, such as QuPath exports.

    Parameters
    ----------
    path : Path
        A FeatureCollection, a list of features, or one feature; Polygon and MultiPolygon count, holes are left out.
    shape : tuple of int
        (y, x) of the image.

    Returns
    -------
    ndarray of bool of shape (y, x)
        True = artifact.

    Raises
    ------
    ArtSegError
        The file is no GeoJSON, or holds shapes without area.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        listed: list[Any] = content if isinstance(content, list) else content.get("features", [content])
        mask = np.zeros(shape, dtype=np.bool_)
        for feature in listed:
            geometry = cast("Mapping[str, Any]", feature["geometry"])
            kind = geometry["type"]
            if kind not in ("Polygon", "MultiPolygon"):
                raise ArtSegError(f"{path}: a {kind} has no area. Draw polygons, rectangles or ellipses in QuPath.")
            coordinates: list[Any] = geometry["coordinates"]
            for polygon in [coordinates] if kind == "Polygon" else coordinates:
                mask |= _drawn(polygon, shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ArtSegError(
            f"{path}: expected GeoJSON with polygons, as QuPath exports it (File > Export objects as GeoJSON), but it "
            f"could not be read ({error!r})."
        ) from error
    return mask


def paint(mask: NDArray[np.bool_], strokes: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """Correct a mask by hand-drawn strokes, in their order.

    Parameters
    ----------
    mask : ndarray of bool of shape (y, x)
        Stays as it is.
    strokes : sequence of mapping
        `tool` 'brush' (with `radius` in pixels) or 'polygon'; `erase`; `points` as (x, y) in pixels, where the centre
        of the first pixel is (0.5, 0.5).

    Returns
    -------
    ndarray of bool of shape (y, x)
        A new mask.
    """
    painted = mask.copy()
    shape = (mask.shape[0], mask.shape[1])
    for stroke in strokes:
        points = np.asarray(stroke["points"], dtype=np.float64).reshape(-1, 2)
        if stroke["tool"] == "polygon":
            touched = _drawn([points.tolist()], shape)
        else:
            touched = np.zeros(shape, dtype=np.bool_)
            radius = float(stroke["radius"])
            for x, y in _along(points, max(0.5, radius / 2)):
                touched[draw.disk((y - 0.5, x - 0.5), radius, shape=shape)] = True
        painted[touched] = not stroke["erase"]
    return painted


def _polygons(mask: NDArray[np.bool_]) -> list[list[list[list[float]]]]:
    found: list[list[list[list[float]]]] = []
    for feature in geojson_of(mask)["features"]:
        geometry = feature["geometry"]
        found += [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return found


def _drawn(rings: Sequence[Sequence[Sequence[float]]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw one polygon, its first ring less the others."""
    drawn = np.zeros(shape, dtype=np.bool_)
    for number, ring in enumerate(rings):
        x, y = np.asarray(ring, dtype=np.float64)[:, :2].T
        drawn[draw.polygon(y - 0.5, x - 0.5, shape=shape)] = number == 0
    return drawn


def _along(points: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Put points between the given ones, no further than `step` apart."""
    placed = [points[:1]]
    for start, end in itertools.pairwise(points):
        count = max(1, int(np.ceil(np.hypot(*(end - start)) / step)))
        placed.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(placed)
