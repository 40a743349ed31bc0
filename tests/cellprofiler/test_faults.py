"""Whatever goes wrong, CellProfiler's log says it once, with the mend; nothing hangs, and the next image goes on."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from artseg_models.service.server import stop
from artseg_models.simulate import SimulatedField


@pytest.fixture(scope="module")
def found(
    ask_inside: Callable[..., dict[str, Any]],
    package: Path,
    fields: dict[str, SimulatedField],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What `inside_faults.py` found, and the services that were alive when CellProfiler's process had ended."""
    folder = tmp_path_factory.mktemp("faults")
    np.save(folder / "brightfield.npy", (fields["A01_s1"].brightfield / 65535).astype(np.float32))
    damaged, state_dict = folder / "damaged.zip", folder / "state-dict.zip"
    with (
        zipfile.ZipFile(package) as source,
        zipfile.ZipFile(damaged, "w") as one,
        zipfile.ZipFile(state_dict, "w") as two,
    ):
        for name in source.namelist():
            content = source.read(name)
            one.writestr(name, content[:-1] + b"?" if name == "weights.onnx" else content)
            two.writestr(name, only_state_dict(content) if name == "rdf.yaml" else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTSEG_STATE_DIR", str(folder / "state"))
        found = ask_inside("inside_faults.py", package, damaged, state_dict, folder / "brightfield.npy", folder)
        found["alive"] = services_below(folder)
        stop()
    return found


def only_state_dict(description: bytes) -> bytes:
    content = yaml.safe_load(description)
    content["weights"] = {"pytorch_state_dict": content["weights"]["pytorch_state_dict"]}
    content["weights"]["pytorch_state_dict"].pop("parent", None)
    return json.dumps(content).encode()


def services_below(folder: Path) -> list[int]:
    """Processes of services whose state folder lies in `folder`."""
    found: list[int] = []
    for process in psutil.process_iter():
        try:
            state = process.environ().get("ARTSEG_STATE_DIR", "")
            if state.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("killed twice", ("broke off twice", "the memory may not suffice", "Its log is")),
        ("wrong token", ("refuses the token in", "End that process and delete the file")),
        ("older client", ("The module is the older side: run artseg cellprofiler install",)),
        ("package missing", ("Expected a model package (.zip or folder) at", "Choose it again in SegmentArtifacts")),
        ("package damaged", ("is not the one its author packed: expected SHA-256", "export the package again")),
        ("state dict alone", ("runs its author's Python", "artseg segment --trust", "ask the author for ONNX")),
        ("python gone", ("Expected the Python that has artseg at /no/such/python", "artseg cellprofiler install")),
        ("python without artseg", ("artseg is not installed in", "-m pip install artseg")),
        ("state folder unusable", ("Could not start artseg's service", "Free space, or set ARTSEG_STATE_DIR")),
        ("rgb", ("Brightfield is none (Image must be grayscale", "Use ColorToGray")),
        ("one pixel", ("Brightfield of image set 1", "pixel")),
        ("nan", ("Brightfield of image set 1", "NaN")),
    ],
)
def test_one_message_in_the_log_names_the_mend(found: dict[str, Any], fault: str, says: tuple[str, ...]) -> None:
    (error,) = found[fault]["errors"]
    assert error.startswith("Error detected during run of module SegmentArtifacts")
    for words in says:
        assert words in error
    assert found[fault]["usable"] is None


@pytest.mark.parametrize(
    "fault", ["first", "killed", "stale file, port of another program", "beyond one", "twelve bit", "afterwards"]
)
def test_what_can_be_mended_costs_no_image(found: dict[str, Any], fault: str) -> None:
    assert found[fault]["errors"] == []
    assert found[fault]["usable"] == found["first"]["usable"] > 0


def test_nothing_but_the_one_service_stays(found: dict[str, Any]) -> None:
    assert found["alive"] == [found["service"]]
    assert os.getpid() not in found["alive"]
