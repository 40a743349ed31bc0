"""What `artseg cellprofiler insert` would change, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artseg_models.cli import app
from artseg_models.errors import ArtSegError
from artseg_models.pipelines.blocks import make_module
from artseg_models.pipelines.insert import Plan, plan_insertion, write_pipeline
from artseg_models.pipelines.text import Module, PipelineText, parse_pipeline, read_pipeline


@pytest.fixture(scope="module")
def plain(repository: Path) -> PipelineText:
    return read_pipeline(repository / "plugins" / "pipelines" / "no_masking.cppipe")


def kinds(pipeline: PipelineText) -> list[str]:
    return [module.name for module in pipeline.modules]


def changed(pipeline: PipelineText, change: Callable[[list[Module]], None]) -> PipelineText:
    modules = list(pipeline.modules)
    change(modules)
    return pipeline.with_modules(modules)


def without_numbers(text: str) -> str:
    return re.sub(r"module_num:\d+|ModuleCount:\d+", "", text)


def added(plan: Plan) -> list[Module]:
    return [module for before in sorted(plan.added) for module, _ in plan.added[before]]


def test_raw_images_get_the_new_name_and_masked_ones_the_old(plain: PipelineText) -> None:
    plan = plan_insertion(plain, brightfield="Brightfield", mask_images=["DNA", "Signal"])
    done = plan.apply()
    assert kinds(done)[:9] == [
        *("Images", "Metadata", "NamesAndTypes", "Groups"),
        *("SegmentArtifacts", "ImageMath", "MaskImage", "ImageMath", "MaskImage"),
    ]
    for at, name in ((5, "DNA"), (7, "Signal")):
        assert done.modules[at].value("Select the image") == name
        assert done.modules[at].value("Name the output image") == f"{name}_unmasked"
        assert done.modules[at + 1].value("Select the input image") == f"{name}_unmasked"
        assert done.modules[at + 1].value("Name the output image") == name
    assert not plan.changed


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_all_else_stays_byte_for_byte(plain: PipelineText, line_end: str) -> None:
    plain = parse_pipeline(str(plain).replace("\n", line_end))
    plan = plan_insertion(plain, brightfield="Brightfield", mask_images=["DNA"], objects=["Nuclei"])
    text = str(plan.apply())
    assert text.count("\n") == text.count(line_end)
    for module in added(plan):
        block = without_numbers(str(module))
        assert without_numbers(text).count(block) == 1
        text = without_numbers(text).replace(block, "")
    renamed = "Name the output objects:Nuclei_unmasked" + line_end
    assert text.count(renamed) == 1
    assert text.replace(renamed, "Name the output objects:Nuclei" + line_end) == without_numbers(str(plain))


def test_whole_objects_are_dropped_by_overlap(plain: PipelineText) -> None:
    for overlap, written in ((None, "0.5"), (0.1, "0.1")):
        plan = plan_insertion(plain, brightfield="Brightfield", objects=["Nuclei"], overlap=overlap)
        measure, keep = added(plan)[1:3]
        assert measure.name == "MeasureArtifactOverlap"
        assert keep.value("Select the measurement to filter by") == "ArtSeg_OverlapFraction_ArtifactMask"
        assert keep.value("Filter using a maximum measurement value?") == "Yes"
        assert keep.value("Maximum value") == written
        assert keep.value("Name the output objects") == "Nuclei"


def test_objects_found_in_a_masked_image_go_where_an_artifact_touches_them(plain: PipelineText) -> None:
    plan = plan_insertion(plain, brightfield="Brightfield", mask_images=["DNA"], objects=["Nuclei"], overlap=0.2)
    keep = next(module for module in added(plan) if module.name == "FilterObjects")
    assert keep.value("Select the measurement to filter by") == "ArtSeg_TouchesArtifact_ArtifactMask"
    assert keep.value("Maximum value") == "0"
    assert any("whatever --overlap says" in note for note in plan.notes)
    # Signal is measured, nothing is found in it
    plan = plan_insertion(plain, brightfield="Brightfield", mask_images=["Signal"], objects=["Nuclei"])
    assert "OverlapFraction" in str(plan.apply())


def test_objects_are_cut_only_if_asked(plain: PipelineText) -> None:
    plan = plan_insertion(plain, brightfield="Brightfield", objects=["Nuclei"], cut_objects=True)
    assert [module.name for module in added(plan)] == [
        *("SegmentArtifacts", "MaskObjects", "MeasureArtifactOverlap", "FilterObjects", "RelateObjects")
    ]
    assert added(plan)[3].value("Maximum value") == "1"
    assert added(plan)[1].value("Handling of objects that are partially masked") == "Keep overlapping region"


def test_thresholds_are_measured_again_under_the_old_name(plain: PipelineText) -> None:
    plan = plan_insertion(plain, brightfield="Brightfield", objects=["AllNuclei"])
    threshold = next(module for module in added(plan) if module.name == "Threshold")
    producer = next(module for module in plain.modules if module.name == "IdentifyPrimaryObjects")
    assert threshold.value("Name the output image") == "AllNuclei"
    assert threshold.revision == 12
    at = [setting.text for setting in producer.settings].index("Threshold setting version")
    assert threshold.settings[2:] == producer.settings[at + 1 :]
    assert next(iter(plan.changed.values())) == "AllNuclei_unmasked"


def test_names_that_are_taken_are_not_given_again(plain: PipelineText) -> None:
    taken = parse_pipeline(str(plain).replace("NucleiLabels", "CleanMask").replace("_nuclei", "DNA_unmasked"))
    plan = plan_insertion(taken, brightfield="Brightfield", mask_images=["DNA"])
    assert added(plan)[0].value("Name the clean mask") == "CleanMask2"
    assert added(plan)[1].value("Name the output image") == "DNA_unmasked2"


def test_the_package_is_named_where_it_lies(plain: PipelineText, tmp_path: Path) -> None:
    package = tmp_path / "mine-unet.zip"
    package.touch()
    segment = added(plan_insertion(plain, brightfield="Brightfield", package=package))[0]
    assert segment.value("Folder of the model package") == f"Elsewhere...|{tmp_path.resolve().as_posix()}"
    assert segment.value("Model package") == "mine-unet.zip"
    with pytest.raises(ArtSegError, match="Expected a model package"):
        plan_insertion(plain, brightfield="Brightfield", package=tmp_path / "none.zip")


def test_nothing_masked_is_said(plain: PipelineText) -> None:
    plan = plan_insertion(plain, brightfield="Brightfield")
    assert [module.name for module in added(plan)] == ["SegmentArtifacts"]
    assert any("Nothing is masked" in note for note in plan.notes)
    assert any("ModuleError_NN" in note for note in plan.notes)


def test_computed_images_are_masked_where_they_are_made(plain: PipelineText) -> None:
    smooth = make_module("Smooth", 2, (("Select the input image", "DNA"), ("Name the output image", "Soft")), note="")
    pipeline = changed(plain, lambda modules: modules.insert(4, smooth))
    done = plan_insertion(pipeline, brightfield="Brightfield", mask_images=["Soft"]).apply()
    assert kinds(done)[4:8] == ["SegmentArtifacts", "Smooth", "ImageMath", "MaskImage"]
    # also where the brightfield image itself is computed, if nothing needs the other before
    late = plan_insertion(pipeline, brightfield="Soft", mask_images=["Signal"]).apply()
    assert kinds(late)[4:8] == ["Smooth", "SegmentArtifacts", "ImageMath", "MaskImage"]
    with pytest.raises(ArtSegError, match=r"DNA is used by Smooth \(module 5\), but the brightfield image Soft"):
        plan_insertion(pipeline, brightfield="Soft", mask_images=["DNA"])


def test_disabled_modules_make_and_need_nothing(plain: PipelineText) -> None:
    smooth = make_module("Smooth", 2, (("Select the input image", "DNA"), ("Name the output image", "Soft")), note="")
    off = Module(smooth.header.replace("enabled:True", "enabled:False"), smooth.settings, smooth.gap)
    pipeline = changed(plain, lambda modules: modules.insert(4, off))
    with pytest.raises(ArtSegError, match="got 'Soft'"):
        plan_insertion(pipeline, brightfield="Soft")


def test_batches_and_groups_stay_at_their_places(plain: PipelineText) -> None:
    batch = make_module("CreateBatchFiles", 8, (("Store batch files in default output folder?", "Yes"),), note="")
    pipeline = changed(plain, lambda modules: modules.append(batch))
    done = plan_insertion(pipeline, brightfield="Brightfield", mask_images=["DNA"], objects=["Nuclei"]).apply()
    assert kinds(done)[-1] == "CreateBatchFiles"
    assert kinds(done)[:4] == ["Images", "Metadata", "NamesAndTypes", "Groups"]


def load_data(pipeline: PipelineText) -> PipelineText:
    loader = make_module("LoadData", 6, (("Load images based on this data?", "Yes"),), note="")

    def change(modules: list[Module]) -> None:
        modules[:4] = [loader]

    return changed(pipeline, change)


def test_load_data_names_images_in_its_table(plain: PipelineText) -> None:
    pipeline = load_data(plain)
    plan = plan_insertion(pipeline, brightfield="Phase", mask_images=["DNA"])
    assert kinds(plan.apply())[:4] == ["LoadData", "SegmentArtifacts", "ImageMath", "MaskImage"]
    assert any("Image_FileName_Phase" in note for note in plan.notes)
    with pytest.raises(ArtSegError, match=r"got 'Dapi'\. Its images are: .*DNA, Signal"):
        plan_insertion(pipeline, brightfield="Phase", mask_images=["Dapi"])


def test_a_table_of_all_objects_keeps_its_rows(plain: PipelineText) -> None:
    choice, table = (
        "Export measurements for all objects to the database?",
        ("Create one table per object, a single object table or a single object view?"),
    )

    def with_table(kind: str) -> PipelineText:
        settings = ((choice, "All"), ("Select the objects", ""), (table, kind))
        return changed(plain, lambda modules: modules.append(make_module("ExportToDatabase", 28, settings, note="")))

    done = plan_insertion(with_table("Single object view"), brightfield="Brightfield", objects=["Nuclei"])
    assert done.apply().modules[-1].value(choice) == "Select..."
    assert done.apply().modules[-1].value("Select the objects") == "AllNuclei, Nuclei"
    assert any("Select the objects" in line for line in done.lines())
    done = plan_insertion(with_table("One table per object type"), brightfield="Brightfield", objects=["Nuclei"])
    assert done.apply().modules[-1].value(choice) == "All"


def replaced(old: str, new: str) -> Callable[[PipelineText], PipelineText]:
    return lambda pipeline: parse_pipeline(str(pipeline).replace(old, new))


def same(pipeline: PipelineText) -> PipelineText:
    return pipeline


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (same, {"brightfield": "Phase"}, "got 'Phase'. Its images are: Brightfield, DNA, Signal"),
        (same, {"mask_images": ["Cy5"]}, "got 'Cy5'. Its images are: "),
        (same, {"objects": ["Cells"]}, "got 'Cells'. Its objects are: AllNuclei, Nuclei"),
        (same, {"objects": ["Nucleus"]}, "got 'Nucleus'"),
        (replaced("Groups:", "SegmentArtifacts:"), {}, r"has SegmentArtifacts already \(module 4\)"),
        (replaced("NamesAndTypes:", "LoadImages:"), {}, "LoadImages, a module of CellProfiler 2, which is too old"),
        (
            replaced("|variable_revision_number:15|", "|variable_revision_number:8|"),
            {"objects": ["AllNuclei"]},
            "too old",
        ),
        (replaced("FilterObjects:", "TrackThem:"), {"objects": ["Nuclei"]}, "TrackThem"),
    ],
)
def test_what_cannot_be_done_is_told(
    plain: PipelineText, change: Callable[[PipelineText], PipelineText], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ArtSegError, match=message):
        plan_insertion(change(plain), **{"brightfield": "Brightfield", **options})


def test_the_command_lists_asks_and_writes(plain: PipelineText, repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.cppipe"
    source = repository / "plugins" / "pipelines" / "no_masking.cppipe"
    call = [
        *("cellprofiler", "insert", str(source), "--brightfield", "Brightfield"),
        *("--mask-images", "DNA,Signal", "--objects", "Nuclei", "--out", str(out)),
    ]
    asked = CliRunner().invoke(app, call)
    assert isinstance(asked.exception, ArtSegError)
    assert "--yes" in str(asked.exception)
    assert "+   5 SegmentArtifacts: finds artifacts in Brightfield" in asked.output
    assert not out.exists()

    assert CliRunner().invoke(app, [*call, "--yes"]).exit_code == 0
    expected = plan_insertion(plain, brightfield="Brightfield", mask_images=["DNA", "Signal"], objects=["Nuclei"])
    assert out.read_bytes() == expected.apply().to_bytes()
    with pytest.raises(ArtSegError, match="already"):
        write_pipeline(expected.apply(), out)
    assert CliRunner().invoke(app, [*call, "--overlap", "0.2", "--cut-objects"]).exit_code == 2
