"""The environment that CellProfiler 5 may build for artseg (File > Plugins): declared, valid, and found once built.

It is not resolved here: that needs a conda registry.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from artseg_models import __version__

SPECIFICATION = "_artseg_client/pixi.toml"


@pytest.fixture(scope="module")
def pixi(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "plugins" / SPECIFICATION).read_text(encoding="utf-8"))


def test_the_file_has_pixis_form(pixi: dict[str, Any], repository: Path) -> None:
    assert set(pixi) == {"workspace", "dependencies", "pypi-dependencies"}
    assert pixi["workspace"]["name"] == "artseg"
    assert pixi["workspace"]["channels"] == ["conda-forge"]
    # those for which PyTorch has wheels
    assert set(pixi["workspace"]["platforms"]) <= {"linux-64", "linux-aarch64", "osx-arm64", "win-64"}
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = SpecifierSet(f"=={pixi['dependencies']['python']}")
    assert Version("3.11.9") in python
    assert Version("3.11.9") in SpecifierSet(project["requires-python"])
    assert Version(__version__) in Requirement(f"artseg{pixi['pypi-dependencies']['artseg']}").specifier


def test_cellprofiler_5_lists_the_environment(
    ask_inside: Callable[..., dict[str, Any]], cellprofiler: list[str], repository: Path
) -> None:
    statuses = ask_inside("inside_listing.py", repository / "plugins").get("statuses")
    if statuses is None:
        pytest.skip("CellProfiler 4 knows no environments of plugins")
    assert statuses["segmentartifacts"]["loaded"]
    assert Path(statuses["segmentartifacts"]["appose_env_spec"]) == repository / "plugins" / SPECIFICATION
    assert statuses["measureartifactoverlap"]["loaded"]
    assert not statuses["measureartifactoverlap"]["appose_env_spec"]


def test_appose_reads_the_file_as_pixis(cellprofiler: list[str], repository: Path) -> None:
    python = Path(cellprofiler[0]).with_name("python")
    ask = (
        "import sys\nfrom appose.scheme import from_content\ntext = open(sys.argv[1]).read()\n"
        "scheme = from_content(text)\nprint(scheme.name(), scheme.env_name(text))"
    )
    asked = subprocess.run(
        [python, "-c", ask, repository / "plugins" / SPECIFICATION],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named 'appose'" in asked.stderr:
        pytest.skip("this CellProfiler comes without Appose")
    assert asked.stdout.split() == ["pixi.toml", "artseg"], asked.stderr


def test_the_built_python_is_found(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "plugins"))
    client = importlib.import_module("_artseg_client._find_python")
    monkeypatch.delenv("ARTSEG_PYTHON", raising=False)
    monkeypatch.setattr(client, "INSTALLATION", str(tmp_path / "none.json"))
    monkeypatch.setenv("APPOSE_ENVS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(client.ServiceError, match="Build Environment"):
        client.artseg_command()
    built = tmp_path / "artseg" / ".pixi" / "envs" / "default"
    python = built / "python.exe" if sys.platform == "win32" else built / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert client.artseg_command() == [str(python), "-m", "artseg_models"]
