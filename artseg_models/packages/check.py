"""Whether a package opens and gives its author's numbers: by rules of many programs, then by the Zoo's own test."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from artseg_models.backends import OnnxBackend
from artseg_models.errors import ArtSegError
from artseg_models.images import read_image
from artseg_models.packages.cards import halo_text
from artseg_models.packages.consumers import ARTSEG, CORE_011, Verdict, would_open
from artseg_models.packages.halo import halo_effect
from artseg_models.packages.rdf import find_description, load_yaml
from artseg_models.packages.read import RUNNABLE_FORMATS, open_package, read_package

Outcome = Literal["passed", "failed", "not run"]
#: what the measurement of the cards is called among the findings
HALO = "halo, tiles"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes
    ----------
    what : str
        What was checked.
    outcome : {'passed', 'failed', 'not run'}
        How it ended.
    detail : str
        Why it failed or was not run, or what was noted.
    """

    what: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """What was found about a package.

    Attributes
    ----------
    consumers : tuple of Verdict
        Which programs open it, by their rules; empty for a file that cannot be unpacked.
    findings : tuple of Finding
        What was tried: unpacking it, the Zoo's check of its description, and of each weight format.
    """

    consumers: tuple[Verdict, ...]
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether ArtSeg does not open it, or something that was tried failed."""
        refused = any(not verdict.opens for verdict in self.consumers if verdict.consumer in (ARTSEG, CORE_011))
        return refused or any(finding.outcome == "failed" for finding in self.findings)


def check_package(path: Path, *, trust: bool = False, cache: Path | None = None) -> Check:
    """Check a package, ours or any other.

    Parameters
    ----------
    path : Path
        Zip file or folder.
    trust : bool
        Also test the state dict, which runs the Python file inside the package.
    cache : Path, optional
        Where zips are unpacked, as in `read_package`.

    Returns
    -------
    Check
        What was found; nothing is raised for a package that is damaged.
    """
    try:
        path, folder, _ = open_package(path, cache=cache)
        consumers = tuple(would_open(folder, path=path, cache=cache))
    except ArtSegError as error:
        return Check((), (Finding("unpacked, files as stated", "failed", str(error)),))
    content = load_yaml(find_description(folder))
    findings = [Finding("unpacked, files as stated", "passed", f"format {content.get('format_version')}")]
    with quiet_zoo():
        described, unverified = _described(folder)
        findings.append(_finding(described, unverified))
        if findings[-1].outcome == "failed":
            return Check(consumers, tuple(findings))
        for weight_format in [name for name, entry in content["weights"].items() if entry is not None]:
            if weight_format in RUNNABLE_FORMATS or trust:
                findings.append(_check_weights(described, weight_format))
            else:
                reason = "runs Python from the package; allow it with --trust if you know it"
                findings.append(Finding(weight_format, "not run", reason))
    findings += _check_halo(path, folder, content, cache)
    return Check(consumers, tuple(findings))


def _check_halo(path: Path, folder: Path, content: Mapping[str, Any], cache: Path | None) -> list[Finding]:
    """Measure again what our cards say of padding and tiles; nothing for packages that do not say it."""
    package = read_package(path, cache=cache, any_kind=True)
    stated = content.get("config", {}).get("artseg", {}).get("halo_effect")
    if stated is None or "onnx" not in package.weights:
        return []
    sample = folder / content["inputs"][0]["sample_tensor"]["source"]
    effect = halo_effect(OnnxBackend(package.weights["onnx"]), read_image(sample).pixels, binning=package.binning)
    return [Finding(HALO, "passed", halo_text(effect))]


def check_description(folder: Path) -> Finding:
    """Let bioimageio.spec check a package's description and every file that it names.

    Parameters
    ----------
    folder : Path
        Unpacked package.
    """
    with quiet_zoo():
        return _finding(*_described(folder))


def _finding(described: Any, unverified: Sequence[str]) -> Finding:
    """Say what bioimageio.spec found about a description."""
    summary = described.validation_summary
    failed = _messages(summary.details, "errors")
    warned = _messages(summary.details, "warnings")
    outcome: Outcome = "failed" if summary.status == "failed" else "passed"
    filled = f"{summary.metadata_completeness:.1%} of the fields filled, by the Zoo's measure"
    if unverified and outcome == "passed":
        # without them the Zoo misses a maintainer, who stands in the package
        warned = [message for message in warned if "maintainers" not in message]
        warned.append(f"no network to ask GitHub for the user {' and '.join(unverified)}")
    return Finding("description", outcome, "; ".join([*(failed or warned), filled]))


def _described(folder: Path) -> tuple[Any, list[str]]:
    """Let bioimageio.spec read a description, its files too, and without network all but the names of GitHub users.

    Returns
    -------
    tuple
        What it gave, and the users that could not be asked for; none where that was not what failed.
    """
    from bioimageio.spec import ValidationContext, build_description, load_description

    described: Any = load_description(folder, perform_io_checks=True)
    if described.validation_summary.status != "failed":
        return described, []
    content = load_yaml(find_description(folder))
    people: list[dict[str, Any]] = [
        cast("dict[str, Any]", person)
        for role in ("maintainers", "authors", "packaged_by")
        for person in cast("list[Any]", content.get(role) or [])
        if isinstance(person, dict) and "github_user" in person
    ]
    told = " ".join(_messages(described.validation_summary.details, "errors"))
    if not people or "GitHub user" in told:  # it was asked, and there is no such user
        return described, []
    users = list(dict.fromkeys(str(person.pop("github_user")) for person in people))
    content.pop("maintainers", None)
    context = ValidationContext(root=folder.resolve(), file_name="rdf.yaml", perform_io_checks=True)
    without: Any = build_description(content, context=context)
    return (described, []) if without.validation_summary.status == "failed" else (without, users)


def _check_weights(described: Any, weight_format: str) -> Finding:
    from bioimageio.core import test_description

    run: Any = test_description
    summary = run(described, weight_format=weight_format, expected_type="model", devices=["cpu"])
    passed = summary.status == "passed"
    tests = [detail for detail in summary.details if "inference" in detail.name or "Reproduce" in detail.name]
    detail = f"{len(tests)} tests" if passed else "; ".join(_messages(summary.details, "errors"))
    return Finding(weight_format, "passed" if passed else "failed", detail)


_quiet = ContextVar("_quiet", default=False)


@contextmanager
def quiet_zoo() -> Generator[None]:
    """Keep what the Zoo's libraries tell their developers from the user; once around many checks is faster."""
    from loguru import logger

    if _quiet.get():
        yield
        return
    token = _quiet.set(True)
    logger.disable("bioimageio")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            # they leave files open, which Windows does not let us delete
            gc.collect()
    finally:
        logger.enable("bioimageio")
        _quiet.reset(token)


def _messages(details: Sequence[Any], kind: Literal["errors", "warnings"]) -> list[str]:
    """Collect the messages of a validation, on one line each and none twice."""
    messages = [" ".join(str(entry.msg).split()) for detail in details for entry in getattr(detail, kind)]
    return list(dict.fromkeys(messages))
