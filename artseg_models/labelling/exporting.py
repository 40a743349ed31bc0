"""Writing accepted masks for other programs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from artseg_models.annotations import geojson_of, via_entry
from artseg_models.errors import ArtSegError
from artseg_models.files import write_json
from artseg_models.images import write_image
from artseg_models.labelling.store import Store

MaskFormat = Literal["via", "geojson", "masks"]


def export_masks(store: Store, folder: Path, *, form: MaskFormat, plane: int | None = None) -> int:
    """Write the masks of all images that are called an artifact and have one.

    Parameters
    ----------
    store : Store
        Images and labels.
    folder : Path
        Where to: ``via.json`` for the VGG Image Annotator, else one file an image, named after it.
    form : {'via', 'geojson', 'masks'}
        For the VGG Image Annotator 2, for QuPath, or mask images (PNG, 255 = artifact).
    plane : int, optional
        Which plane of images with several.

    Returns
    -------
    int
        So many masks were written.

    Raises
    ------
    ArtSegError
        There are none, one cannot be read, or the folder cannot be written.
    """
    kept = [record for record in store.shown() if store.mask_of(record)]
    if not kept:
        raise ArtSegError("Expected accepted masks to export, but there are none yet. Accept some first.")
    entries: dict[str, Any] = {}
    names = Counter(record.path.name for record in kept)
    for record in kept:
        mask = store.read_mask(record, plane=plane)
        stem = store.file_name(record)
        if form == "via":
            # the annotator knows images by name and size: of one name in several folders it needs the path
            name = record.path.name if names[record.path.name] == 1 else record.name
            key, entry = via_entry(record.path, mask, name=name)
            entries[key] = entry
        elif form == "geojson":
            write_json(folder / f"{stem}.geojson", geojson_of(mask))
        else:
            write_image(folder / f"{stem}_mask.png", mask)
    if form == "via":
        write_json(folder / "via.json", entries)
    return len(kept)
