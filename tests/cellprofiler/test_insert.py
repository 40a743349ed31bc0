"""Pipelines into which SegmentArtifacts was inserted, in the real CellProfiler: every measurement keeps its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from skimage.io import imread, imsave

from artseg_models.cellprofiler import run_pipeline
from artseg_models.pipelines.blocks import make_module
from artseg_models.pipelines.insert import plan_insertion, write_pipeline
from artseg_models.pipelines.project import open_pipeline, save_pipeline
from artseg_models.pipelines.text import read_pipeline

COUNTING_MODULES = ("ModuleError_", "ExecutionTime_")


def insert(before: Path, after: Path, **options: Any) -> Path:
    write_pipeline(plan_insertion(read_pipeline(before), **options).apply(), after)
    return after


def columns(folder: Path) -> dict[str, set[str]]:
    """Columns of every table, but for those that count modules."""
    return {
        path.name: {
            name for name in pd.read_csv(path).columns if not name.startswith(("ModuleError_", "ExecutionTime_"))
        }
        for path in folder.rglob("*.csv")
    }


def run_both(before: Path, after: Path, *, images: Path, out: Path, cellprofiler: list[str]) -> tuple[Path, Path]:
    """Run a pipeline as it was and with ArtSeg side by side, since each keeps one core busy."""
    with ThreadPoolExecutor(2) as threads:
        had, has = threads.map(
            lambda path: run_pipeline(path, images, out / path.stem / "results", cellprofiler=cellprofiler),
            (before, after),
        )
    return had, has


def assert_all_kept(before: Path, after: Path) -> None:
    had, has = columns(before), columns(after)
    assert had.keys() <= has.keys()
    assert had
    for name, kept in had.items():
        assert kept <= has[name], (name, kept - has[name])
    pictures = [{path.relative_to(folder) for path in folder.rglob("*.[pt][ni]*")} for folder in (before, after)]
    assert pictures[0] <= pictures[1]


@pytest.fixture(scope="module")
def inserted(
    cellprofiler: list[str], images: Path, package: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("inserted")
    pipeline = insert(
        repository / "plugins" / "pipelines" / "no_masking.cppipe",
        folder / "inserted.cppipe",
        brightfield="Brightfield",
        mask_images=["DNA", "Signal"],
        objects=["Nuclei"],
        package=package,
    )
    return run_pipeline(pipeline, images, folder / "results", cellprofiler=cellprofiler)


def test_insertion_measures_what_the_masking_example_measures(inserted: Path, runs: Any) -> None:
    assert_all_kept(runs.plain, inserted)
    ours, example, plain = (pd.read_csv(folder / "Nuclei.csv") for folder in (inserted, runs.masked, runs.plain))
    assert len(ours) == len(example) < len(plain)
    measured = [name for name in plain.columns if not name.startswith("Parent_")]
    pd.testing.assert_frame_equal(ours[measured], example[measured])
    ours, example = (pd.read_csv(folder / "Image.csv") for folder in (inserted, runs.masked))
    for name in ("Count_Nuclei", "ArtSeg_UsableArea_Artifacts", "Threshold_FinalThreshold_AllNuclei", "FileName_DNA"):
        assert list(ours[name]) == list(example[name])


def test_parents_are_those_of_the_kept_objects(inserted: Path) -> None:
    # a parent's number can only grow along the kept nuclei of an image
    for _, own in pd.read_csv(inserted / "Nuclei.csv").groupby("ImageNumber"):
        parents = own["Parent_AllNuclei"].to_numpy()
        assert (np.diff(parents) > 0).all()
        assert parents[0] >= 1


def test_without_masked_images_kept_nuclei_and_thresholds_are_what_they_were(
    cellprofiler: list[str], images: Path, package: Path, repository: Path, runs: Any, tmp_path: Path
) -> None:
    pipeline = insert(
        repository / "plugins" / "pipelines" / "no_masking.cppipe",
        tmp_path / "inserted.cppipe",
        brightfield="Brightfield",
        objects=["AllNuclei"],
        package=package,
    )
    after = run_pipeline(pipeline, images, tmp_path / "results", cellprofiler=cellprofiler)
    assert_all_kept(runs.plain, after)
    before = pd.read_csv(runs.plain / "Image.csv")
    image = pd.read_csv(after / "Image.csv")
    for feature in ("FinalThreshold", "OrigThreshold", "WeightedVariance", "SumOfEntropies"):
        name = f"Threshold_{feature}_AllNuclei"
        assert image[name].to_numpy() == pytest.approx(before[name].to_numpy(), rel=1e-9)
    # the kept are whole: each is, to the last digit, one that was there before
    nuclei, all_nuclei = (pd.read_csv(folder / "Nuclei.csv") for folder in (after, runs.plain))
    keys = ["ImageNumber", "AreaShape_Area", "Location_Center_X", "Location_Center_Y", "Intensity_MeanIntensity_Signal"]
    assert 5 < len(nuclei) < len(all_nuclei)
    assert len(nuclei.merge(all_nuclei, on=keys)) == len(nuclei)


def test_every_kind_of_objects_keeps_its_names(
    ask_inside: Callable[..., Any], repository: Path, tmp_path: Path
) -> None:
    before = tmp_path / "all.cppipe"
    made = ask_inside(
        "inside_insert.py", Path("dump"), repository / "plugins" / "pipelines" / "no_masking.cppipe", before
    )
    options = [{"objects": [objects]} for _, objects in made]
    options += [{"objects": [objects for _, objects in made]}, {"objects": ["Rings", "Cells"], "cut_objects": True}]
    options += [{"objects": [objects for _, objects in made], "mask_images": ["DNA", "Signal", "Brightfield"]}]
    pairs: list[Path] = []
    for number, option in enumerate(options):
        pairs += [before, insert(before, tmp_path / f"{number}.cppipe", brightfield="Brightfield", **option)]
    for option, found in zip(options, ask_inside("inside_insert.py", Path("compare"), *pairs), strict=True):
        assert found["lost"] == [], option
        assert found["twice"] == [], option
        assert found["errors"] == []
        assert found["columns"] > 250
        assert found["modules"][1] > found["modules"][0]
        assert [problem for problem in found["problems"] if "no model package" not in problem] == [], option


def test_load_data_with_groups_runs_as_before(
    cellprofiler: list[str], images: Path, package: Path, repository: Path, tmp_path: Path
) -> None:
    table = tmp_path / "plate.csv"
    channels = ("Brightfield", "DNA", "Signal")
    header = [f"Image_{what}_{channel}" for channel in channels for what in ("PathName", "FileName")]
    rows = [
        ",".join(part for channel in channels for part in (images.as_posix(), f"{well}_s1_{channel.lower()}.tiff"))
        + f",{well},{well}_s1"
        for well in ("A01", "A02")
    ]
    table.write_text("\n".join([",".join([*header, "Metadata_Well", "Metadata_Field"]), *rows]) + "\n")
    settings = (
        ("Input data file location", f"Elsewhere...|{tmp_path.as_posix()}"),
        ("Name of the file", table.name),
        ("Load images based on this data?", "Yes"),
        ("Base image location", "None|"),
        ("Process just a range of rows?", "No"),
        ("Rows to process", "1,100000"),
        ("Group images by metadata?", "Yes"),
        ("Select metadata tags for grouping", "Well"),
        ("Rescale intensities?", "Yes"),
    )
    plain = read_pipeline(repository / "plugins" / "pipelines" / "no_masking.cppipe")
    before = tmp_path / "before.cppipe"
    write_pipeline(plain.with_modules([make_module("LoadData", 6, settings, note=""), *plain.modules[4:]]), before)
    options = {"mask_images": ["DNA", "Signal"], "objects": ["Nuclei"], "package": package}
    after = insert(before, tmp_path / "after.cppipe", brightfield="Brightfield", **options)
    had, has = run_both(before, after, images=images, out=tmp_path, cellprofiler=cellprofiler)
    assert_all_kept(had, has)
    image = pd.read_csv(has / "Image.csv")
    assert list(image["Group_Number"]) == [1, 2]
    assert (image["ArtSeg_AreaFraction_Artifacts"] > 0).all()


def test_a_project_runs_as_the_pipeline_in_it(
    cellprofiler: list[str],
    ask_inside: Callable[..., Any],
    images: Path,
    package: Path,
    repository: Path,
    runs: Any,
    tmp_path: Path,
) -> None:
    project, after = tmp_path / "plate.cpproj", tmp_path / "after.cpproj"
    ask_inside("inside_project.py", repository / "plugins" / "pipelines" / "no_masking.cppipe", images, project)
    plan = plan_insertion(
        open_pipeline(project), brightfield="Brightfield", mask_images=["DNA", "Signal"], objects=["Nuclei"]
    )
    save_pipeline(plan.apply(), after, source=project)
    out = run_pipeline(after, images, tmp_path / "results", package=package, cellprofiler=cellprofiler)
    assert_all_kept(runs.plain, out)
    ours, example = (pd.read_csv(folder / "Nuclei.csv") for folder in (out, runs.masked))
    measured = [name for name in pd.read_csv(runs.plain / "Nuclei.csv") if not name.startswith("Parent_")]
    pd.testing.assert_frame_equal(ours[measured], example[measured])


#: pipeline under the folder of real data: what to insert; one of its channels stands for the brightfield
REAL: dict[str, Sequence[dict[str, Any]]] = {
    "dsb2018_nuclei/pipelines/expert_GrayscaleTissue.cppipe": [
        {"brightfield": "DNA", "mask_images": ["DNA", "CorrectedInverted"], "objects": ["Nuclei"]},
        {"brightfield": "DNA", "objects": ["Nuclei"]},
    ],
    "dsb2018_nuclei/pipelines/expert_LargeFluorescent.cppipe": [
        {"brightfield": "DNA", "mask_images": ["DNA"], "objects": ["PreliminaryNuclei", "Nuclei"]},
        {"brightfield": "DNA", "objects": ["RelabeledNuclei", "ShrunkenNuclei", "Nuclei"]},
    ],
    "dsb2018_nuclei/pipelines/expert_PinkAndPurpleTissue.cppipe": [
        {"brightfield": "Blue", "mask_images": ["FilteredImage"], "objects": ["Nuclei"]},
    ],
    "dsb2018_nuclei/pipelines/expert_PurpleTissue.cppipe": [
        {"brightfield": "Hematoxylin", "mask_images": ["Hematoxylin"], "objects": ["Nuclei"]},
    ],
    "dsb2018_nuclei/pipelines/expert_SmallFluorescent.cppipe": [
        {"brightfield": "DNA", "mask_images": ["CorrDNA"], "objects": ["Nuclei"]},
        {"brightfield": "DNA", "objects": ["PreliminaryNuclei", "ToBeMasked", "MaskedNuclei", "Nuclei"]},
    ],
    "sbs_translocation/ExampleSBS.cppipe": [
        {"brightfield": "rawDNA", "mask_images": ["rawDNA", "rawGFP"], "objects": ["Nuclei"]},
        {"brightfield": "CorrBlue", "objects": ["Nuclei", "PropCells", "DistanceCells"]},
    ],
    "cellprofiler_examples/ExampleHuman/ExampleHuman.cppipe": [
        {"brightfield": "cellbody", "mask_images": ["DNA", "PH3"], "objects": ["Nuclei"]},
        {"brightfield": "cellbody", "objects": ["Nuclei", "PH3", "Cells"]},
        {"brightfield": "cellbody", "objects": ["Cells"], "cut_objects": True},
    ],
}


def test_pipelines_of_experts_load_and_declare_every_column(
    ask_inside: Callable[..., Any], shared_data: Path, tmp_path: Path
) -> None:
    cases = [(name, options) for name, several in REAL.items() for options in several]
    pairs: list[Path] = []
    for number, (name, options) in enumerate(cases):
        before = shared_data / name
        pairs += [before, insert(before, tmp_path / f"{number}.cppipe", **options)]
    for case, found in zip(cases, ask_inside("inside_insert.py", Path("compare"), *pairs), strict=True):
        assert found["lost"] == [], case
        assert found["twice"] == [], case
        assert found["errors"] == [], case
        assert found["columns"] > 20
        assert [problem for problem in found["problems"] if "no model package" not in problem] == [], case


def some_images(folder: Path, files: Sequence[Path]) -> Path:
    folder.mkdir()
    for path in files:
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.mark.slow
def test_example_human_runs_as_before(
    cellprofiler: list[str], shared_data: Path, package: Path, tmp_path: Path
) -> None:
    example = shared_data / "cellprofiler_examples" / "ExampleHuman"
    pipeline = example / "ExampleHuman.cppipe"
    after = insert(
        pipeline,
        tmp_path / "after.cppipe",
        brightfield="cellbody",
        objects=["Nuclei", "PH3", "Cells"],
        package=package,
    )
    plain, kept = run_both(pipeline, after, images=example / "images", out=tmp_path, cellprofiler=cellprofiler)
    assert_all_kept(plain, kept)
    before, image = (next(folder.rglob("*Image.csv")) for folder in (plain, kept))
    before, image = pd.read_csv(before), pd.read_csv(image)
    for objects in ("Nuclei", "PH3"):  # found in raw images, one of them with basic settings
        for feature in ("FinalThreshold", "OrigThreshold", "WeightedVariance", "SumOfEntropies"):
            name = f"Threshold_{feature}_{objects}"
            # CellProfiler 5 takes the latter two after filling holes, which its Threshold does not
            tolerance = 1e-9 if feature.endswith("Threshold") else 0.1
            assert image[name].to_numpy() == pytest.approx(before[name].to_numpy(), rel=tolerance), name
    assert image["Count_Nuclei"][0] <= before["Count_Nuclei"][0] == image["Count_Nuclei_unmasked"][0]


@pytest.mark.slow
def test_example_sbs_runs_as_before(
    cellprofiler: list[str], shared_data: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CellProfiler upgrades this pipeline's MeasureCorrelation by a set of image names: which of two images a column
    # names first changes from one start to the next, with ArtSeg or without
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    folder = shared_data / "sbs_translocation"
    # from CellProfiler 2, with illumination functions, a table of doses, and statistics of them
    wells = ("01-A-01", "12-A-12")
    names = [f"Channel{channel}-{well}.tif" for well in wells for channel in (1, 2)]
    images = some_images(
        tmp_path / "images", [folder / name for name in (*names, "Channel1ILLUM.mat", "Channel2ILLUM.mat")]
    )
    before = tmp_path / "before.cppipe"
    table = (folder / "1049_Metadata.csv").as_posix()
    text = (folder / "ExampleSBS.cppipe").read_text()
    text = text.replace(r"\\\\d*", "[0-9]*")  # which no later CellProfiler reads as it was meant
    text = text.replace("Create dose/response plots?:Yes", "Create dose/response plots?:No")  # hundreds of files
    rows_of_doses = text.rindex("    Metadata file location:") + len("    Metadata file location:")
    before.write_text(text[:rows_of_doses] + table + text[rows_of_doses:])
    after = insert(
        before,
        tmp_path / "after.cppipe",
        brightfield="rawDNA",
        mask_images=["rawGFP"],
        objects=["Nuclei"],
        package=package,
    )
    plain, kept = run_both(before, after, images=images, out=tmp_path, cellprofiler=cellprofiler)
    assert_all_kept(plain, kept)


#: expert pipeline: kind of the images at hand that it can find nuclei in, and what to insert
EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "GrayscaleTissue": ("brightfield_1024", {"brightfield": "DNA", "mask_images": ["DNA"], "objects": ["Nuclei"]}),
    "LargeFluorescent": ("fluo_696x520", {"brightfield": "DNA", "objects": ["RelabeledNuclei", "Nuclei"]}),
    "SmallFluorescent": ("fluo_256", {"brightfield": "DNA", "mask_images": ["CorrDNA"], "objects": ["Nuclei"]}),
    "PinkAndPurpleTissue": (
        "stained",
        {"brightfield": "Blue", "mask_images": ["FilteredImage"], "objects": ["Nuclei"]},
    ),
    "PurpleTissue": (
        "stained",
        {"brightfield": "Hematoxylin", "mask_images": ["Hematoxylin"], "objects": ["Nuclei"]},
    ),
}


def stained(fluorescence: Path, target: Path) -> None:
    """Make a colour image of what fluoresces, as if it were stained with haematoxylin: there are no real ones at hand.

    Beer and Lambert's law, with the optical densities of haematoxylin in red, green and blue of Ruifrok and Johnston
    (2001).
    """
    grey = np.atleast_3d(imread(fluorescence))[..., :3].mean(axis=-1)
    density = 1.5 * grey / grey.max()
    imsave(target, np.uint8(255 * np.exp(-density[..., None] * (0.65, 0.70, 0.29))), check_contrast=False)


@pytest.mark.slow
@pytest.mark.parametrize("expert", EXPERTS)
def test_pipelines_of_experts_run_as_before(
    cellprofiler: list[str], shared_data: Path, package: Path, tmp_path: Path, expert: str
) -> None:
    folder = shared_data / "dsb2018_nuclei"
    kind, options = EXPERTS[expert]
    index = pd.read_csv(folder / "index.csv")
    real = "fluo_256" if kind == "stained" else kind
    name = index[index["type"] == real].sort_values("n_nuclei")["id"].iloc[-1]
    images = some_images(tmp_path / "images", [folder / "images" / f"{name}.png"])
    if kind == "stained":
        stained(images / f"{name}.png", images / f"{name}.png")
    # these save pictures only: let them export all that they measure, too
    human = read_pipeline(shared_data / "cellprofiler_examples" / "ExampleHuman" / "ExampleHuman.cppipe")
    pipeline = read_pipeline(folder / "pipelines" / f"expert_{expert}.cppipe")
    before = tmp_path / "before.cppipe"
    write_pipeline(pipeline.with_modules([*pipeline.modules, human.modules[-1]]), before)
    after = insert(before, tmp_path / "after.cppipe", package=package, **options)
    plain, kept = run_both(before, after, images=images, out=tmp_path, cellprofiler=cellprofiler)
    assert_all_kept(plain, kept)
    assert pd.read_csv(next(plain.rglob("*Image.csv")))["Count_Nuclei"][0] > 5
