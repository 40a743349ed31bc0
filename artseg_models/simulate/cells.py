"""Live cells: outlines, thickness, organelles, nuclei and stains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artseg_models.simulate.shapes import Floats, Outline, draw_outline, gaussian, grain, smooth_field, splat, window

_NUCLEUS_RADIUS = (7.5, 12.0)
"""Smallest and largest in pixels: 15 to 24 pixels across, which CellProfiler's usual settings find."""


@dataclass(frozen=True)
class Morphology:
    """What cells of one line look like; lengths relative to the usual cell.

    Attributes
    ----------
    spindle, spread : float
        Share of long cells with pointed ends, and of flat cells with corners; the rest is compact.
    rounded : float
        Share of round, thick cells (dividing or badly attached).
    size, nucleus : float
        Of cell and nucleus.
    height : float
        How thick cells are: the more, the more they refract.
    gather : float
        How strongly they keep together in islands; 0 scatters them.
    apart : float
        Distance that cells keep.
    """

    spindle: float = 0.3
    spread: float = 0.4
    rounded: float = 0.03
    size: float = 1.0
    nucleus: float = 1.0
    height: float = 1.0
    gather: float = 1.5
    apart: float = 1.0


MIXED = Morphology()


@dataclass(frozen=True)
class Cells:
    """The live cells of a canvas.

    Attributes
    ----------
    phase : ndarray of float of shape (y, x)
        Optical path in radians.
    absorption : ndarray of float of shape (y, x)
        Logarithm of the amplitude lost.
    dna, signal : ndarray of float of shape (y, x)
        Dye: 1 in a typical nucleus, in a typical cell's middle.
    nuclei, cells : ndarray of int32 of shape (y, x)
        Label maps with the same number for a cell and its nucleus; 0 is background.
    """

    phase: Floats
    absorption: Floats
    dna: Floats
    signal: Floats
    nuclei: NDArray[np.int32]
    cells: NDArray[np.int32]


def _place(
    random: np.random.Generator, shape: tuple[int, int], count: int, line: Morphology, zoom: float
) -> NDArray[np.float64]:
    """Draw cell centres that keep apart and gather in loose groups."""
    crowd = smooth_field(random, shape, 130 * zoom)
    places: list[tuple[float, float]] = []
    for _ in range(30 * count):
        if len(places) == count:
            break
        y, x = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        if random.uniform() > 1 / (1 + np.exp(-line.gather * crowd[int(y), int(x)])):
            continue
        apart = random.uniform(24, 42) * line.apart * zoom
        if all((y - other[0]) ** 2 + (x - other[1]) ** 2 > apart**2 for other in places):
            places.append((y, x))
    return np.asarray(places, dtype=np.float64).reshape(-1, 2)


def _draw_cell(random: np.random.Generator, turn: float, line: Morphology, zoom: float) -> Outline:
    kind = random.uniform()
    size = line.size * zoom
    turn = turn + random.normal(0, 0.6)
    if kind < line.spindle:
        return draw_outline(
            random, radius=random.uniform(20, 28) * size, elongation=random.uniform(2.2, 4.5), turn=turn, waves=0.12,
            roughness=0.02, tips=int(random.integers(1, 3)), tip_length=0.5,
        )  # fmt: skip
    if kind < line.spindle + line.spread:  # with corners
        return draw_outline(
            random, radius=random.uniform(24, 38) * size, elongation=random.uniform(1.1, 2.0), turn=turn, waves=0.25,
            roughness=0.03, tips=int(random.integers(2, 6)), tip_length=0.45,
        )  # fmt: skip
    return draw_outline(
        random, radius=random.uniform(20, 32) * size, elongation=random.uniform(1.0, 1.7), turn=turn, waves=0.2,
        roughness=0.04, tips=int(random.integers(0, 3)), tip_length=0.3,
    )  # fmt: skip


def draw_cells(
    random: np.random.Generator,
    shape: tuple[int, int],
    *,
    count: int,
    signal_level: float,
    line: Morphology = MIXED,
    zoom: float = 1.0,
) -> Cells:
    """Draw the live cells of a canvas.

    Parameters
    ----------
    random : numpy.random.Generator
        Source of chance.
    shape : tuple of int
        (y, x) of the canvas.
    count : int
        How many cells to try; fewer find room where it is crowded.
    signal_level : float
        How much of the signal stain cells take up, 1 is usual.
    line : Morphology
        What the cells look like.
    zoom : float
        Pixels per pixel of zoom 1 (0.6 um wide).
    """
    places = _place(random, shape, count, line, zoom)
    turn = random.uniform(0, np.pi)
    nearest = np.full(shape, 1.0, dtype=np.float32)
    cells = np.zeros(shape, dtype=np.int32)
    nuclei = np.zeros(shape, dtype=np.int32)
    phase = np.zeros(shape, dtype=np.float32)
    nuclear = np.zeros(shape, dtype=np.float32)
    rim = np.zeros(shape, dtype=np.float32)
    thick = np.zeros(shape, dtype=np.float32)
    dna = np.zeros(shape, dtype=np.float32)
    stain = np.zeros(shape, dtype=np.float32)
    organelles: list[NDArray[np.float64]] = []
    nucleoli: list[NDArray[np.float64]] = []
    for number, (y, x) in enumerate(places, start=1):
        round_cell = random.uniform() < line.rounded
        outline = (
            draw_outline(
                random,
                radius=random.uniform(10, 13) * line.nucleus * zoom,
                elongation=random.uniform(1, 1.2),
                roughness=0.015,
            )
            if round_cell
            else _draw_cell(random, turn, line, zoom)
        )
        canvas, around = window(y=y, x=x, reach=outline.reach + 1, shape=shape)
        relative = outline.relative_distance(around)
        inside = relative < nearest[canvas]
        cells[canvas][inside] = number
        nearest[canvas][inside] = relative[inside]
        # about how far from the rim, in pixels of zoom 1
        depth = np.clip((1 - relative) * min(float(outline.radii.mean()) / zoom, 30.0), 0, None)
        dome = np.clip(1 - outline.smooth(0.95).relative_distance(around) ** 2, 0, 1)
        if round_cell:
            knobs = 1 + 0.15 * smooth_field(random, relative.shape, 5 * zoom)
            phase[canvas] += random.uniform(1.6, 3.2) * np.sqrt(np.clip(1 - relative**2, 0, 1)) * knobs
        else:
            height = line.height * random.uniform(0.6, 1.3)
            thick[canvas] = np.maximum(thick[canvas], dome)
            ruffle = np.clip(smooth_field(random, relative.shape, 14 * zoom) + 0.1, 0, 2)
            phase[canvas] += height * (0.16 * np.clip(depth / 2.5, 0, 1) + 0.8 * dome**2)
            rim[canvas] += height * ruffle * np.exp(-(((depth - 1.8) / 1.2) ** 2)) * (relative < 1)
        level = signal_level * random.lognormal(0, 0.25)
        stain[canvas] = np.maximum(stain[canvas], level * (0.1 * np.clip(depth / 3, 0, 1) + 0.9 * dome**1.5))
        # the nucleus sits a little off the middle
        offset = random.normal(0, 0.08 * float(outline.radii.min()), 2)
        nucleus = draw_outline(
            random,
            radius=random.uniform(*_NUCLEUS_RADIUS) * (0.8 if round_cell else 1) * line.nucleus * zoom,
            elongation=random.uniform(1.0, 1.7),
            waves=0.13,
        )
        ny, nx = y + offset[0], x + offset[1]
        canvas, around = window(y=ny, x=nx, reach=nucleus.reach + math.ceil(4 * zoom), shape=shape)
        relative = nucleus.relative_distance(around)
        inside = (relative < 1) & (nuclei[canvas] == 0)
        nuclei[canvas][inside] = number
        radius = float(nucleus.radii.mean())
        soft = np.clip((1 - relative) * radius / (2.0 * zoom) + 0.5, 0, 1)
        nuclear[canvas] = np.maximum(nuclear[canvas], soft)
        # cells before division hold twice the DNA
        content = random.choice([1.0, 1.0, 1.0, 1.9]) * random.lognormal(0, 0.12)
        density = content * (9.5 * line.nucleus * zoom / radius) ** 2 * (1.8 if round_cell else 1)
        chromatin = (
            1 + 0.22 * grain(random, relative.shape, 1.6 * zoom) + 0.15 * smooth_field(random, relative.shape, 7 * zoom)
        )
        profile = soft * (0.7 + 0.3 * np.sqrt(np.clip(1 - relative**2, 0, 1)))
        dna[canvas] = np.maximum(dna[canvas], density * profile * np.clip(chromatin, 0.3, 2))
        spots = int(random.integers(1, 4))
        angle, away = random.uniform(0, 2 * np.pi, spots), random.uniform(0.15, 0.6, spots) * radius
        nucleoli.append(np.stack([ny + away * np.sin(angle), nx + away * np.cos(angle)]))
        if not round_cell:
            # organelles crowd around the nucleus
            grains = int(random.integers(40, 200))
            angle = random.uniform(0, 2 * np.pi, grains)
            away = 0.8 * radius + random.gamma(1.4, 0.12 * float(outline.radii.mean()), grains)
            edge = outline.radii[(angle / (2 * np.pi) * len(outline.radii)).astype(np.int64)] * 0.9
            keep = away < edge
            organelles.append(np.stack([y + (away * np.sin(angle)), x + (away * np.cos(angle))])[:, keep])
    # a neighbour may have spread over a nucleus that was there before
    cells = np.where(nuclei > 0, nuclei, cells)
    body = gaussian((cells > 0).astype(np.float32), 1.5 * zoom)
    points = np.concatenate(organelles, axis=1) if organelles else np.zeros((2, 0))
    # most granules are denser than the cell's water, lipid drops most of all; vacuoles are thinner
    strength = random.choice([-0.5, 1.0, 1.0], points.shape[1]) * random.gamma(1.3, 0.9, points.shape[1])
    # a granule has its strength over its own area: more pixels of it at a higher zoom
    fine = gaussian(splat(shape, points[0], points[1], strength * zoom**2), 0.85 * zoom)
    middles = np.concatenate(nucleoli, axis=1) if nucleoli else np.zeros((2, 0))
    spots_strength = zoom**2 * random.uniform(5, 11, middles.shape[1])
    dots = gaussian(splat(shape, middles[0], middles[1], spots_strength), 1.6 * zoom)
    noise, coarse = grain(random, shape, 1.3 * zoom), grain(random, shape, 3.0 * zoom)
    # the thin rim of a cell is smooth, its thick middle full of organelles
    speckle = (0.09 * noise + 0.07 * coarse) * (0.2 + 0.8 * thick) * (1 - 0.5 * nuclear)
    phase += 0.22 * rim + (fine + speckle) * body - 0.2 * nuclear + 0.5 * dots * nuclear
    vesicles = np.minimum(np.abs(fine), 1.0)
    stain *= np.clip(1 + 0.08 * noise + 0.14 * coarse, 0.3, 2) * (1 + 0.6 * vesicles)
    dna *= np.clip(1 - 0.9 * dots, 0.45, 1)
    return Cells(
        phase=phase.astype(np.float32),
        absorption=(0.06 * vesicles + 0.004 * body).astype(np.float32),
        dna=dna.astype(np.float32),
        signal=stain.astype(np.float32),
        nuclei=nuclei,
        cells=cells,
    )
