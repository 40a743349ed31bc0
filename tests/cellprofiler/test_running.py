"""What stands between artseg and CellProfiler: finding it, giving it images, and reading why it failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from artseg_models.cellprofiler import failure_in_log, find_cellprofiler, find_pipeline, run_pipeline
from artseg_models.errors import ArtSegError


def test_cellprofiler_and_pipelines_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTSEG_CELLPROFILER", str(tmp_path / "no" / "cellprofiler"))
    with pytest.raises(ArtSegError, match="ARTSEG_CELLPROFILER"):
        find_cellprofiler()
    monkeypatch.delenv("ARTSEG_CELLPROFILER")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArtSegError, match="on PATH"):
        find_cellprofiler()
    assert find_pipeline("no_masking").is_file()
    with pytest.raises(ArtSegError, match="artifacts_filtered, artifacts_masked, image_quality, no_masking"):
        find_pipeline("nothing")


@pytest.fixture
def stand_in(tmp_path: Path) -> list[str]:
    """Answers as CellProfiler 5 does, and writes down what it was given."""
    script = tmp_path / "stand_in.py"
    script.write_text(
        "import os, sys\n"
        "if '--version' in sys.argv: print('5.0.0'); sys.exit()\n"
        "after = lambda option: sys.argv[sys.argv.index(option) + 1]\n"
        "images = after('-i')\n"
        "names = sorted(name + ' ' + open(os.path.join(images, name)).read() for name in os.listdir(images))\n"
        "open(os.path.join(after('-o'), 'Image.csv'), 'w').write('\\n'.join(names))\n"
    )
    return [sys.executable, str(script)]


def test_channels_of_a_field_come_together(tmp_path: Path, stand_in: list[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("B02-ch1-x.tif", "B02-ch3-x.tif", "B10-ch1-x.tif", "B10-ch3-x.tif", "notes.txt", ".hidden-ch1"):
        (images / name).write_text(name)
    out = tmp_path / "out"
    pipeline = find_pipeline("no_masking")
    run_pipeline(pipeline, images, out, cellprofiler=stand_in, channels={"brightfield": "*-ch1*", "dna": "*-ch3*"})
    assert (out / "Image.csv").read_text().splitlines() == [
        "B02-x_brightfield.tif B02-ch1-x.tif",
        "B02-x_dna.tif B02-ch3-x.tif",
        "B10-x_brightfield.tif B10-ch1-x.tif",
        "B10-x_dna.tif B10-ch3-x.tif",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["Image.csv", "cellprofiler.log", "channels.csv"]
    assert f"B10-x_dna.tif,{images.resolve() / 'B10-ch3-x.tif'}" in (out / "channels.csv").read_text().splitlines()
    (images / "B10-ch3-x.tif").unlink()
    for channels, message in (
        ({"brightfield": "*-ch1*", "dna": "*-ch3*"}, "B10-ch1-x.tif has no dna"),
        ({"brightfield": "*-ch1*", "dna": "*-ch9*"}, r"fit '\*-ch9\*' for the channel dna"),
        ({"brightfield": "*-x.tif"}, ""),
        ({"brightfield": "B??-ch1*", "dna": "B02-*"}, "fits both|has no"),
    ):
        if message:
            with pytest.raises(ArtSegError, match=message):
                run_pipeline(pipeline, images, out, cellprofiler=stand_in, channels=channels)
    assert (out / "Image.csv").is_file()  # results of the earlier run stay


def test_the_pipeline_that_ran_is_kept_with_its_model(tmp_path: Path, stand_in: list[str]) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "a.tif").write_text("")
    package = tmp_path / "models ü" / "mine.zip"
    package.parent.mkdir()
    package.write_bytes(b"")
    run_pipeline(find_pipeline("artifacts_masked"), images, out, package=package, cellprofiler=stand_in)
    ran = (out / "artifacts_masked.cppipe").read_text(encoding="utf-8")
    assert (
        f"    Folder of the model package:Elsewhere...|{package.parent.as_posix()}\n    Model package:mine.zip\n" in ran
    )
    example = find_pipeline("artifacts_masked").read_text(encoding="utf-8")
    assert sum(a != b for a, b in zip(ran.splitlines(), example.splitlines(), strict=True)) == 2
    with pytest.raises(ArtSegError, match="has none to set a model in"):
        run_pipeline(find_pipeline("no_masking"), images, out, package=package, cellprofiler=stand_in)


def test_the_cause_is_found_in_the_log() -> None:
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1, in run\n    segment()\n'
    five = (
        "[CP - ERROR] cellprofiler_core.pipeline._pipeline::run_with_yield: Error detected during run of module "
        f"SegmentArtifacts\n{trace}_artseg_client._errors.ServiceError: It died. Its log ends with:\nno space\n"
        "[CP - INFO] cellprofiler_core.pipeline._pipeline::run_with_yield: Image # 1\n"
    )
    four = (
        f"Error detected during run of module MaskImage\n{trace}ValueError: wrong size\n"
        "Sun Nov 22 13:12:02 2026: Image # 1, module MaskImage # 5: CPU_time = 0.01 secs, Wall_time = 0.01 secs\n"
    )
    assert failure_in_log(five) == "SegmentArtifacts: It died. Its log ends with:\nno space"
    assert failure_in_log(four) == "MaskImage: wrong size"
    assert "module NoSuch," in str(failure_in_log(f"{trace}ValueError: Could not find the NoSuch module\n"))
    assert failure_in_log("Image # 1, module Images # 1\n") is None
