"""The benchmark of the methods compares what gives the same, and measures in a process of its own."""

from __future__ import annotations

import pytest

from artseg_models.benchmark.methods import measure_dense_pass, padim_peak_mib
from artseg_models.errors import ArtSegError


def test_both_ways_through_the_patches_give_the_same():
    found = measure_dense_pass(side=80, repeats=1)
    assert found.largest_difference < 1e-5
    assert found.dense_seconds > 0
    assert found.patchwise_seconds > 0
    with pytest.raises(ArtSegError, match="multiple of 16"):
        measure_dense_pass(side=100)


def test_peak_memory_of_padim_is_that_of_its_process():
    few, large = padim_peak_mib(2, side=64, channels=10), padim_peak_mib(2, side=64, channels=400)
    # 256 positions of 400 x 400 numbers are 156 MiB
    assert large - few > 150
