"""What the project says of itself agrees in every place."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruyaml import YAML

from artseg_models import __version__

EXTRAS = ("study", "int8")
# what brings these modules, for environments without the extra
INSTALLED_BY = {"umap": "umap-learn"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(project: dict[str, Any], extra: str | None = None) -> dict[str, Requirement]:
    texts = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    parsed = [Requirement(text) for text in texts]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)={2,3}(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def test_version_is_the_same_everywhere(repository: Path, project: dict[str, Any]) -> None:
    assert "version" in project["dynamic"]
    citation = YAML(typ="safe").load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    changes = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?([0-9][^\]\s]*)", changes, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == __version__


def test_citation_names_the_paper(repository: Path) -> None:
    citation = YAML(typ="safe").load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert citation["cff-version"] == "1.2.0"
    assert paper["doi"] == "10.1038/s41598-022-14703-y"
    assert len(paper["authors"]) == 9
    assert citation["license"] == "BSD-3-Clause"


def imported_packages(folder: Path) -> set[str]:
    """Top-level names of all that is imported, deferred imports included."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names.add(node.module)
    return names


def foreign_modules(folder: Path) -> set[str]:
    own = {"artseg_models", "__future__"}
    return {name for name in imported_packages(folder) if name.split(".")[0] not in own | sys.stdlib_module_names}


def distributions_of(module: str, owners: Mapping[str, list[str]]) -> set[str]:
    top = module.split(".")[0]
    # several distributions share the folder bioimageio
    if top == "bioimageio":
        return {canonicalize_name(".".join(module.split(".")[:2]))}
    return {canonicalize_name(name) for name in owners.get(top, [INSTALLED_BY.get(top, top)])}


def test_what_is_imported_is_declared_and_nothing_else(repository: Path, project: dict[str, Any]) -> None:
    modules = foreign_modules(repository / "artseg_models")
    declared = set(requirements(project))
    # extras of users, not those of developers: what needs one says so where it is missing
    optional = {name for extra in EXTRAS for name in requirements(project, extra)} - declared
    owners = packages_distributions()
    undeclared = {module for module in modules if not distributions_of(module, owners) & (declared | optional)}
    assert undeclared == set()
    used = {name for module in modules for name in distributions_of(module, owners)}
    assert (declared | optional) - used == set()


def test_what_the_tests_import_is_declared(repository: Path, project: dict[str, Any]) -> None:
    # what the tests load by its path, or run inside CellProfiler
    elsewhere = {path.stem for folder in ("packaging", "plugins") for path in (repository / folder).glob("*")}
    elsewhere |= {path.stem for path in (repository / "tests").rglob("*.py")}
    elsewhere |= {"cellprofiler", "cellprofiler_core", "biapy"}  # in environments of their own
    declared = set(requirements(project, "test"))
    owners = packages_distributions()
    undeclared = {
        module
        for module in foreign_modules(repository / "tests")
        if module.split(".")[0] not in elsewhere and not distributions_of(module, owners) & declared
    }
    assert undeclared == set()


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_tested_versions_are_within_the_ranges(repository: Path, project: dict[str, Any], build: str) -> None:
    constraints = repository / "packaging" / "constraints"
    tested = pins(constraints / "tested.txt") | pins(constraints / f"{build}.txt")
    for name, requirement in requirements(project, "test").items():
        assert name in tested, f"{name} has no tested version"
        assert requirement.specifier.contains(tested[name]), f"{name} {tested[name]} is outside {requirement}"


@pytest.mark.parametrize(
    ("lock", "release"),
    [("cellprofiler5-py311.txt", "cellprofiler-nightly==5."), ("cellprofiler4-py39.txt", "cellprofiler==4.2.8.1")],
)
def test_cellprofiler_is_pinned_completely(repository: Path, lock: str, release: str) -> None:
    lock = (repository / "packaging" / "constraints" / lock).read_text(encoding="utf-8")
    lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line) for line in lines)
    assert any(line.startswith(release) for line in lines)
