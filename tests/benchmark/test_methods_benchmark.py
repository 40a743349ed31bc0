"""The benchmark of the methods compares what gives the same, and measures in a process of its own."""

from __future__ import annotations

import pytest

from artseg_models.benchmark.methods import measure_dense_pass, measure_padim, padim_peak_mib, padim_programs
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


def test_padim_is_measured_in_every_program_that_is_here():
    found = [measure_padim(program, 3, side=64, channels=12) for program in padim_programs()]
    assert found[0].program == "artseg"
    assert all(one.images == 3 and one.fit_seconds > 0 and one.predict_seconds > 0 for one in found)
    # a process that has loaded PyTorch takes more
    assert all(one.peak_mib > 100 for one in found)
    with pytest.raises(ArtSegError, match="make peers"):
        measure_padim("padimalib", 3)
