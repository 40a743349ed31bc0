"""The example pipelines in the real CellProfiler, headless, on simulated fields of view and on a real one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from artseg_models.cellprofiler import cellprofiler_version, run_pipeline
from artseg_models.errors import ArtSegError
from artseg_models.packages.read import read_package
from artseg_models.predict import Predictor
from artseg_models.simulate import SimulatedField

FIELDS = ("A01_s1", "A02_s1")


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def measurement_names(folder: Path, name: str) -> set[str]:
    # these two count modules, so that any inserted module renames them
    return {
        column for column in table(folder, name).columns if not column.startswith(("ExecutionTime_", "ModuleError_"))
    }


def picture(folder: Path, field: str, what: str) -> np.ndarray:
    return tifffile.imread(folder / "images" / f"{field}_brightfield_{what}.tiff")


@pytest.mark.parametrize("field", FIELDS)
def test_the_mask_is_what_the_model_says(
    runs: object, fields: dict[str, SimulatedField], package: Path, field: str
) -> None:
    as_cellprofiler_has_it = (fields[field].brightfield / 65535).astype(np.float32)
    read = read_package(package)
    said = Predictor(read, device="cpu").predict(as_cellprofiler_has_it)
    assert np.array_equal(picture(runs.masked, field, "artifacts") > 0, said.mask)
    row = table(runs.masked, "Image").set_index("FileName_Brightfield").loc[f"{field}_brightfield.tiff"]
    assert row["ArtSeg_AreaFraction_Artifacts"] == pytest.approx(said.area_fraction)
    assert row["ArtSeg_UsableArea_Artifacts"] == said.usable_area_px == (~said.mask).sum()
    assert row["ArtSeg_Probability_Artifacts"] == pytest.approx(said.image_probability, abs=1e-5)
    assert row["Count_Artifacts"] == said.count > 0
    assert row["ArtSeg_Cutoff_Artifacts"] == 0.4
    assert row["ArtSeg_SmallestArtifact_Artifacts"] == 25
    assert row["ArtSeg_ModelID_Artifacts"] == read.id
    assert row["ArtSeg_ModelSHA256_Artifacts"] == read.sha256
    assert row["ArtSeg_Device_Artifacts"] in ("cpu", "cuda", "mps")
    assert row["ArtSeg_Engine_Artifacts"] in (os.environ["ARTSEG_ENGINE"], "torch")  # the latter on a graphics card
    assert row["ArtSeg_Seconds_Artifacts"] > 0
    objects = table(runs.masked, "Artifacts").query(f"ImageNumber == {row['ImageNumber']}")
    centres = ndimage.center_of_mass(said.labels > 0, said.labels, range(1, said.count + 1))
    assert objects[["Location_Center_Y", "Location_Center_X"]].to_numpy() == pytest.approx(np.array(centres), abs=0.01)


def test_every_measurement_name_survives(runs: object) -> None:
    for name in ("Image", "Nuclei"):
        before, after = measurement_names(runs.plain, name), measurement_names(runs.masked, name)
        assert before <= after, before - after
        assert len(before) > 10
    assert {"FileName_DNA", "Metadata_Well", "Metadata_Site", "Count_Nuclei"} <= measurement_names(runs.plain, "Image")


@pytest.mark.parametrize("field", FIELDS)
def test_nuclei_under_artifacts_go_whole_and_the_others_stay(
    runs: object, fields: dict[str, SimulatedField], field: str
) -> None:
    artifacts = picture(runs.masked, field, "artifacts") > 0
    kept, found = picture(runs.masked, field, "nuclei"), picture(runs.plain, field, "nuclei")
    assert not kept[ndimage.binary_dilation(artifacts)].any()
    truth = fields[field].nuclei
    under = set(np.unique(truth[artifacts])) - {0}
    assert under
    disc = fields[field].artifact_mask
    assert (artifacts & disc).sum() > 0.8 * (artifacts | disc).sum()
    for nucleus in under:
        assert not np.count_nonzero(kept[truth == nucleus]) > 0.2 * np.count_nonzero(truth == nucleus)
    far = ndimage.distance_transform_edt(~artifacts) > 3
    stay = [label for label in np.unique(found)[1:] if far[found == label].all()]
    assert len(stay) >= 5
    for label in stay:
        here = found == label
        most = np.bincount(kept[here]).argmax()
        assert most, f"nucleus {label} is gone although no artifact is near"
        assert ((kept == most) & here).sum() / ((kept == most) | here).sum() > 0.5  # whole; the thresholds differ


def test_measurements_are_those_of_the_kept_nuclei(runs: object, fields: dict[str, SimulatedField]) -> None:
    nuclei = table(runs.masked, "Nuclei")
    for number, name in enumerate(FIELDS, start=1):
        labels = picture(runs.masked, name, "nuclei")
        own = nuclei.query(f"ImageNumber == {number}")
        assert len(own) == labels.max()
        signal = ndimage.mean(fields[name].signal / 65535, labels, range(1, labels.max() + 1))
        assert own["Intensity_MeanIntensity_Signal"].to_numpy() == pytest.approx(np.array(signal), rel=1e-4)
        sizes = np.bincount(labels.ravel())[1:]
        assert own["AreaShape_Area"].to_numpy() == pytest.approx(sizes)


def assert_database_holds_the_tables(out: Path) -> None:
    """The SQLite file has each of our measurements, and the numbers of the exported tables."""
    with closing(sqlite3.connect(out / "DefaultDB.db")) as opened:
        for name, at_least in (("Image", 12), ("Nuclei", 3), ("Artifacts", 2)):
            stored = pd.read_sql(f"SELECT * FROM MyExpt_Per_{name}", opened)
            # an empty text, such as the kinds of a model that tells none, is no missing number
            exported = pd.read_csv(out / f"{name}.csv", keep_default_na=False, na_values=["nan"])
            ours = [column for column in exported.columns if column.startswith("ArtSeg_")]
            assert len(ours) >= at_least
            assert len(stored) == len(exported) > 0
            for column in ours:
                values = stored[f"{name}_{column}"]
                if pd.api.types.is_numeric_dtype(exported[column]):
                    assert values.to_numpy(float) == pytest.approx(exported[column].to_numpy(float), nan_ok=True)
                else:
                    assert values.tolist() == exported[column].tolist()


def test_nuclei_are_measured_against_artifacts_and_filtered_whole(
    runs: object,
    cellprofiler: list[str],
    images: Path,
    package: Path,
    fields: dict[str, SimulatedField],
    repository: Path,
    tmp_path: Path,
) -> None:
    pipeline = repository / "plugins" / "pipelines" / "artifacts_filtered.cppipe"
    # CellProfiler 5's nightly exports to SQLite only where the MySQL client is installed, too
    to_database = cellprofiler_version(cellprofiler).startswith("4.")
    if to_database:
        example = pipeline.read_text(encoding="utf-8")
        assert "ModuleCount:16\n" in example
        example = example.replace("ModuleCount:16\n", "ModuleCount:17\n").rstrip("\n")
        module = (Path(__file__).parent / "data" / "export_to_database.txt").read_text(encoding="utf-8")
        pipeline = tmp_path / "with_database.cppipe"
        pipeline.write_text(f"{example}\n\n{module}", encoding="utf-8")
    out = run_pipeline(pipeline, images, tmp_path / "out", package=package, cellprofiler=cellprofiler)
    if to_database:
        assert_database_holds_the_tables(out)
    assert measurement_names(runs.plain, "Nuclei") <= measurement_names(out, "Nuclei")
    nuclei = table(out, "Nuclei")
    for number, name in enumerate(FIELDS, start=1):
        artifacts = picture(out, name, "artifacts") > 0
        assert np.array_equal(artifacts, picture(runs.masked, name, "artifacts") > 0)
        kept = picture(out, name, "nuclei")
        own = nuclei.query(f"ImageNumber == {number}")
        labels = range(1, kept.max() + 1)
        assert len(own) == len(labels) > 5
        overlap = ndimage.mean(artifacts, kept, labels)
        assert own["ArtSeg_OverlapFraction_ArtifactMask"].to_numpy() == pytest.approx(np.array(overlap))
        assert max(overlap) <= 0.05
        distance = ndimage.minimum(ndimage.distance_transform_edt(~artifacts), kept, labels)
        assert own["ArtSeg_ArtifactDistance_ArtifactMask"].to_numpy() == pytest.approx(np.array(distance))
        touches = [
            bool(kept_here[artifacts].any())
            for kept_here in (ndimage.binary_dilation(kept == label, np.ones((3, 3))) for label in labels)
        ]
        assert own["ArtSeg_TouchesArtifact_ArtifactMask"].astype(bool).tolist() == touches
        # the glowing nucleus in the middle of the artifact went, and what was kept is whole
        truth = fields[name].nuclei
        inside = [label for label in np.unique(truth[artifacts])[1:] if artifacts[truth == label].all()]
        assert inside
        assert not kept[np.isin(truth, inside)].any()


def test_fields_with_too_much_artifact_are_flagged(
    runs: object, cellprofiler: list[str], images: Path, package: Path, repository: Path, tmp_path: Path
) -> None:
    fractions = table(runs.masked, "Image").set_index("Metadata_Field")["ArtSeg_AreaFraction_Artifacts"]
    assert fractions.max() < 0.1  # the limit as the example has it would flag neither
    text = (repository / "plugins" / "pipelines" / "image_quality.cppipe").read_text(encoding="utf-8")
    pipeline = tmp_path / "image_quality.cppipe"
    pipeline.write_text(text.replace("Maximum value:0.1\n", f"Maximum value:{fractions.mean()}\n"), encoding="utf-8")
    out = run_pipeline(pipeline, images, tmp_path / "out", package=package, cellprofiler=cellprofiler)
    rows = table(out, "Image").set_index("Metadata_Field")
    assert rows["Metadata_QCFlag"].to_dict() == (fractions > fractions.mean()).astype(int).to_dict()
    assert sorted(rows["Metadata_QCFlag"]) == [0, 1]
    for field in FIELDS:
        outlined = picture(out, field, "outlined")
        assert (outlined[..., 0] != outlined[..., 2]).any()  # an orange line in a grey image


def test_what_goes_wrong_is_told_by_its_cause(
    cellprofiler: list[str], images: Path, repository: Path, tmp_path: Path
) -> None:
    pipeline = repository / "plugins" / "pipelines" / "artifacts_masked.cppipe"
    with pytest.raises(ArtSegError, match=r"SegmentArtifacts: Expected a model package .* there is none") as caught:
        run_pipeline(pipeline, images, tmp_path / "out", cellprofiler=cellprofiler)
    assert str(tmp_path / "out" / "cellprofiler.log") in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cellprofiler.log"]

    # CellProfiler itself ends with success here, and without results
    (tmp_path / "plugins").mkdir()
    with pytest.raises(ArtSegError, match="needs the module SegmentArtifacts"):
        run_pipeline(pipeline, images, tmp_path / "out", cellprofiler=cellprofiler, plugins=tmp_path / "plugins")

    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtSegError, match="do not fit the pipeline's rules"):
        run_pipeline(
            pipeline.with_name("no_masking.cppipe"), tmp_path / "empty", tmp_path / "out", cellprofiler=cellprofiler
        )


def test_a_real_field_goes_through_both_pipelines(
    cellprofiler: list[str], shared_data: Path, package: Path, repository: Path, tmp_path: Path
) -> None:
    counts = {}
    for name, model in (("artifacts_masked", package), ("no_masking", None)):
        out = run_pipeline(
            repository / "plugins" / "pipelines" / f"{name}.cppipe",
            shared_data / "pediatric_field",
            tmp_path / name,
            package=model,
            cellprofiler=cellprofiler,
            channels={"brightfield": "*ch1*", "dna": "*ch5*", "signal": "*ch2*"},
        )
        image = table(out, "Image").iloc[0]
        field = image["Metadata_Field"]
        assert field == "r03c03f03p01-sk1fk1fl1"
        counts[name] = image["Count_Nuclei"]
        assert counts[name] == picture(out, field, "nuclei").max()
        if model:
            assert image["ArtSeg_UsableArea_Artifacts"] == (picture(out, field, "artifacts") == 0).sum()
    assert 30 <= counts["no_masking"] <= 60  # its authors outlined about forty
    assert counts["artifacts_masked"] <= counts["no_masking"]
