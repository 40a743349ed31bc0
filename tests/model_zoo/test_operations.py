"""Pre- and postprocessing: the same numbers as the Zoo's own reader, and masked pixels that count for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from artseg_models.errors import ArtSegError
from artseg_models.images import NORMALISATION_EPSILON, normalise
from artseg_models.packages.operations import KNOWN_OPERATIONS, apply_operations, read_operations

AXES = ["channel", "y", "x"]
DESCRIBED: list[list[dict[str, Any]]] = [
    [{"id": "zero_mean_unit_variance", "kwargs": {"axes": AXES, "eps": 1e-6}}],
    [{"id": "zero_mean_unit_variance"}],
    [{"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": 1000, "std": 250.0}}],
    [{"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": [1000.0], "std": [250.0], "axis": "channel"}}],
    [{"id": "scale_linear", "kwargs": {"gain": 0.001, "offset": -1.5}}],
    [{"id": "scale_linear", "kwargs": {"gain": [2.0], "offset": [1.0], "axis": "channel"}}],
    [{"id": "scale_range", "kwargs": {"axes": AXES, "min_percentile": 1.0, "max_percentile": 99.8}}],
    [{"id": "scale_range", "kwargs": {"axes": AXES}}, {"id": "clip", "kwargs": {"min": 0.2, "max": 0.8}}],
    [{"id": "clip", "kwargs": {"min_percentile": 5.0, "max_percentile": 95.0}}],
    [{"id": "binarize", "kwargs": {"threshold": 1000.0}}],
    [{"id": "ensure_dtype", "kwargs": {"dtype": "uint8"}}],
    [{"id": "scale_linear", "kwargs": {"gain": 0.001, "offset": -1.0}}, {"id": "sigmoid"}],
]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 250, (41, 67)).astype(np.float32) * 8 + 0.5


def by_bioimageio_core(described: list[dict[str, Any]], pixels: np.ndarray) -> np.ndarray:
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.core.proc_setup import setup_pre_and_postprocessing
    from bioimageio.spec import ValidationContext
    from bioimageio.spec.model import v0_5

    axes = [{"type": "batch"}, {"type": "channel", "channel_names": ["grey"]}]
    space = [{"type": "space", "id": name, "size": {"min": 1, "step": 1}} for name in "yx"]
    copies = [{"type": "space", "id": name, "size": {"tensor_id": "image", "axis_id": name}} for name in "yx"]
    sigmoid = described[-1]["id"] == "sigmoid"  # only there after a model
    with ValidationContext(perform_io_checks=False):
        model = v0_5.ModelDescr.model_validate(
            {
                "type": "model",
                "format_version": "0.5.10",
                "name": "Operations",
                "inputs": [
                    {
                        "id": "image",
                        "axes": axes + space,
                        "data": {"type": "float32"},
                        "preprocessing": [] if sigmoid else described,
                    }
                ],
                "outputs": [{"id": "map", "axes": axes + copies, "postprocessing": described if sigmoid else []}],
                "weights": {"onnx": {"source": "weights.onnx", "sha256": "0" * 64, "opset_version": 17}},
            }
        )
    processing = setup_pre_and_postprocessing(model, dataset_for_initial_statistics=())
    sample = create_sample_for_model(model, inputs={"image": pixels[None, None]})
    if sigmoid:
        sample.members["map"] = sample.members.pop("image")
    for step in processing.post if sigmoid else processing.pre:
        step(sample)
    return sample.members["map" if sigmoid else "image"].data.values[0, 0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("described", DESCRIBED, ids=lambda described: "+".join(step["id"] for step in described))
def test_operations_give_what_bioimageio_core_gives(described: list[dict[str, Any]], pixels: np.ndarray) -> None:
    if described[0]["id"] == "ensure_dtype":
        pixels = pixels / 8
    ours = apply_operations(read_operations(described, source="test"), pixels)
    expected = by_bioimageio_core(described, pixels)
    assert ours.dtype == np.float32
    assert not np.allclose(ours, pixels), "an operation that does nothing proves nothing"
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_stated_eps_counts(pixels: np.ndarray) -> None:
    # bioimageio.core 0.11 overlooks it, so the format's own formula is the measure
    described = [{"id": "zero_mean_unit_variance", "kwargs": {"eps": 0.1}}]
    expected = (pixels - pixels.mean(dtype=np.float64)) / (pixels.std(dtype=np.float64) + 0.1)
    found = apply_operations(read_operations(described, source="test"), pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_zero_mean_is_the_normalisation_of_training(pixels: np.ndarray) -> None:
    described = [{"id": "zero_mean_unit_variance", "kwargs": {"axes": AXES, "eps": NORMALISATION_EPSILON}}]
    integers = pixels.astype(np.uint16)
    valid = np.ones(pixels.shape, dtype=bool)
    valid[:, :20] = False
    operations = read_operations(described, source="test")
    np.testing.assert_array_equal(apply_operations(operations, integers), normalise(integers))
    np.testing.assert_array_equal(apply_operations(operations, integers, valid=valid), normalise(integers, valid=valid))


@pytest.mark.parametrize("described", DESCRIBED, ids=lambda described: "+".join(step["id"] for step in described))
def test_masked_pixels_change_nothing_elsewhere(described: list[dict[str, Any]], pixels: np.ndarray) -> None:
    valid = np.ones(pixels.shape, dtype=bool)
    valid[5:15, 10:30] = False
    operations = read_operations(described, source="test")
    darker, brighter = pixels.copy(), pixels.copy()
    darker[~valid], brighter[~valid] = 0, 60000
    one, other = (apply_operations(operations, image, valid=valid) for image in (darker, brighter))
    np.testing.assert_array_equal(one, other)
    # and they are what the visible pixels alone would give
    alone = apply_operations(operations, pixels[valid][None])
    np.testing.assert_allclose(one[valid], alone[0], rtol=1e-6, atol=1e-6)


def test_an_image_masked_everywhere_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ArtSegError, match="Every pixel of the image is masked"):
        apply_operations((), pixels, valid=np.zeros(pixels.shape, dtype=bool))


def test_sigmoid_takes_any_number_without_overflow() -> None:
    found = apply_operations(read_operations([{"id": "sigmoid"}], source="test"), np.array([[-1e9, 0, 1e9]]))
    np.testing.assert_array_equal(found, [[0, 0.5, 1]])


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (
            {"id": "scale_mean_variance", "kwargs": {"reference_tensor": "a"}},
            "'scale_mean_variance', which ArtSeg does",
        ),
        ({"id": None}, "operation 'None'"),
        ({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x"]}}, "over x; ArtSeg takes them over the whole"),
        ({"id": "scale_range", "kwargs": {"reference_tensor": "other"}}, "other tensor 'other'"),
        ({"id": "scale_linear", "kwargs": {"gain": "high"}}, "'scale_linear' has a wrong option"),
        ({"id": "clip", "kwargs": {"minimum": 0}}, "'clip' has a wrong option"),
        (
            {"id": "scale_linear", "kwargs": {"gain": [1.0, 2.0], "axis": "channel"}},
            "'scale_linear' has a wrong option",
        ),
        ({"id": "ensure_dtype", "kwargs": {"dtype": "complex64"}}, "names the type 'complex64'"),
    ],
)
def test_operations_that_artseg_cannot_do_are_named(described: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtSegError, match=message):
        read_operations([described], source="test")


def test_each_known_operation_is_tested() -> None:
    assert {step["id"] for described in DESCRIBED for step in described} == set(KNOWN_OPERATIONS)
