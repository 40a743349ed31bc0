"""Whether a package opens and gives its author's numbers: by rules of many programs, then by the Zoo's own test."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from artseg_models.errors import ArtSegError
from artseg_models.packages.consumers import ARTSEG, CORE_011, Verdict, would_open
from artseg_models.packages.rdf import find_description, load_yaml
from artseg_models.packages.read import RUNNABLE_FORMATS, open_package

Outcome = Literal["passed", "failed", "not run"]


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
    findings.append(check_description(folder))
    if findings[-1].outcome == "failed":
        return Check(consumers, tuple(findings))
    for weight_format in [name for name, entry in content["weights"].items() if entry is not None]:
        if weight_format in RUNNABLE_FORMATS or trust:
            findings.append(_check_weights(folder, weight_format))
        else:
            findings.append(
                Finding(weight_format, "not run", "runs Python from the package; allow it with --trust if you know it")
            )
    return Check(consumers, tuple(findings))


def check_description(folder: Path) -> Finding:
    """Let bioimageio.spec check a package's description and every file that it names.

    Parameters
    ----------
    folder : Path
        Unpacked package.
    """
    from bioimageio.spec import load_description

    with _quiet_zoo():
        summary = load_description(folder, perform_io_checks=True).validation_summary
        failed = _messages(summary.details, "errors")
        warned = _messages(summary.details, "warnings")
        outcome: Outcome = "failed" if summary.status == "failed" else "passed"
        filled = f"{summary.metadata_completeness:.0%} of the fields filled, by the Zoo's measure"
    return Finding("description", outcome, "; ".join([*(failed or warned), filled]))


def _check_weights(folder: Path, weight_format: str) -> Finding:
    from bioimageio.core import test_description

    run: Any = test_description
    with _quiet_zoo():
        summary = run(folder, weight_format=weight_format, expected_type="model", devices=["cpu"])
        passed = summary.status == "passed"
        tests = [detail for detail in summary.details if "inference" in detail.name or "Reproduce" in detail.name]
        detail = f"{len(tests)} tests" if passed else "; ".join(_messages(summary.details, "errors"))
    return Finding(weight_format, "passed" if passed else "failed", detail)


@contextmanager
def _quiet_zoo() -> Generator[None]:
    """Keep what the Zoo's libraries tell their developers from the user."""
    from loguru import logger

    logger.disable("bioimageio")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            # they leave files open, which Windows does not let us delete
            gc.collect()
    finally:
        logger.enable("bioimageio")


def _messages(details: Sequence[Any], kind: Literal["errors", "warnings"]) -> list[str]:
    """Collect the messages of a validation, on one line each and none twice."""
    messages = [" ".join(str(entry.msg).split()) for detail in details for entry in getattr(detail, kind)]
    return list(dict.fromkeys(messages))
