"""Near-duplicates: the same field saved, dimmed, shrunk or soiled is found; other fields of the same kind are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from artseg_models.near_duplicates import HASH_BITS, near_duplicate_groups, perceptual_hash
from artseg_models.simulate import simulate_field


def grey(pixels: np.ndarray) -> Image.Image:
    low, high = np.percentile(pixels, [0.1, 99.9])
    return Image.fromarray(np.clip((pixels - low) / (high - low) * 255, 0, 255).astype(np.uint8))


def saved_as_jpeg(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    grey(pixels).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream))


def soiled(pixels: np.ndarray) -> np.ndarray:
    side = min(pixels.shape) // 8
    changed = pixels.copy()
    changed[side : 2 * side, side : 2 * side] = pixels.min()
    return changed


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "saved as JPEG": saved_as_jpeg,
    "half the size": lambda pixels: np.asarray(grey(pixels).reduce(2)),
    "dimmed": lambda pixels: (pixels * 0.5 + 300).astype(pixels.dtype),
    "noisier": lambda pixels: pixels + np.random.default_rng(1).normal(0, 0.3 * pixels.std(), pixels.shape),
    "soiled": soiled,
    "shifted by half a percent": lambda pixels: np.roll(pixels, pixels.shape[0] // 200, axis=0),
}


@pytest.fixture(scope="module")
def fields() -> list[np.ndarray]:
    return [simulate_field(seed=seed, shape=(320, 320), artifact=False).brightfield for seed in range(16)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(fields: list[np.ndarray], change: str) -> None:
    copies = [CHANGES[change](pixels) for pixels in fields[:6]]
    hashes = np.stack([perceptual_hash(pixels) for pixels in [*fields, *copies]])
    assert hashes.shape == (22, HASH_BITS)
    assert near_duplicate_groups(hashes) == [[at, 16 + at] for at in range(6)]


def test_a_common_background_does_not_make_one_heap(fields: list[np.ndarray]) -> None:
    """A strong fixed pattern rules all hashes; the copies inside are found all the same."""
    pattern = np.kron(np.random.default_rng(3).normal(size=(40, 40)), np.ones((8, 8)))
    overlaid = [pixels + 2.0 * pixels.std() * pattern for pixels in fields]
    hashes = np.stack([perceptual_hash(pixels) for pixels in [*overlaid, 0.9 * overlaid[3]]])
    groups = near_duplicate_groups(hashes)
    assert max(map(len, groups)) <= 12
    assert any({3, 16} <= set(members) for members in groups)


def test_what_is_alike_by_way_of_others_is_one_group_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artseg_models.near_duplicates._BLOCK_ROWS", 2)
    hashes = np.random.default_rng(0).random((40, HASH_BITS)) > 0.5
    # 30 bits from 3 to 9 and again from 9 to 21: alike in steps, too far apart from end to end
    hashes[9] = hashes[3]
    hashes[9, :30] ^= True
    hashes[21] = hashes[9]
    hashes[21, 30:60] ^= True
    hashes[22] = hashes[5]
    assert near_duplicate_groups(hashes) == [[3, 9, 21], [5, 22]]
