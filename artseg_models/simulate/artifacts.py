"""Artifacts: what each does to the light of every channel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from artseg_models.simulate.optics import fast_length, transmitted
from artseg_models.simulate.shapes import (
    Floats,
    broad_blur,
    distance_to_curve,
    draw_curve,
    draw_outline,
    filled,
    gaussian,
    grain,
    smooth_field,
    splat,
    window,
)

_FADE = 8
"""Pixels over which an artifact's window fades into the field."""
_SEEN = 0.03
"""Change of the light that belongs to an artifact's body, a little less than what is called visible."""
_STRENGTH = (math.log(0.07), math.log(0.6))
"""Logarithms of the weakest and the strongest change of the light, for all kinds."""
_TINT = (-0.12, 0.2)
"""Share of the light that an artifact's body takes besides; below 0 it is brighter than what lies around."""


@dataclass(frozen=True)
class Artifact:
    """A window with one artifact and what it does to each channel.

    Attributes
    ----------
    transmission : ndarray of float of shape (y, x)
        Factor on the brightfield light; 1 leaves it.
    shade : ndarray of float of shape (y, x)
        Factor on the fluorescence of what lies there; 1 leaves it.
    dna_glow, signal_glow : ndarray of float of shape (y, x)
        Own light: 1 is a typical nucleus, a typical cell's middle.
    magnification : float
        What lies under it is seen that much larger; 1 leaves it.
    """

    transmission: Floats
    shade: Floats
    dna_glow: Floats
    signal_glow: Floats
    magnification: float = 1.0


@dataclass
class _Layer:
    """An artifact in the making: matter in a window."""

    phase: Floats
    absorption: Floats
    dna: Floats
    signal: Floats


def _layer(height: int, width: int) -> _Layer:
    shape = (fast_length(height), fast_length(width))
    empty = np.zeros(shape, dtype=np.float32)
    return _Layer(empty, empty.copy(), empty.copy(), empty.copy())


def _square(reach: float) -> _Layer:
    return _layer(2 * math.ceil(reach) + 1, 2 * math.ceil(reach) + 1)


def _ramp(length: int, zoom: float) -> Floats:
    """Rise from 0 to 1 over the first pixels and fall again over the last."""
    at = np.arange(length, dtype=np.float32)
    return np.clip(np.minimum(at, length - 1 - at) / np.float32(_FADE * zoom), 0, 1)


def _see(layer: _Layer, *, defocus: float, haze: float, zoom: float, shading: float = 1.0) -> Artifact:
    """Look at matter: brightfield at `defocus`, fluorescence blurred by `haze`, both in pixels of zoom 1."""
    wide = haze * zoom
    shade = np.exp(-2 * shading * layer.absorption)
    # fringes and haze go on beyond the window: let them end softly
    rows, columns = (_ramp(length, zoom) for length in layer.phase.shape)
    fade = np.minimum(rows[:, None], columns[None, :])

    def blurred(image: Floats) -> Floats:
        return broad_blur(image, wide) if wide >= 3 else gaussian(image, max(wide, 0.8 * zoom))

    return Artifact(
        transmission=1 + fade * (transmitted(layer.phase, layer.absorption, defocus=defocus, zoom=zoom) - 1),
        shade=1 + fade * (blurred(shade.astype(np.float32)) - 1),
        dna_glow=fade * blurred(layer.dna),
        signal_glow=fade * blurred(layer.signal),
    )


def _focus(random: np.random.Generator, *, widest: float) -> tuple[float, float]:
    """Draw a defocus in squared pixels of zoom 1, sharp more often than not, and the blur that goes with it."""
    away = random.uniform(0, 1) ** 2 * widest
    return random.choice([-1.0, 1.0]) * (1.5 + away), 0.9 + 0.55 * math.sqrt(away)


def _margin(defocus: float, haze: float, zoom: float) -> float:
    """Room around matter for its fringes and its haze, in pixels."""
    return zoom * (14 + 3 * haze + 2 * math.sqrt(abs(defocus)) + 0.12 * abs(defocus))


def _blob(
    random: np.random.Generator, layer: _Layer, y: float, x: float, radius: float, *, waves: float
) -> tuple[tuple[slice, slice], Floats]:
    """Draw an irregular blob: where in the layer it lies, and the relative distance from its middle."""
    outline = draw_outline(
        random, radius=radius, elongation=random.uniform(1, 1.9), waves=waves, roughness=random.uniform(0, 0.12)
    )
    where, around = window(y=y, x=x, reach=outline.reach + 1, shape=layer.phase.shape)
    return where, outline.relative_distance(around)


def _dust(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw a speck that swallows light, now and then with a lint of its own glow."""
    radius = max(0.8 * zoom, size / 2)
    defocus, haze = _focus(random, widest=120)
    layer = _square(radius * 2.6 + _margin(defocus, haze, zoom))
    middle = layer.phase.shape[0] / 2
    where, relative = _blob(random, layer, middle, middle, radius, waves=0.3)
    solid = np.clip((1 - relative) * radius / (1.5 * zoom) + 0.5, 0, 1)
    texture = np.clip(1 + 0.35 * smooth_field(random, relative.shape, 6 * zoom), 0.2, 2)
    # grit is black, flakes of skin and plastic let light through and bend it
    flake = random.uniform() < 0.6
    layer.absorption[where] = (random.uniform(0.04, 0.4) if flake else random.uniform(0.35, 1.6)) * solid * texture
    layer.phase[where] = (random.uniform(1.0, 4.0) if flake else random.uniform(0.0, 2.0)) * solid * texture
    if random.uniform() < 0.35:
        layer.dna[where] = random.uniform(0.2, 1.8) * solid * texture
        layer.signal[where] = random.uniform(0.1, 1.2) * solid * texture
    return _see(layer, defocus=defocus, haze=haze, zoom=zoom)


def _fibre(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw a hair or textile fibre: long, of even width, lens-like, often glowing in the blue."""
    length = size * random.uniform(3, 6)
    width = random.uniform(1.2, 3.2) * (zoom + size / 150)
    defocus, haze = _focus(random, widest=110)
    y, x = draw_curve(random, length=length, bend=random.uniform(0.3, 3.0) / zoom)
    margin = width + _margin(defocus, haze, zoom)
    layer = _layer(math.ceil(np.ptp(y) + 2 * margin), math.ceil(np.ptp(x) + 2 * margin))
    distance = distance_to_curve(layer.phase.shape, y - y.min() + margin, x - x.min() + margin)
    wide = width * (1 + 0.12 * smooth_field(random, layer.phase.shape, 40 * zoom))
    chord = np.sqrt(np.clip(1 - (distance / wide) ** 2, 0, 1))
    layer.phase = (random.uniform(0.8, 4.0) * chord).astype(np.float32)
    # dark hair swallows light, textile lets it through
    layer.absorption = (random.choice([random.uniform(0.08, 0.7), random.uniform(0.5, 1.6)]) * chord).astype(np.float32)
    glow = chord * np.clip(1 + 0.25 * smooth_field(random, layer.phase.shape, 14 * zoom), 0.2, 2)
    # textile brightened for the eye outshines every nucleus; hair hardly glows
    layer.dna = (random.uniform(0.0, 1.0) * random.choice([1.0, 3.0]) * glow).astype(np.float32)
    layer.signal = (random.uniform(0.0, 1.0) * random.choice([0.5, 2.0]) * glow).astype(np.float32)
    return _see(layer, defocus=defocus, haze=haze, zoom=zoom)


def _debris(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw a scatter of refracting fragments of cells and plastic."""
    defocus, haze = _focus(random, widest=40)
    spread = max(3.0 * zoom, size / 2)
    layer = _square(2.2 * spread + _margin(defocus, haze, zoom))
    middle = layer.phase.shape[0] / 2
    for _ in range(int(np.clip(random.poisson(4 + spread / (1.6 * zoom)), 3, 400))):
        y, x = middle + random.normal(0, spread / 1.6, 2)
        radius = min(random.gamma(1.5, 1.1) + 0.9, 8) * zoom
        if not (0 <= y < layer.phase.shape[0] and 0 <= x < layer.phase.shape[1]):
            continue
        where, relative = _blob(random, layer, y, x, radius, waves=0.35)
        solid = np.clip((1 - relative) * radius / (1.2 * zoom), 0, 1)
        layer.phase[where] += random.uniform(0.5, 2.4) * solid
        layer.absorption[where] += random.uniform(0, 0.2) * solid
        layer.dna[where] += random.choice([0.0, 0.0, random.uniform(0.3, 2.0)]) * solid
        layer.signal[where] += random.uniform(0.0, 1.5) * solid
    return _see(layer, defocus=defocus, haze=haze, zoom=zoom)


def _dead_clump(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw dead cells heaped up: strong refraction in brightfield, bright blurred false nuclei in the stain."""
    spread = max(7.0 * zoom, size / 2)
    defocus = random.choice([-1.0, 1.0]) * random.uniform(2, 9)
    haze = random.uniform(1.2, 3.5) + min(0.015 * size / zoom, 4.0)
    layer = _square(2.0 * spread + _margin(defocus, haze, zoom))
    height = layer.phase.shape[0]
    middle = height / 2
    stretch = random.uniform(1, 2)
    turn = random.uniform(0, np.pi)
    packing = random.uniform(2.0, 3.6)
    # large clumps come together from several
    count = 1 if spread < 30 * zoom else int(random.integers(2, 9))
    nests = random.normal(0, spread / 3 if count > 1 else 0.0, (count, 2))
    tight = spread / packing / (1.6 if count > 1 else 1.0)
    density = random.choice([1.0, 1.0, 3.0])  # freshly dead or shrunken and dark
    stain = random.uniform(0.5, 2.0)  # dead cells take up dyes without measure
    for _ in range(int(np.clip(1.1 * (spread / (5.5 * zoom)) ** 1.7, 3, 3000))):
        nest = nests[int(random.integers(len(nests)))]
        along, across = nest + random.normal(0, tight, 2) * np.array([stretch, 1 / stretch])
        y = middle + along * math.sin(turn) + across * math.cos(turn)
        x = middle + along * math.cos(turn) - across * math.sin(turn)
        if not (0 <= y < height and 0 <= x < height):
            continue
        radius = random.uniform(3.5, 8.5) * zoom
        where, relative = _blob(random, layer, y, x, radius, waves=0.18)
        cap = np.sqrt(np.clip(1 - relative**2, 0, 1))
        layer.phase[where] += random.uniform(1.2, 3.6) * cap
        layer.absorption[where] += density * random.uniform(0.02, 0.2) * cap
        core = np.clip((0.75 - relative) * 3, 0, 1)
        layer.dna[where] += random.choice([0.1, 1.0, 2.0, 4.0]) * stain * core
        layer.signal[where] += random.uniform(0.2, 1.5) * stain * cap
    body = np.clip(layer.absorption / (0.08 * density), 0, 1)
    layer.phase = (layer.phase + 0.7 * grain(random, layer.phase.shape, 1.3 * zoom) * body).astype(np.float32)
    cloud = stain * random.uniform(0.1, 0.4) * broad_blur(body, max(3.0, 5 * zoom + 0.06 * size))
    layer.dna = layer.dna + cloud
    layer.signal = layer.signal + cloud
    return _see(layer, defocus=defocus, haze=haze, zoom=zoom, shading=0.5)


def _bubble(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw air under the cover or in the medium: a dark thick rim, a bright middle, what lies below bent."""
    radius = max(5.0 * zoom, size / 2)
    soft = random.uniform(0.8 * zoom, 1.5 * zoom + 0.03 * radius)
    layer = _square(radius * 1.25 + 14 * zoom + 3 * soft)
    outline = draw_outline(random, radius=radius, elongation=random.uniform(1, 1.12), waves=0.02)
    height, width = layer.phase.shape
    _, around = window(y=height / 2, x=width / 2, reach=max(height, width), shape=(height, width))
    relative = outline.relative_distance(around)
    rim = random.uniform(0.55, 0.85)
    ring = np.exp(-(np.abs((relative - (1 + rim) / 2) / ((1 - rim) / 2)) ** 3))
    bright = np.exp(-(((relative - rim + 0.02) / 0.05) ** 2))
    fringe = np.exp(-(((relative - 1.05) * radius / (2.2 * zoom)) ** 2))
    light = 1 - random.uniform(0.45, 0.92) * ring + random.uniform(0.05, 0.5) * bright
    light = light + random.uniform(0.05, 0.25) * fringe + random.uniform(-0.08, 0.12) * (relative < rim)
    inside = np.clip((1 - relative) * radius / (2 * zoom), 0, 1).astype(np.float32)
    edge = np.exp(-(((relative - 0.97) * radius / (2.5 * zoom)) ** 2))
    return Artifact(
        transmission=gaussian(light.astype(np.float32), soft),
        shade=gaussian((1 - random.uniform(0.2, 0.7) * inside).astype(np.float32), soft + 0.8 * zoom),
        dna_glow=gaussian((random.uniform(0.0, 0.3) * edge).astype(np.float32), soft + 0.8 * zoom),
        signal_glow=gaussian((random.uniform(0.0, 0.3) * edge).astype(np.float32), soft + 0.8 * zoom),
        magnification=random.uniform(0.75, 1.5),
    )


def _blurred_blob(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw dust far from focus, on the lid or a lens: a soft shadow, sometimes with a ring."""
    radius = max(6.0 * zoom, size / 2)
    soft = random.uniform(0.22, 0.45) * radius
    layer = _square(1.8 * radius + 3 * soft + 6 * zoom)
    middle = layer.phase.shape[0] / 2
    where, relative = _blob(random, layer, middle, middle, radius, waves=0.15)
    ring = random.uniform(0, 0.8)
    profile = np.clip((1 - relative) * 4, 0, 1) * (1 - ring * np.clip(1 - relative / 0.6, 0, 1))
    layer.absorption[where] = profile
    dark = random.uniform(0.12, 0.75) * random.choice([1.0, 1.0, 1.0, -0.5])
    light = 1 - dark * broad_blur(layer.absorption, max(3.0, soft))
    glow = broad_blur(layer.absorption, max(3.0, 1.5 * soft)) * random.choice([0.0, random.uniform(0.1, 0.9)])
    shade = 1 - max(0.0, dark) * random.uniform(0.4, 1.2) * broad_blur(layer.absorption, max(3.0, 1.2 * soft))
    return Artifact(light, shade, glow, 0.7 * glow)


def _bacteria(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw a colony of rods, which every DNA dye stains."""
    spread = max(5.0 * zoom, size / 2)
    defocus, haze = _focus(random, widest=8)
    layer = _square(2.6 * spread + _margin(defocus, haze, zoom))
    middle = layer.phase.shape[0] / 2
    count = int(np.clip(random.uniform(0.5, 1.5) * 0.09 * (spread / zoom) ** 2 + 8, 8, 6000))
    nests = int(random.integers(1, 5))
    nest = random.normal(0, spread / 2, (2, nests))
    chosen = random.integers(0, nests, count)
    y, x = middle + nest[:, chosen] + random.normal(0, spread / 2.4, (2, count))
    turn = random.uniform(0, 2 * np.pi, count)
    reach = random.uniform(1.2, 3.2, count) * zoom
    along = np.linspace(-1, 1, 7)[:, None] * reach
    rows, columns = (y + along * np.sin(turn)).ravel(), (x + along * np.cos(turn)).ravel()
    rods = np.minimum(gaussian(splat(layer.phase.shape, rows, columns, zoom**2), 0.75 * zoom), 1.6)
    layer.phase = (random.uniform(0.9, 2.0) * rods).astype(np.float32)
    layer.absorption = (random.uniform(0.02, 0.12) * rods).astype(np.float32)
    layer.dna = (random.uniform(0.15, 0.8) * rods).astype(np.float32)
    layer.signal = (random.uniform(0.0, 0.4) * rods).astype(np.float32)
    return _see(layer, defocus=defocus, haze=haze, zoom=zoom, shading=0.3)


def _scratch(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw scratches in the plate's bottom: thin, nearly straight, ragged."""
    length = size * 3.5
    defocus, haze = _focus(random, widest=25)
    lines = int(random.integers(1, 5))
    y, x = draw_curve(random, length=length, bend=random.uniform(0.02, 0.25) / zoom)
    margin = 20 * zoom + _margin(defocus, haze, zoom)
    layer = _layer(math.ceil(np.ptp(y) + 2 * margin), math.ceil(np.ptp(x) + 2 * margin))
    shape = layer.phase.shape
    for _ in range(lines):
        part = slice(int(random.uniform(0, 0.3) * len(y)), max(3, int(random.uniform(0.7, 1) * len(y))))
        aside = random.normal(0, 6 * zoom, 2) if lines > 1 else np.zeros(2)
        distance = distance_to_curve(
            shape, y[part] - y.min() + margin + aside[0], x[part] - x.min() + margin + aside[1]
        )
        width = random.uniform(0.6, 1.5) * zoom * np.clip(1 + 0.5 * smooth_field(random, shape, 9 * zoom), 0.25, 2.2)
        groove = np.exp(-((distance / width) ** 2))
        layer.phase -= (random.uniform(0.4, 1.8) * groove).astype(np.float32)
        layer.absorption += (random.uniform(0.02, 0.25) * groove).astype(np.float32)
    layer.signal = (random.uniform(0, 0.15) * np.minimum(layer.absorption * 5, 1)).astype(np.float32)
    return _see(layer, defocus=defocus, haze=haze, zoom=zoom)


def _ring(random: np.random.Generator, size: float, zoom: float) -> Artifact:
    """Draw a speck on the lamp's or the camera's window: diffraction rings, and a shadow on every channel."""
    radius = max(6.0 * zoom, size / 2)
    layer = _square(radius * 1.35 + 8 * zoom)
    height, width = layer.phase.shape
    outline = draw_outline(random, radius=radius, elongation=random.uniform(1, 1.25), waves=random.uniform(0, 0.05))
    _, around = window(y=height / 2, x=width / 2, reach=max(height, width), shape=(height, width))
    relative = outline.relative_distance(around)
    rings = random.uniform(1.0, 4.5)
    # rings of a coherent shadow lie the closer, the farther out; a lamp of some size washes them out towards the rim
    waves = np.cos(2 * np.pi * rings * relative**2 + random.uniform(0, 2 * np.pi))
    envelope = np.clip((1.15 - relative) / random.uniform(0.2, 0.6), 0, 1) * np.exp(
        -random.uniform(0.0, 1.5) * relative
    )
    middle = np.exp(-((relative / random.uniform(0.1, 0.4)) ** 2))
    depth = random.uniform(0.08, 0.35)
    shadow = depth * envelope * (waves - random.uniform(-0.2, 0.6)) - random.uniform(0, 0.3) * middle
    light = gaussian((1 + shadow).astype(np.float32), random.uniform(0.8, 2.5) * zoom)
    # the stain's light is not coherent: the speck takes some of it, without rings
    dimmed = 1 - random.uniform(0.15, 0.6) * np.clip(envelope, 0, 1)
    haze = random.uniform(0.0, 0.25) * envelope
    return Artifact(
        transmission=np.maximum(light, 0.05),
        shade=gaussian(dimmed.astype(np.float32), 4 * zoom),
        dna_glow=gaussian(haze.astype(np.float32), 4 * zoom),
        signal_glow=gaussian((0.7 * haze).astype(np.float32), 4 * zoom),
    )


def likened(random: np.random.Generator, made: Artifact, zoom: float) -> Artifact:
    """Give an artifact a sharpness, a contrast and a tint that are drawn alike for all kinds.

    Each kind has a darkness of its own by what it is made of, so that a network could tell dust by its black alone.
    Thickness, colour and distance from focus differ far more in reality than a kind's own range.

    Parameters
    ----------
    random : numpy.random.Generator
        Source of chance.
    made : Artifact
        As its kind drew it.
    zoom : float
        Pixels per pixel of zoom 1.

    Returns
    -------
    Artifact
        With another transmission in brightfield; the other channels are as they were.
    """
    light = made.transmission
    seen = np.abs(light - 1) > _SEEN
    if not seen.any():
        return made
    across = math.sqrt(np.count_nonzero(seen))
    softness = random.uniform(0, 1) ** 2 * min(5 * zoom, 0.2 * across)
    if softness > 0.3:
        light = gaussian(light, softness)
    change = light - 1
    # how far the strongest tenth of what is seen is from the light around it
    strength = float(np.percentile(np.abs(change)[seen], 90))
    gain = math.exp(random.uniform(*_STRENGTH)) / max(strength, _SEEN)
    # its haze ends at the window's border, and must not be seen to
    wide = math.ceil(_FADE * zoom) + 1
    sides = (change[:wide], change[-wide:], change[:, :wide], change[:, -wide:])
    border = max(float(np.abs(side).max()) for side in sides)
    change = change * np.float32(min(gain, max(1.0, _SEEN / max(border, 1e-6))))
    body = filled(np.pad(seen, 3))[3:-3, 3:-3].astype(np.float32)
    veil = gaussian(body, max(0.8 * zoom, softness))
    rows, columns = (_ramp(length, zoom) for length in body.shape)
    fade = np.minimum(rows[:, None], columns[None, :])
    light = (1 + np.clip(change, -0.97, 0.9)) * (1 - np.float32(random.uniform(*_TINT)) * fade * veil)
    return replace(made, transmission=light.astype(np.float32))


ARTIFACTS: dict[str, Callable[[np.random.Generator, float, float], Artifact]] = {
    "dust": _dust,
    "fibre": _fibre,
    "debris": _debris,
    "dead clump": _dead_clump,
    "bubble": _bubble,
    "out-of-focus blob": _blurred_blob,
    "bacteria": _bacteria,
    "scratch": _scratch,
    "ring": _ring,
}
"""Kinds of artifacts: each draws one about `size` pixels wide (a fibre or a scratch is longer) at a zoom."""

LARGEST: dict[str, float] = {
    "dust": 70.0,
    "fibre": 150.0,
    "debris": 200.0,
    "dead clump": 220.0,
    "bubble": 260.0,
    "out-of-focus blob": 240.0,
    "bacteria": 200.0,
    "scratch": 150.0,
    "ring": 200.0,
}
"""Largest size of a kind in pixels of zoom 1, where sizes are drawn freely."""

FREQUENCY: dict[str, float] = {
    "dust": 2.0,
    "fibre": 2.0,
    "debris": 1.5,
    "dead clump": 3.0,
    "bubble": 1.0,
    "out-of-focus blob": 1.5,
    "bacteria": 1.0,
    "scratch": 1.0,
    "ring": 0.7,
}
"""How often a kind occurs, relative to the others; dead cells are the commonest artifact of a stained plate."""
