"""SegmentArtifacts with a model that tells kinds of artifact apart, in the real CellProfiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from artseg_models.cellprofiler import run_pipeline
from artseg_models.packages.read import read_package
from artseg_models.predict import Prediction, Predictor
from artseg_models.segment import KIND_COLOURS

FIELD = "A01_s1"


@pytest.fixture(scope="module")
def predicted(
    package_of_kinds: Path, fields_of_kinds: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, Prediction]:
    """What the model says of the images as CellProfiler has them, and that it has learned its task."""
    predictor = Predictor(read_package(package_of_kinds), device="cpu")
    found = {}
    for name, (pixels, (_, *kinds)) in fields_of_kinds.items():
        found[name] = predictor.predict((pixels / 65535).astype(np.float32))
        for number, mask in enumerate(kinds, start=1):
            assert (found[name].kind_map[mask] == number).mean() > 0.5
    return found


@pytest.fixture(scope="module")
def found(
    ask_inside: Callable[..., dict[str, Any]],
    package_of_kinds: Path,
    fields_of_kinds: dict[str, tuple[np.ndarray, np.ndarray]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What `inside_kinds.py` found out."""
    image = tmp_path_factory.mktemp("image") / "brightfield.npy"
    np.save(image, (fields_of_kinds[FIELD][0] / 65535).astype(np.float32))
    return ask_inside("inside_kinds.py", package_of_kinds, image)


def text_of(prediction: Prediction) -> str:
    return ";".join(f"{kind}:{count}" for kind, count in prediction.kind_counts.items() if count)


def test_each_artifact_has_the_number_of_its_kind(found: dict[str, Any], predicted: dict[str, Prediction]) -> None:
    numbers = predicted[FIELD].object_kinds.tolist()
    assert set(numbers) == {1, 2}
    assert found["said"] == [text_of(predicted[FIELD]), numbers]
    assert found["columns"] == {"undeclared": [], "unmeasured": []}
    of_image, of_objects = found["by_category"]
    assert "Kinds" in of_image
    assert "KindNumber" in of_objects


def test_the_figure_has_a_colour_a_kind(found: dict[str, Any], predicted: dict[str, Prediction]) -> None:
    assert found["plain"]
    counts = predicted[FIELD].kind_counts
    assert found["table"]["Kinds"] == [f"dust {counts['dust']}, fibre {counts['fibre']}"]
    assert found["table"]["Outlines"] == ["dust orange, fibre sky blue"]
    numbers = predicted[FIELD].object_kinds
    assert found["outlined"] == [
        [f"Artifacts: {kind}", list(KIND_COLOURS[place - 1]), (np.flatnonzero(numbers == place) + 1).tolist()]
        for place, kind in ((1, "dust"), (2, "fibre"))
    ]
    assert found["colours"] == [list(colour) for colour in KIND_COLOURS], "as on the overlays of artseg segment"
    assert found["ninth"]


def test_cellprofilers_own_modules_keep_and_blank_one_kind(
    found: dict[str, Any], predicted: dict[str, Prediction]
) -> None:
    assert found["filtered"] == [True, True, int((predicted[FIELD].kind_map == 2).sum())]


def test_the_kinds_are_told_with_their_numbers(found: dict[str, Any]) -> None:
    assert "1 dust, 2 fibre" in found["shown_model"]
    assert "Kinds of artifact" in found["help"]
    assert "System Message" not in found["help"]  # how docutils marks what it could not read


def test_no_artifact_has_no_kind(found: dict[str, Any]) -> None:
    said, outlined, (kinds,) = found["nothing"]
    assert said == ["", []]
    assert [objects for _, _, objects in outlined] == [[]]
    assert kinds == "none"


def test_kinds_stay_with_their_objects_where_others_vanish(found: dict[str, Any]) -> None:
    assert found["halved"]["said"] == ["dust:1;fibre:1", [3, 2]]
    assert found["halved"]["left_of"] == [2, 22]
    sky_blue, green = KIND_COLOURS[1:3]
    assert found["halved"]["outlined"] == [
        ["Artifacts: dust", list(sky_blue), [2]],
        ["Artifacts: fibre", list(green), [1]],
    ]
    assert found["whole"] == ["bubble:1;fibre:2", [3, 1, 3]]


def test_a_model_without_kinds_shows_as_ever(found: dict[str, Any]) -> None:
    said, outlined, rows = found["without"]
    assert said == ["", [0, 0]]
    assert outlined == [["Artifacts", None, [1, 2]]]
    assert not {"Kinds", "Outlines"} & set(rows)


def test_a_pipeline_exports_the_kinds(
    cellprofiler: list[str],
    images: Path,
    package_of_kinds: Path,
    fields_of_kinds: dict[str, tuple[np.ndarray, np.ndarray]],
    predicted: dict[str, Prediction],
    repository: Path,
    tmp_path: Path,
) -> None:
    plate = tmp_path / "plate"
    plate.mkdir()
    for name, (pixels, _) in fields_of_kinds.items():
        tifffile.imwrite(plate / f"{name}_brightfield.tiff", pixels)
    pipeline = repository / "plugins" / "pipelines" / "image_quality.cppipe"
    out = run_pipeline(pipeline, plate, tmp_path / "out", package=package_of_kinds, cellprofiler=cellprofiler)
    rows, objects = (pd.read_csv(out / f"{name}.csv") for name in ("Image", "Artifacts"))
    assert len(rows) == len(predicted)
    for _, row in rows.iterrows():
        prediction = predicted[row["FileName_Brightfield"].removesuffix("_brightfield.tiff")]
        assert row["ArtSeg_Kinds_Artifacts"] == text_of(prediction)
        own = objects[objects["ImageNumber"] == row["ImageNumber"]]
        assert own["ArtSeg_KindNumber"].tolist() == prediction.object_kinds.tolist()
