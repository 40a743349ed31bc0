"""Whole fields of view, with and without artifacts, and their truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

from artseg_models.errors import ArtSegError
from artseg_models.images import MINIMUM_SIDE
from artseg_models.simulate.artifacts import ARTIFACTS, FREQUENCY, LARGEST, Artifact, likened
from artseg_models.simulate.cells import MIXED, Morphology, draw_cells
from artseg_models.simulate.optics import Look, draw_look, fast_length, illumination, photograph, transmitted
from artseg_models.simulate.shapes import Floats, broad_blur, filled, gaussian, smooth_field

VISIBLE_CHANGE = 0.05
"""A pixel belongs to an artifact where the artifact changes the brightfield light by this share or more."""

MOST_COVERED = 0.25
"""No field is covered by artifacts beyond this share."""

_MARGIN = 48
"""Pixels drawn around the field and cut off, so that cells lie across its border."""
_SMALLEST_MASK = 40
"""Fewer visible pixels than this are no artifact that a person would label."""
_SMALLEST_ARTIFACT = 8.0
_TRIES = 12
_REDRAWN = 5
"""How often an artifact is drawn until its visible area is as asked for."""
_NEAR_ENOUGH = 0.25
"""Logarithm of the ratio of visible to asked area that will do."""

_FEWEST_PIXELS = {
    "dust": 0.0,
    "fibre": 150.0,
    "debris": 100.0,
    "dead clump": 250.0,
    "bubble": 200.0,
    "out-of-focus blob": 250.0,
    "bacteria": 200.0,
    "scratch": 150.0,
    "ring": 400.0,
}
_MOST_PIXELS = {
    "dust": 3e3,
    "fibre": 1.2e5,
    "debris": 2.5e4,
    "dead clump": math.inf,
    "bubble": 1.5e5,
    "out-of-focus blob": 8e4,
    "bacteria": 6e4,
    "scratch": 2.5e4,
    "ring": 8e4,
}
"""Smallest and largest visible area of a kind in pixels of zoom 1, where areas are asked for."""

_sample = cast("Callable[..., Floats]", ndimage.map_coordinates)  # pyright: ignore[reportUnknownMemberType]
_mean = cast("Callable[..., Any]", ndimage.mean)  # pyright: ignore[reportUnknownMemberType]


@dataclass(frozen=True)
class SimulatedField:
    """One field of view and the truth about it.

    Attributes
    ----------
    brightfield, dna, signal : ndarray of uint16 of shape (y, x)
        Camera counts.
    artifact_mask : ndarray of bool of shape (y, x)
        True where artifacts change the brightfield light by `VISIBLE_CHANGE` or more.
    nuclei, cells : ndarray of int32 of shape (y, x)
        Labels of the live cells' nuclei, 1 to N, and of the cells, whose first N have their nucleus in the field.
    kinds : tuple of str
        What artifacts are there, from `artifacts.ARTIFACTS`; empty in a clean field.
    artifact_areas : tuple of int
        Pixels of the mask that each artifact brought, in the order of `kinds`; one artifact may lie in pieces.
    signal_truth : ndarray of float64 of shape (N,)
        Mean counts of the signal channel over each nucleus, had there been neither artifact nor noise.
    kind_masks : mapping of str to ndarray of bool of shape (y, x)
        For each of `kinds` what its artifacts visibly change; where kinds overlap, a pixel belongs to both. Together
        they are `artifact_mask`.
    """

    brightfield: NDArray[np.uint16]
    dna: NDArray[np.uint16]
    signal: NDArray[np.uint16]
    artifact_mask: NDArray[np.bool_]
    nuclei: NDArray[np.int32]
    cells: NDArray[np.int32]
    kinds: tuple[str, ...]
    artifact_areas: tuple[int, ...]
    signal_truth: NDArray[np.float64]
    kind_masks: Mapping[str, NDArray[np.bool_]]


@dataclass
class _Scene:
    """Light before the camera, on the canvas."""

    brightfield: Floats
    dna: Floats
    signal: Floats
    change: Floats


@dataclass
class _Seen:
    """What artifacts visibly change in the field.

    Attributes
    ----------
    mask : ndarray of bool of shape (y, x)
        What any of them changes.
    kind_masks : dict
        Kind to what artifacts of this kind change, as `mask`.
    present : list of (str, int)
        Kind of each artifact, and the pixels of the mask that it brought.
    """

    mask: NDArray[np.bool_]
    kind_masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict[str, NDArray[np.bool_]])
    present: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def add(self, kind: str, footprint: NDArray[np.bool_]) -> None:
        """Take in an artifact by the pixels (y, x) of the field that it changes."""
        self.present.append((kind, int(np.count_nonzero(footprint & ~self.mask))))
        self.mask |= footprint
        self.kind_masks[kind] = self.kind_masks.get(kind, np.zeros_like(self.mask)) | footprint


def simulate_field(
    *,
    seed: int | Sequence[int],
    shape: tuple[int, int] = (512, 512),
    artifact: bool,
    kinds: Sequence[str] | None = None,
    cell_density: float | None = None,
    signal_level: float = 1.0,
    look: Look | None = None,
    line: Morphology = MIXED,
    zoom: float = 1.0,
    areas: Sequence[float] | None = None,
    alike: bool = False,
) -> SimulatedField:
    """Simulate one field of view in three channels.

    Everything is drawn from the seed, and the cells, the light and the noise do not depend on whether there are
    artifacts: the same seed with `artifact=False` gives the field as it would have been.

    Parameters
    ----------
    seed : int or sequence of int
        The same seed gives the same bytes.
    shape : tuple of int
        (y, x) in pixels.
    artifact : bool
        Whether the field has artifacts: one to four, or as `areas` says.
    kinds : sequence of str, optional
        Draw from these kinds only, of `artifacts.ARTIFACTS`.
    cell_density : float, optional
        Cells per 512 x 512 pixels of zoom 1; drawn from 14 to 50 if None.
    signal_level : float
        How strongly cells take up the signal stain; 1 is usual.
    look : Look, optional
        Lamp, focus and stain of the field's well; drawn if None.
    line : Morphology
        What the cells look like.
    zoom : float
        Pixels per pixel of zoom 1, which is 0.6 um wide: cells and artifacts are that much larger.
    areas : sequence of float, optional
        Visible area in pixels of each artifact, about; without it sizes are drawn from specks to half of the field.
    alike : bool
        Draw contrast, tint and sharpness of artifacts in brightfield from ranges that all kinds share, so that none is
        told by them; otherwise each kind has its own.

    Returns
    -------
    SimulatedField
        Images and truth.

    Raises
    ------
    ArtSegError
        A field below the smallest size, or an unknown kind.
    """
    if min(shape) < MINIMUM_SIDE:
        raise ArtSegError(f"A field has at least {MINIMUM_SIDE} pixels on each side, not {shape[1]} x {shape[0]}.")
    unknown = sorted(set(kinds or ()) - set(ARTIFACTS))
    if unknown:
        raise ArtSegError(f"There are no artifacts named {', '.join(unknown)}; choose from {', '.join(ARTIFACTS)}.")
    streams = [np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(5)]
    of_look, of_cells, of_ground, of_artifacts, of_noise = streams
    drawn = draw_look(of_look)
    look = drawn if look is None else look
    margin = math.ceil(_MARGIN * zoom)
    canvas = (fast_length(shape[0] + 2 * margin), fast_length(shape[1] + 2 * margin))
    density = of_cells.uniform(14, 50) if cell_density is None else cell_density
    count = round(density * canvas[0] * canvas[1] / (512 * zoom) ** 2)
    cells = draw_cells(of_cells, canvas, count=count, signal_level=signal_level, line=line, zoom=zoom)
    # the medium and the plate's bottom are never quite even
    ground = 0.05 * smooth_field(of_ground, canvas, 9 * zoom) + 0.03 * smooth_field(of_ground, canvas, 3.5 * zoom)
    mottle = 1 + 0.004 * smooth_field(of_ground, canvas, 22 * zoom) + 0.004 * smooth_field(of_ground, canvas, 70 * zoom)
    blurred_dna, blurred_signal = (gaussian(dye, look.blur * zoom) for dye in (cells.dna, cells.signal))
    scene = _Scene(
        brightfield=mottle * transmitted(cells.phase + ground, cells.absorption, defocus=look.defocus, zoom=zoom),
        # light from above and below the focal plane
        dna=0.93 * blurred_dna + 0.10 * broad_blur(blurred_dna, max(3.0, 11 * zoom)),
        signal=0.90 * blurred_signal + 0.14 * broad_blur(blurred_signal, max(3.0, 13 * zoom)),
        change=np.zeros(canvas, dtype=np.float32),
    )
    window = (slice(margin, margin + shape[0]), slice(margin, margin + shape[1]))
    unspoilt = scene.signal[window].copy()
    seen = _Seen(np.zeros(shape, dtype=np.bool_))
    if artifact:
        _spoil(scene, of_artifacts, window, seen, tuple(kinds or ARTIFACTS), zoom, areas, alike)
    lamp = illumination(shape, seed=look.illumination_seed, strength=look.unevenness)
    beam = illumination(shape, seed=look.illumination_seed + 1, strength=2 * look.unevenness)

    def stained(light: Floats, gain: float, background: float) -> Floats:
        return ((light * gain + background) * beam).astype(np.float32)

    nuclei, cell_labels = _number(cells.nuclei[window], cells.cells[window])
    truth = stained(unspoilt, look.signal_gain, look.signal_background)
    found = int(nuclei.max())
    return SimulatedField(
        brightfield=photograph(
            of_noise,
            (scene.brightfield[window] * lamp * look.brightness).astype(np.float32),
            photons_per_count=look.photons_per_count,
            read_noise=12,
        ),
        dna=photograph(
            of_noise,
            stained(scene.dna[window], look.dna_gain, look.dna_background),
            photons_per_count=look.dna_photons,
            read_noise=8,
        ),
        signal=photograph(
            of_noise,
            stained(scene.signal[window], look.signal_gain, look.signal_background),
            photons_per_count=look.signal_photons,
            read_noise=8,
        ),
        artifact_mask=seen.mask,
        nuclei=nuclei,
        cells=cell_labels,
        kinds=tuple(kind for kind, _ in seen.present),
        artifact_areas=tuple(area for _, area in seen.present),
        signal_truth=np.asarray(_mean(truth, nuclei, np.arange(1, found + 1)), dtype=np.float64).reshape(-1),
        kind_masks=seen.kind_masks,
    )


def _spoil(
    scene: _Scene,
    random: np.random.Generator,
    window: tuple[slice, slice],
    seen: _Seen,
    kinds: Sequence[str],
    zoom: float,
    areas: Sequence[float] | None,
    alike: bool,
) -> None:
    """Put artifacts into the scene, and what they visibly change in the field into `seen`."""
    often = np.array([FREQUENCY[kind] for kind in kinds])
    if areas is not None:
        # large ones first: small ones find room beside them
        for area in sorted(areas, reverse=True):
            fits = np.array([_FEWEST_PIXELS[kind] * zoom**2 <= area <= _MOST_PIXELS[kind] * zoom**2 for kind in kinds])
            chances = often * fits if fits.any() else often
            kind = kinds[int(random.choice(len(kinds), p=chances / chances.sum()))]
            _place_sized(scene, random, window, seen, kind, area, zoom, alike)
        # a field that is to be spoilt has something to be seen
        speck = max(6.0, min(areas, default=6.0))
        while not seen.present:
            _place_sized(scene, random, window, seen, "dust" if "dust" in kinds else kinds[0], speck, zoom, alike)
            speck *= 1.5
        return
    wanted = int(random.choice([1, 2, 3, 4], p=[0.35, 0.3, 0.2, 0.15]))
    for _ in range(_TRIES * wanted):
        if len(seen.present) == wanted:
            break
        kind = kinds[int(random.choice(len(kinds), p=often / often.sum()))]
        # from specks to half of the field's width, on a logarithmic scale that leans to the larger half
        largest = min(LARGEST[kind] * zoom, 0.5 * min(seen.mask.shape))
        smallest = min(_SMALLEST_ARTIFACT * zoom, largest / 2)
        size = smallest * (largest / smallest) ** random.beta(2.0, 1.0)
        made = ARTIFACTS[kind](random, size, zoom)
        if alike:
            made = likened(random, made, zoom)
        top, left = _corner(random, made, window)
        footprint = _footprint(made, top, left, scene.change.shape)[window]
        area = int(np.count_nonzero(footprint & ~seen.mask))
        if area < _SMALLEST_MASK or np.count_nonzero(seen.mask) + area > MOST_COVERED * seen.mask.size:
            continue
        seen.add(kind, footprint)
        _apply(scene, made, top, left)


def _place_sized(
    scene: _Scene,
    random: np.random.Generator,
    window: tuple[slice, slice],
    seen: _Seen,
    kind: str,
    area: float,
    zoom: float,
    alike: bool,
) -> None:
    """Put an artifact of about a visible area into the scene and into `seen`, if it finds a place."""
    seed = int(random.integers(2**63))
    size = 1.2 * math.sqrt(area)
    best: tuple[float, Artifact] | None = None
    for _ in range(_REDRAWN):
        again = np.random.default_rng(seed)
        made = ARTIFACTS[kind](again, size, zoom)
        if alike:
            made = likened(again, made, zoom)
        whole = int(np.count_nonzero(_visible(made)))
        off = abs(math.log(max(whole, 0.5) / area))
        if best is None or off < best[0]:
            best = (off, made)
        if off < _NEAR_ENOUGH:
            break
        size *= float(np.clip(math.sqrt(area / max(whole, 0.5)), 0.4, 2.5))
    assert best is not None
    made = best[1]
    for _ in range(_TRIES):
        top, left = _corner(random, made, window)
        footprint = _footprint(made, top, left, scene.change.shape)[window]
        brought = int(np.count_nonzero(footprint & ~seen.mask))
        # the field's border may cut it, but what is left is still of the size that was asked for
        if brought and brought >= 0.6 * min(area, np.count_nonzero(_visible(made))):
            seen.add(kind, footprint)
            _apply(scene, made, top, left)
            return


def _corner(random: np.random.Generator, made: Artifact, window: tuple[slice, slice]) -> tuple[int, int]:
    """Draw where the upper left corner of an artifact's window lies on the canvas, its middle in the field."""
    return tuple[int, int](
        int(side.start + random.uniform(0.0, float(side.stop - side.start)) - length / 2)
        for side, length in zip(window, made.transmission.shape, strict=True)
    )


def _overlap(
    top: int, left: int, size: tuple[int, ...], canvas: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    first, last = (max(0, top), max(0, left)), (min(canvas[0], top + size[0]), min(canvas[1], left + size[1]))
    here = (slice(first[0], max(first[0], last[0])), slice(first[1], max(first[1], last[1])))
    own = (slice(here[0].start - top, here[0].stop - top), slice(here[1].start - left, here[1].stop - left))
    return here, own


def _footprint(made: Artifact, top: int, left: int, canvas: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels of the canvas that the artifact changes visibly."""
    own_mask = _visible(made)
    here, own = _overlap(top, left, own_mask.shape, canvas)
    mask = np.zeros(canvas, dtype=np.bool_)
    mask[here] = own_mask[own]
    return mask


def _visible(made: Artifact) -> NDArray[np.bool_]:
    """Pixels of the artifact's window that it changes visibly, small gaps closed and insides filled."""
    change = gaussian(np.abs(made.transmission - 1), 1.0)
    own_mask = np.pad(change >= VISIBLE_CHANGE, 3)
    return filled(own_mask)[3:-3, 3:-3]


def _apply(scene: _Scene, made: Artifact, top: int, left: int) -> None:
    here, own = _overlap(top, left, made.transmission.shape, scene.change.shape)
    for name, factor, glow in (
        ("brightfield", made.transmission, None),
        ("dna", made.shade, made.dna_glow),
        ("signal", made.shade, made.signal_glow),
    ):
        image: Floats = getattr(scene, name)
        light = image[here]
        if made.magnification != 1.0:
            light = _bend(image, made, top, left, here, own)
        light = light * factor[own]
        image[here] = light if glow is None else light + glow[own]


def _bend(
    image: Floats, made: Artifact, top: int, left: int, here: tuple[slice, slice], own: tuple[slice, slice]
) -> Floats:
    """Look through a bubble: the middle magnified, its edge as it was."""
    height, width = made.transmission.shape
    middle = (top + height / 2, left + width / 2)
    rows = np.arange(here[0].start, here[0].stop, dtype=np.float32)[:, None] - np.float32(middle[0])
    columns = np.arange(here[1].start, here[1].stop, dtype=np.float32)[None, :] - np.float32(middle[1])
    inside = (1 - made.shade[own]) / max(float(1 - made.shade.min()), 1e-6)
    scale = 1 + inside * np.float32(1 / made.magnification - 1)
    places = np.stack([rows * scale + np.float32(middle[0]), columns * scale + np.float32(middle[1])])
    return _sample(image, places, order=1, mode="nearest")


def _number(nuclei: NDArray[np.int32], cells: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Give nuclei the numbers 1 to N and their cells the same; cells whose nucleus lies outside come after."""
    inside = [int(one) for one in np.unique(nuclei) if one]
    others = [int(one) for one in np.unique(cells) if one and one not in set(inside)]
    table = np.zeros(max([0, *inside, *others]) + 1, dtype=np.int32)
    table[[*inside, *others]] = np.arange(1, len(inside) + len(others) + 1)
    return table[nuclei], table[cells]
