"""Many CellProfiler processes at once: workers of an analysis, and batches of a cluster. They share one service."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from artseg_models.cellprofiler import cellprofiler_version
from artseg_models.pipelines.blocks import make_module
from artseg_models.pipelines.insert import plan_insertion, write_pipeline
from artseg_models.pipelines.text import read_pipeline
from artseg_models.service.server import status, stop


@pytest.fixture
def own_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder where no service has run, so that all processes come to start one."""
    monkeypatch.setenv("ARTSEG_STATE_DIR", str(tmp_path / "state"))
    yield tmp_path / "state"
    stop()


def assert_one_service(state: Path) -> int:
    """Exactly one service has ever taken a request of those whose state folder this is, and it alone is left."""
    (log,) = state.glob("service-*-auto.log")
    said = log.read_text(encoding="utf-8")
    (pid,) = re.findall(r"artseg service (\d+) listens on", said)
    assert said.count('"loaded ') == 1  # the model, once for all processes
    alive: list[int] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ARTSEG_STATE_DIR") == str(state) and "serve" in process.cmdline():
                alive += [process.pid] if process.status() != psutil.STATUS_ZOMBIE else []
        except psutil.Error:
            continue
    assert alive == [int(pid)]
    return int(pid)


def table(folder: Path, name: str) -> pd.DataFrame:
    """A table without what differs from run to run."""
    read = pd.read_csv(folder / f"{name}.csv")
    drop = [
        column
        for column in read
        if re.search("ExecutionTime|ArtSeg_Seconds|PathName|URL|MD5|Group_|ProcessingStatus", column)
    ]
    return read.drop(columns=drop)


def assert_as_in_one_run(runs: Any, parts: dict[int, Path], *, tables: Sequence[str]) -> None:
    """Each image set of a part is, to the last digit, the one of a whole run over the same fields.

    Compared is what was measured before there were artifacts, and the artifacts themselves; whatever else a pipeline
    calls its objects' parents.
    """
    for name in tables:
        whole = table(runs.masked, name)
        before = whole if name == "Artifacts" else table(runs.plain, name)
        measured = [column for column in whole if column in before and not column.startswith("Parent_")]
        assert len(measured) > (5 if name == "Artifacts" else 30)
        for number, folder in parts.items():
            own = table(folder, name).query(f"ImageNumber == {number}").reset_index(drop=True)
            same = whole[whole["ImageNumber"] == number].reset_index(drop=True)
            assert len(own) > 0
            pd.testing.assert_frame_equal(own[measured], same[measured])


def test_worker_processes_share_one_service(
    cellprofiler: list[str],
    ask_inside: Callable[..., dict[str, Any]],
    runs: Any,
    images: Path,
    own_service: Path,
    tmp_path: Path,
) -> None:
    if cellprofiler_version(cellprofiler).startswith("4."):
        pytest.skip("the workers of CellProfiler 4 are started by its window only")
    pipeline = runs.masked / "artifacts_masked.cppipe"  # as it ran, with the model package in it
    out = tmp_path / "out"
    out.mkdir()
    # the user cancels while the service has an image of a worker; then once more, to the end
    cancelled = ask_inside("inside_workers.py", pipeline, images, out, Path("2"), Path("cancel"))
    assert (cancelled["problems"], cancelled["left"]) == ([], [])
    assert cancelled["waiting"] > 0
    assert len(cancelled["ran"]) < 2
    assert (told := status())
    assert told["under_way"] == 0
    found = ask_inside("inside_workers.py", pipeline, images, out, Path("2"))
    assert found["problems"] == []
    assert len(set(found["workers"])) == 2
    assert sorted(found["ran"]) == ["1", "2"]
    assert set(found["ran"].values()) <= set(found["workers"])
    assert_as_in_one_run(runs, {1: out, 2: out}, tables=("Image", "Nuclei", "Artifacts"))
    assert assert_one_service(own_service) == told["pid"]


def test_batches_run_as_processes_of_their_own_and_share_one_service(
    cellprofiler: list[str],
    runs: Any,
    images: Path,
    package: Path,
    repository: Path,
    own_service: Path,
    tmp_path: Path,
) -> None:
    plain = read_pipeline(repository / "plugins" / "pipelines" / "no_masking.cppipe")
    settings = (
        ("Store batch files in default output folder?", "Yes"),
        ("Output folder path", ""),
        ("Are the cluster computers running Windows?", "No"),
        ("Hidden- in batch mode", "No"),
        ("Hidden- in distributed mode", "No"),
        ("Hidden- default input folder at time of save", ""),
        ("Hidden- revision number", "0"),
        ("Hidden- from old matlab", "No"),
    )
    batch = make_module("CreateBatchFiles", 8, settings, note="")
    # a pipeline of one's own with CreateBatchFiles, into which ArtSeg is inserted
    plan = plan_insertion(
        plain.with_modules([*plain.modules, batch]),
        brightfield="Brightfield",
        mask_images=["DNA", "Signal"],
        objects=["Nuclei"],
        package=package,
    )
    write_pipeline(plan.apply(), tmp_path / "batch.cppipe")
    command = [*cellprofiler, "-c", "-r", "--plugins-directory", str(repository / "plugins")]
    if not cellprofiler_version(cellprofiler).startswith("4."):
        command += ["-e", "imageio_reader"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def start(*arguments: object, out: Path) -> subprocess.Popen[str]:
        out.mkdir()
        return subprocess.Popen(
            [*command, "-i", str(images), "-o", str(out), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    preparing = start("-p", tmp_path / "batch.cppipe", out=tmp_path / "prepared")
    said, _ = preparing.communicate(timeout=240)
    data = tmp_path / "prepared" / "Batch_data.h5"
    assert data.is_file(), said
    assert not own_service.exists()  # nothing is segmented before the batches run

    parts = {number: tmp_path / f"batch{number}" for number in (1, 2)}
    # at once, as a cluster does: both find no service, and only one may stay
    jobs = [start("-p", data, "-f", number, "-l", number, out=out) for number, out in parts.items()]
    for job in jobs:
        said, _ = job.communicate(timeout=240)
        assert job.returncode == 0, said
    assert_as_in_one_run(runs, parts, tables=("Image", "Nuclei"))  # those that the pipeline exported before
    assert_one_service(own_service)
