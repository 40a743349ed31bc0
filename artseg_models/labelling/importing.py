"""Taking over masks that were drawn elsewhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artseg_models.annotations import mask_of_geojson
from artseg_models.errors import ArtSegError
from artseg_models.images import IMAGE_SUFFIXES, read_image
from artseg_models.labelling.store import Record, Store
from artseg_models.labels import LabelledImage, MaskSource, annotated_name, annotated_names, read_mask

_ENDINGS = (".geojson", *(f"_mask{suffix}" for suffix in IMAGE_SUFFIXES), *IMAGE_SUFFIXES)


@dataclass(frozen=True)
class Imported:
    """What was taken over.

    Attributes
    ----------
    labels : dict
        Image to the label that it got.
    unused : list of str
        Files of the folder, or entries of the JSON, that belong to none of the images.
    """

    labels: dict[str, str]
    unused: list[str]

    def summary(self) -> str:
        """Say it in a sentence."""
        counts = Counter(self.labels.values())
        said = f"{counts['artifact']} masks and {counts['clean']} clean images taken over"
        if self.unused:
            more = f" and {len(self.unused) - 3} more" if len(self.unused) > 3 else ""
            said += f"; no image is named like {', '.join(self.unused[:3])}{more}"
        return said


def import_masks(store: Store, source: Path, *, who: str, plane: int | None = None) -> Imported:
    """Take over drawn masks as pixel masks and labels: artifact where something is drawn, clean where nothing is.

    Parameters
    ----------
    store : Store
        Images and labels.
    source : Path
        The JSON of the VGG Image Annotator; or a folder with one file an image, named after it: ``NAME.geojson``
        (QuPath), or a mask image ``NAME_mask.png`` or ``NAME.png``, NAME with or without its suffix. Of images with
        one name in several folders, NAME has the folder before it: ``FOLDER_NAME``, in the JSON ``FOLDER/NAME``.
    who : str
        Whose masks they are.
    plane : int, optional
        Which plane of images with several.

    Returns
    -------
    Imported

    Raises
    ------
    ArtSegError
        Nothing fits the images, or more than one image; a mask cannot be read or has another size. All masks are read
        before the first is taken over.
    """
    if source.is_file() and source.suffix.lower() == ".json":
        found, unused = _of_annotator(store, source)
    else:
        found, unused = _of_files(store, source)
    if not found:
        raise ArtSegError(
            f"Expected masks in {source} that are named after the images, but none is: the JSON of the VGG Image "
            "Annotator, or a folder with NAME.geojson, NAME_mask.png or NAME.png for the image NAME."
        )
    for only_read in (True, False):
        labels: dict[str, str] = {}
        for record, at in found:
            shape = read_image(record.path, plane=plane).pixels.shape
            mask = _read(record.path, at, (shape[0], shape[1]))
            labels[record.name] = "artifact" if mask.any() else "clean"
            if not only_read:
                named = store.keep_mask(record, mask) if mask.any() else ""
                store.decide([record.name], label=labels[record.name], who=who, mask=named)
    return Imported(labels, unused)


def _of_annotator(store: Store, source: Path) -> tuple[list[tuple[Record, Path]], list[str]]:
    names = annotated_names(source)
    found = {record.name: annotated_name(names, record.path) for record in store.shown()}
    times = Counter(found.values())
    for name in filter(None, found.values()):
        if times[name] > 1:
            raise ArtSegError(
                f"{source}: {name} is the name of {times[name]} images in different folders. Name them with their "
                "folders there, as FOLDER/NAME, or import for each folder alone."
            )
    taken = [(record, source) for record in store.shown() if found[record.name]]
    return taken, sorted(names - set(found.values()))


def _of_files(store: Store, source: Path) -> tuple[list[tuple[Record, Path]], list[str]]:
    files = sorted(source.iterdir()) if source.is_dir() else [source] if source.is_file() else []
    there = {path.name: path for path in files if path.name.endswith(_ENDINGS)}
    records = store.shown()
    images = {record.path for record in records}
    times = Counter(stem for record in records for stem in _stems(record))
    found: list[tuple[Record, Path]] = []
    for record in records:
        stems = [store.file_name(record), *(stem for stem in _stems(record) if times[stem] == 1)]
        fitting = (there.get(f"{stem}{ending}") for stem in stems for ending in _ENDINGS)
        path = next((one for one in fitting if one is not None and one not in images), None)
        if path is not None:
            found.append((record, path))
    used = {path for _, path in found} | images
    return found, [name for name, path in there.items() if path not in used]


def _stems(record: Record) -> list[str]:
    """Names that a file about an image may have: with as many folders before as there are, down to its own alone."""
    parts = [part for part in record.name.split("/") if part != ".."]
    names = ["_".join(parts[start:]) for start in range(len(parts))]
    return list(dict.fromkeys([*names, record.path.stem]))


def _read(image: Path, at: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if at.suffix.lower() == ".geojson":
        return mask_of_geojson(at, shape=shape)
    return read_mask(LabelledImage(image, "artifact", None, image.name, MaskSource(at)), shape=shape)
