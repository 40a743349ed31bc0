"""The paper's three data sets as families of simulated images: their sizes, cells, prevalence and artifact sizes.

The figures are those of Ali et al. (Scientific Reports 12:11404, 2022), sections 2.1 and 3.1. Which kinds of artifacts
occur how often is not given there; all kinds take part in all families.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from artseg_models.errors import ArtSegError
from artseg_models.images import MINIMUM_SIDE, write_image
from artseg_models.labels import LabelledImage, LabelSet, MaskSource, mark_simulated, with_splits
from artseg_models.progress import track
from artseg_models.simulate.cells import Morphology
from artseg_models.simulate.datasets import PIXEL_SIZE_UM, spoilt_fields, write_table
from artseg_models.simulate.fields import simulate_field
from artseg_models.simulate.optics import draw_look

FamilyName = Literal["seven-lines", "lncap", "cho-m4r"]
_LOOKS, _FIELDS, _AREAS = 21, 22, 23


@dataclass(frozen=True)
class Family:
    """A data set as the paper describes it.

    Attributes
    ----------
    shape : tuple of int
        (y, x) of its images in pixels.
    pixel_size_um : float
        Side of a pixel in micrometres.
    images : int
        How many there were.
    prevalence : float
        Share of images with artifacts.
    mean_area, smallest_area, largest_area : float
        Of an artifact in pixels; those that the paper gives as shares are turned into pixels. "A few pixels" is 6.
    cells : float
        Per field of view, on average.
    fields_per_well : int
        How many fields share lamp and focus and are one group.
    fractions : tuple of float
        Shares of train, validation and test.
    lines : mapping of str to Morphology
        Cell lines; a well has one of them.
    draw_areas : callable
        Draws the visible areas of one image's artifacts, in pixels at full size.
    """

    shape: tuple[int, int]
    pixel_size_um: float
    images: int
    prevalence: float
    mean_area: float
    smallest_area: float
    largest_area: float
    cells: float
    fields_per_well: int
    fractions: tuple[float, float, float]
    lines: dict[str, Morphology]
    draw_areas: Callable[[np.random.Generator], list[float]]

    def at(self, scale: float) -> tuple[tuple[int, int], float, float]:
        """Give shape, pixel size in micrometres, and zoom of the images at a scale (1 is full size)."""
        shape = (round(self.shape[0] * scale), round(self.shape[1] * scale))
        return shape, self.pixel_size_um / scale, PIXEL_SIZE_UM * scale / self.pixel_size_um

    def density(self) -> float:
        """Cells per 512 x 512 pixels of zoom 1."""
        _, _, zoom = self.at(1.0)
        return self.cells * (512 * zoom) ** 2 / (self.shape[0] * self.shape[1])


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(random.uniform(math.log(low), math.log(high))))


def _log_normal(random: np.random.Generator, median: float, spread: float, low: float, high: float) -> float:
    while True:
        value = median * math.exp(spread * random.standard_normal())
        if low <= value <= high:
            return float(value)


def _seven_lines_areas(random: np.random.Generator) -> list[float]:
    # a sixth of the images has a clump that covers a tenth or more; specks make up the bulk
    areas = [_log_uniform(random, 0.13, 0.49) * 1080 * 1080] if random.uniform() < 0.17 else []
    specks = max(int(random.negative_binomial(1.5, 1.5 / (1.5 + 11))), 0 if areas else 1)
    return areas + [_log_normal(random, 230, 1.5, 6, 60_000) for _ in range(specks)]


def _lncap_areas(random: np.random.Generator) -> list[float]:
    # 60 objects in 51 images, from 0.07 to 10 % of the image
    count = 1 + int(random.uniform() < 9 / 51)
    return [_log_normal(random, 43_000, 1.25, 3_858, 551_000) for _ in range(count)]


def _cho_areas(random: np.random.Generator) -> list[float]:
    # 13,713 objects in 1,171 images; now and then detached cells cover half of the field
    areas = [_log_uniform(random, 0.08, 0.63) * 904 * 1224] if random.uniform() < 0.045 else []
    specks = max(int(random.negative_binomial(3, 3 / (3 + 12))), 0 if areas else 1)
    return areas + [_log_normal(random, 750, 1.6, 6, 100_000) for _ in range(specks)]


FAMILIES: dict[FamilyName, Family] = {
    "seven-lines": Family(
        shape=(1080, 1080),
        pixel_size_um=0.59,
        images=3024,
        prevalence=344 / 3024,
        mean_area=4_417,
        smallest_area=6,
        largest_area=0.49 * 1080 * 1080,
        cells=350,
        fields_per_well=9,
        fractions=(482 / 687, 101 / 687, 104 / 687),
        lines={
            "MCF7": Morphology(spindle=0.05, spread=0.4, size=0.85, gather=3.0, apart=0.85, height=1.1),
            "HT1080": Morphology(spindle=0.6, spread=0.2, rounded=0.06, size=0.85, nucleus=0.95, gather=0.5, apart=0.9),
            "HeLa": Morphology(spindle=0.15, spread=0.45, rounded=0.06, size=0.85, gather=1.2, apart=0.85),
            "HepG2": Morphology(
                spindle=0.0, spread=0.15, rounded=0.05, size=0.7, nucleus=0.9, height=1.4, gather=4.0, apart=0.7
            ),
            "A549": Morphology(spindle=0.25, spread=0.5, size=0.9, gather=1.0, apart=0.85),
            "MDCK": Morphology(spindle=0.0, spread=0.1, rounded=0.02, size=0.75, nucleus=0.85, gather=2.5, apart=0.7),
            "NIH3T3": Morphology(spindle=0.45, spread=0.5, size=1.0, nucleus=0.95, height=0.8, gather=0.4, apart=0.9),
        },
        draw_areas=_seven_lines_areas,
    ),
    "lncap": Family(
        shape=(2156, 2556),
        pixel_size_um=0.325,
        images=784,
        prevalence=51 / 784,
        mean_area=75_933,
        smallest_area=0.0007 * 2156 * 2556,
        largest_area=0.10 * 2156 * 2556,
        cells=681,
        fields_per_well=4,
        fractions=(70 / 102, 16 / 102, 16 / 102),
        lines={
            "LNCaP": Morphology(
                spindle=0.45, spread=0.25, rounded=0.08, size=0.62, nucleus=0.85, height=1.2, gather=2.5, apart=0.65
            )
        },
        draw_areas=_lncap_areas,
    ),
    "cho-m4r": Family(
        shape=(904, 1224),
        pixel_size_um=0.323,
        images=1181,
        prevalence=1171 / 1181,
        mean_area=3_450,
        smallest_area=6,
        largest_area=0.63 * 904 * 1224,
        cells=50,
        fields_per_well=4,
        fractions=(1386 / 2362, 404 / 2362, 572 / 2362),
        lines={
            "CHO-K1": Morphology(spindle=0.45, spread=0.25, rounded=0.15, size=0.8, height=1.5, gather=1.0, apart=0.9)
        },
        draw_areas=_cho_areas,
    ),
}


def simulate_family(
    folder: Path,
    name: FamilyName,
    *,
    fields: int = 200,
    seed: int = 0,
    scale: float = 1.0,
    prevalence: float | None = None,
    fluorescence: bool = False,
    alike: bool = True,
) -> Path:
    """Simulate images like those of one of the paper's data sets.

    Parameters
    ----------
    folder : Path
        Gets `images/` (16-bit TIFF, brightfield), `masks/` (PNG, 255 = artifact) and `labels.csv` with the columns
        image, label, split, group, mask, kinds, areas_px (of each artifact) and line; with `fluorescence` also
        `dna/`, `signal/`, `nuclei/` and `cells/` (label maps) under the same names.
    name : str
        Which data set.
    fields : int
        How many fields of view.
    seed : int
        The same seed gives the same files.
    scale : float
        Size of the images relative to the microscope's, above 0 to 1; the pixel size grows with it.
    prevalence : float, optional
        Share of fields with artifacts; the data set's own by default.
    fluorescence : bool
        Whether the fluorescence channels and the label maps are written.
    alike : bool
        Draw contrast, tint and sharpness of artifacts alike for all kinds, so that none is told by them; otherwise each
        kind looks as `simulate_assay` draws it, by what it is made of.

    Returns
    -------
    Path
        The labels.csv.

    Raises
    ------
    ArtSegError
        An impossible number, or a file that cannot be written.
    """
    family = FAMILIES[name]
    # before anything is divided by it
    if not 0 < scale <= 1 or round(min(family.shape) * scale) < MINIMUM_SIDE:
        raise ArtSegError(
            f"Expected a scale from {MINIMUM_SIDE / min(family.shape):.2g} to 1, got {scale:g}: the shorter side of "
            f"images would be {min(family.shape) * scale:.0f} pixels."
        )
    shape, pixel_size_um, zoom = family.at(scale)
    share = family.prevalence if prevalence is None else prevalence
    spoilt = spoilt_fields(fields, share, seed)
    # families do not share their chance
    own = tuple(FAMILIES).index(name)
    images: list[LabelledImage] = []
    others: list[dict[str, object]] = []
    for number in track(range(fields), f"Simulating {name}", fields):
        well = number // family.fields_per_well
        of_well = np.random.default_rng((seed, _LOOKS, own, well))
        look = draw_look(of_well)
        line = tuple(family.lines)[int(of_well.integers(len(family.lines)))]
        areas = family.draw_areas(np.random.default_rng((seed, _AREAS, own, number)))
        field = simulate_field(
            seed=(seed, _FIELDS, own, number),
            shape=shape,
            artifact=spoilt[number],
            look=look,
            line=family.lines[line],
            zoom=zoom,
            cell_density=family.density() * of_well.uniform(0.6, 1.4),
            # a speck of less than a pixel could not be seen
            areas=[max(area * scale**2, 2.0) for area in areas],
            alike=alike,
        )
        stem = f"field{number + 1:04d}"
        image = folder / "images" / f"{stem}.tiff"
        write_image(image, field.brightfield, pixel_size_um=pixel_size_um)
        mask = folder / "masks" / f"{stem}.png" if field.kinds else None
        if mask is not None:
            write_image(mask, field.artifact_mask)
        if fluorescence:
            for channel in ("dna", "signal", "nuclei", "cells"):
                write_image(folder / channel / f"{stem}.tiff", getattr(field, channel), pixel_size_um=pixel_size_um)
        images.append(
            LabelledImage(
                path=image,
                label="artifact" if field.kinds else "clean",
                split=None,
                group=f"well{well + 1:03d}",
                mask=MaskSource(mask) if mask else None,
            )
        )
        areas_px = ";".join(map(str, field.artifact_areas))
        others.append({"kinds": ";".join(field.kinds), "areas_px": areas_px, "line": line})
    mark_simulated(folder)
    labels = folder / "labels.csv"
    split = with_splits(LabelSet(images=tuple(images), source=labels), seed=seed, fractions=family.fractions)
    rows = [
        {
            "image": image.path.relative_to(folder).as_posix(),
            "label": image.label,
            "split": image.split or "",
            "group": image.group,
            "mask": image.mask.path.relative_to(folder).as_posix() if image.mask else "",
            **other,
        }
        for image, other in zip(split.images, others, strict=True)
    ]
    write_table(labels, rows)
    return labels
