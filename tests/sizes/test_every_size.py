"""Every size, number type, binning and pixel size that people have passes by every route and gives the same masks."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # bioimageio.core leaves files open
@pytest.mark.parametrize("route", ["command_line", "service", "state_dict", "torchscript", "onnx", "cellprofiler"])
def test_every_size_gives_what_torch_gives(case, route, models, request):
    probability, mask = request.getfixturevalue(route)(case)
    model = models[case.binning]
    expected = model.reference(case)
    assert expected.shape == probability.shape == (case.height, case.width)
    assert np.abs(probability - expected).max() < 1e-4
    if mask is not None:
        decided = np.abs(expected - model.cutoff) > 1e-4
        assert decided.mean() > 0.9
        np.testing.assert_array_equal(mask[decided], (expected >= model.cutoff)[decided])
        assert 0.02 < mask.mean() < 0.98
