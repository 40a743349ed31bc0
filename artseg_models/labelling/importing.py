"""Taking over masks that were drawn elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artseg_models.annotations import mask_of_geojson
from artseg_models.errors import ArtSegError
from artseg_models.images import IMAGE_SUFFIXES, read_image, write_image
from artseg_models.labelling.store import MASKS, Record, Store
from artseg_models.labels import LabelledImage, MaskSource, annotated_names, read_mask, relative_name

_ENDINGS = (".geojson", *(f"_mask{suffix}" for suffix in IMAGE_SUFFIXES), *IMAGE_SUFFIXES)


def import_masks(store: Store, source: Path, *, who: str, plane: int | None = None) -> dict[str, str]:
    """Take over drawn masks as pixel masks and labels: artifact where something is drawn, clean where nothing is.

    Parameters
    ----------
    store : Store
        Images and labels.
    source : Path
        The JSON of the VGG Image Annotator; or a folder with one file an image, named after it: ``NAME.geojson``
        (QuPath), or a mask image ``NAME_mask.png`` or ``NAME.png``, NAME with or without its suffix.
    who : str
        Whose masks they are.
    plane : int, optional
        Which plane of images with several.

    Returns
    -------
    dict
        Image to the label that it got.

    Raises
    ------
    ArtSegError
        Nothing fits the images, or a mask cannot be read or has another size; images before it are taken over.
    """
    found: dict[str, tuple[Record, Path]] = {}
    if source.is_file():
        names = annotated_names(source)
        found = {record.name: (record, source) for record in store.shown() if record.path.name in names}
    elif source.is_dir():
        for record in store.shown():
            for stem in (record.path.name, record.path.stem):
                for path in (source / f"{stem}{ending}" for ending in _ENDINGS):
                    if path.is_file() and path != record.path:
                        found.setdefault(record.name, (record, path))
    if not found:
        raise ArtSegError(
            f"Expected masks in {source} that are named after the images, but none is: the JSON of the VGG Image "
            "Annotator, or a folder with NAME.geojson, NAME_mask.png or NAME.png for the image NAME."
        )
    labels: dict[str, str] = {}
    for name, (record, at) in found.items():
        height, width = read_image(record.path, plane=plane).pixels.shape
        mask = _read(record.path, at, (height, width))
        path = store.table.parent / MASKS / f"{record.path.name}_mask.png"
        if mask.any():
            write_image(path, mask)
        labels[name] = "artifact" if mask.any() else "clean"
        named = relative_name(path, store.table.parent) if mask.any() else ""
        store.decide([name], label=labels[name], who=who, mask=named)
    return labels


def _read(image: Path, at: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if at.suffix.lower() == ".geojson":
        return mask_of_geojson(at, shape=shape)
    return read_mask(LabelledImage(image, "artifact", None, image.name, MaskSource(at)), shape=shape)
