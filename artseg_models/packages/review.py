"""A draft for the BioImage Model Zoo, and what its reviewers would still ask for. Nothing is uploaded."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from packaging.version import Version
from PIL import Image

from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.packages.check import HALO, Check, check_package
from artseg_models.packages.consumers import CORE_010, ILASTIK, JDLL
from artseg_models.packages.formats import OLDER_FORMAT
from artseg_models.packages.rdf import find_description, load_yaml
from artseg_models.packages.read import open_package

State = Literal["met", "missing", "yours to check"]

#: by the Zoo's own measure, the share of the description's fields that are filled; its best model had 0.92 in 2026
_COMPLETE = 0.9
_FEWEST_FILES, _MOST_FILES = 5, 9
_LARGEST_COVER = 500_000
_COVER_RATIOS = (1.0, 2.0)
#: what the reviewers' check list wants to read about, and words of headings that hold it
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "what the model does": ("description", "overview", "summary"),
    "what it is for and not for": ("intended use", "limits", "limitations", "out of scope"),
    "the training data": ("training",),
    "how it was validated": ("validation", "evaluation", "performance"),
    "how to use it": ("how to use", "usage", "use"),
    "references": ("citation", "references", "cite"),
}
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\bTODO\b|\bFIXME\b|\bTBD\b|lorem ipsum", re.IGNORECASE)
#: what `artseg export` writes where no --author is given
_NOBODY = "ArtSeg developers"


@dataclass(frozen=True)
class Point:
    """One thing that reviewers of the Zoo ask for.

    Attributes
    ----------
    asked : str
        What they want.
    state : {'met', 'missing', 'yours to check'}
        'yours to check' is what no program can tell.
    detail : str
        What was found, and what to do where it is missing.
    """

    asked: str
    state: State
    detail: str


@dataclass(frozen=True)
class Review:
    """A draft and what was found about it.

    Attributes
    ----------
    folder : Path
        Holds `package/`, the zip to upload, and REVIEW.md.
    archive : Path
        The zip.
    points : tuple of Point
        What is missing first.
    """

    folder: Path
    archive: Path
    points: tuple[Point, ...]

    @property
    def missing(self) -> list[Point]:
        """What reviewers would ask for."""
        return [point for point in self.points if point.state == "missing"]


def prepare_review(package: Path, out: Path, *, trust: bool = False, cache: Path | None = None) -> Review:
    """Make a draft for the Model Zoo and list what is still missing.

    Parameters
    ----------
    package : Path
        Zip file or folder.
    out : Path
        New or empty folder. Gets `package/` (unpacked), the same as a zip, and REVIEW.md.
    trust : bool
        Also test the state dict, which runs the Python file inside the package.
    cache : Path, optional
        Where zips are unpacked, as in `read_package`.

    Returns
    -------
    Review

    Raises
    ------
    ArtSegError
        The package cannot be unpacked, or `out` holds something else.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtSegError(f"Expected a new or empty folder for the draft, but {out} holds files. Choose another --out.")
    path, folder, _ = open_package(package, cache=cache)
    content = load_yaml(find_description(folder))
    found = check_package(path, trust=trust, cache=cache)
    order: list[State] = ["missing", "yours to check", "met"]
    points = sorted(_points(content, folder, found), key=lambda point: order.index(point.state))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(content.get("id") or path.stem))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".draft-", dir=out.parent))
    draft = temporary / "draft"
    try:
        shutil.copytree(folder, draft / "package", ignore=shutil.ignore_patterns(".*", "__pycache__"))
        if path.is_file():
            shutil.copyfile(path, draft / f"{name}.zip")
        else:
            shutil.make_archive(str(draft / name), "zip", draft / "package")
        write_text(draft / "REVIEW.md", _as_markdown(name, f"{name}.zip", points))
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Review(out, out / f"{name}.zip", tuple(points))


def _points(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    for ask in (_tests, _readers, _metadata, _people, _card, _pictures, _tensors, _files):
        yield from ask(content, folder, found)
    for asked, detail in (
        ("Training images may be published or named", "ask those who took them; name the data set in the card"),
        ("Figures come from images that took no part in training", "reviewers compare the card with the paper"),
        ("An account at bioimage.io uploads the zip", "artseg uploads nothing; the Zoo then gives its own animal name"),
    ):
        yield Point(asked, "yours to check", detail)


def _point(asked: str, met: bool, detail: str, otherwise: str) -> Point:
    return Point(asked, "met" if met else "missing", detail if met else otherwise)


def _tests(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    version = str(content.get("format_version"))
    yield _point(
        f"A format that the Zoo's servers read (up to {OLDER_FORMAT})",
        Version(version) <= Version(OLDER_FORMAT),
        f"it is {version}",
        f"it is {version}; give the package whose name ends in -{OLDER_FORMAT}.zip",
    )
    for finding in found.findings:
        if finding.what == HALO:  # ArtSeg's own measurement
            continue
        if finding.outcome == "not run":
            yield Point(f"The Zoo's test passes: {finding.what}", "yours to check", finding.detail)
            continue
        if finding.what == "description":
            percent = re.search(r"([\d.]+)% of the fields filled", finding.detail)
            filled = float(percent[1]) / 100 if percent else 0.0
            yield _point(
                f"At least {_COMPLETE:.0%} of the description's fields are filled",
                filled >= _COMPLETE,
                f"{filled:.0%}",
                f"{filled:.0%}; `bioimageio validate-format` lists the fields",
            )
            warned = "; ".join(part for part in finding.detail.split("; ") if "of the fields filled" not in part)
            yield _point("The Zoo's check of the description, without warning", not warned, "passed", warned)
        else:
            passed = finding.outcome == "passed"
            yield _point(f"The Zoo's test passes: {finding.what}", passed, finding.detail, finding.detail)


def _readers(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    for verdict in found.consumers:
        if verdict.consumer in (CORE_010, ILASTIK, JDLL):
            reasons = "; ".join(verdict.reasons)
            yield _point(f"It opens in {verdict.consumer}", verdict.opens, reasons or "by its rules", reasons)


def _metadata(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    name, description = str(content.get("name") or ""), str(content.get("description") or "")
    yield _point(
        "A name that says what is found and by what",
        len(name.split()) >= 3,
        name,
        f"'{name}': set `name` in rdf.yaml, such as 'Dust in brightfield images (ScoreCAM-U-Net)'",
    )
    yield _point("A description", len(description) >= 50, f"{len(description)} characters", "too short for a search")
    tags = [str(tag) for tag in _list(content.get("tags"))]
    task = any(tag in ("semantic-segmentation", "image-classification") for tag in tags)
    yield _point(
        "Tags for dimension, task and network",
        len(tags) >= 5 and "2d" in tags and task,
        ", ".join(tags),
        f"{', '.join(tags) or 'none'}; wanted: 2d, semantic-segmentation or image-classification, the network",
    )
    yield _point("A licence", bool(content.get("license")), str(content.get("license")), "artseg export --licence")
    cited = [entry for entry in _list(content.get("cite")) if _mapping(entry).get("doi")]
    yield _point("Something to cite, with its DOI", bool(cited), f"{len(cited)} with DOI", "add `cite` with `doi`")
    source = content.get("git_repo")
    yield _point("A link to the code", bool(source), str(source), "add `git_repo` to rdf.yaml: where the code lives")
    training = content.get("training_data")
    yield _point(
        "The training data as a linked data set",
        bool(training),
        str(training),
        "add `training_data` (a data set of the Zoo) or `links`, once the images are deposited",
    )


def _people(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    authors = [_mapping(author) for author in _list(content.get("authors"))]
    named = [str(author.get("name")) for author in authors if author.get("name") not in (None, _NOBODY)]
    yield _point("The people who made it", bool(named), ", ".join(named), "artseg export --author NAME")
    placed = [author for author in authors if author.get("affiliation") and author.get("orcid")]
    yield _point(
        "Each author's affiliation and ORCID",
        bool(authors) and len(placed) == len(authors),
        f"all {len(authors)}",
        f"{len(placed)} of {len(authors)} have both; add `affiliation` and `orcid` to the authors in rdf.yaml",
    )
    maintainers = [
        str(_mapping(one).get("github_user"))
        for one in _list(content.get("maintainers"))
        if _mapping(one).get("github_user")
    ]
    yield _point(
        "A maintainer's GitHub name, to be asked in the review",
        bool(maintainers),
        ", ".join(maintainers),
        "artseg export --maintainer NAME",
    )


def _card(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    path = _file(folder, content.get("documentation"))
    text = "" if path is None else path.read_text(encoding="utf-8", errors="replace")
    headings = [line.lstrip("#").strip().lower() for line in text.splitlines() if line.startswith("#")]
    for what, words in _SECTIONS.items():
        there = [heading for heading in headings if any(word in heading for word in words)]
        otherwise = "no such section in the card" if text else "the package holds no card (`documentation`)"
        yield _point(f"The card tells {what}", bool(there), "; ".join(there), otherwise)
    unfilled = sorted(set(_PLACEHOLDER.findall(text)))
    yield _point("No unfilled field in the card", not unfilled, "none", f"the card holds {', '.join(unfilled)}")


def _pictures(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    covers = [path for path in (_file(folder, cover) for cover in _list(content.get("covers"))) if path is not None]
    asked = f"A cover, 2:1 or 1:1, under {_LARGEST_COVER // 1000} kB"
    if not covers:
        yield Point(asked, "missing", "the package holds none")
        return
    try:
        with Image.open(covers[0]) as opened:
            width, height = opened.size
    except OSError as error:
        yield Point(asked, "missing", f"{covers[0].name} is no picture: {error}")
        return
    size = covers[0].stat().st_size
    fits = size < _LARGEST_COVER and any(abs(width / height - ratio) < 0.05 for ratio in _COVER_RATIOS)
    stated = f"{covers[0].name} has {width} x {height} pixels and {size // 1000} kB"
    yield _point(asked, fits, stated, stated)


def _tensors(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    for kind, use in (("test_tensor", "to test it"), ("sample_tensor", "to show it")):
        bare = [
            str(_mapping(tensor).get("id"))
            for side in ("inputs", "outputs")
            for tensor in _list(content.get(side))
            if _file(folder, _mapping(tensor).get(kind)) is None
        ]
        yield _point(f"A {kind} of each input and output, {use}", not bare, "all", f"none of {', '.join(bare)}")


def _files(content: Mapping[str, Any], folder: Path, found: Check) -> Iterator[Point]:
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    few = _FEWEST_FILES <= len(files) <= _MOST_FILES
    stated = f"{len(files)} files" if few else f"{len(files)} files: can you say what each is for?"
    yield Point(
        f"{_FEWEST_FILES} to {_MOST_FILES} files, as most packages have", "met" if few else "yours to check", stated
    )
    packages = sorted({path.parent.name for path in files if path.name == "__init__.py"})
    yield _point(
        "No library packed with it",
        not packages,
        "none",
        f"{', '.join(packages)} is a Python package; name it as needed",
    )


def _as_markdown(name: str, archive: str, points: list[Point]) -> str:
    headings: dict[State, str] = {
        "missing": "Still missing",
        "yours to check": "For you to check",
        "met": "Met",
    }
    lines = [
        f"# {name}: a draft for the BioImage Model Zoo",
        "",
        f"`package/` holds the files, `{archive}` the same to upload at https://bioimage.io. Nothing was uploaded.",
        "What can be given to `artseg export` is best changed there, so that every format has it; then review again.",
    ]
    for state, heading in headings.items():
        of_state = [point for point in points if point.state == state]
        lines += ["", f"## {heading} ({len(of_state)})", ""]
        lines += [f"- {point.asked}: {point.detail}" for point in of_state]
    return "\n".join(lines) + "\n"


def _file(folder: Path, stated: Any) -> Path | None:
    """Find a file that a description names, alone or in a mapping; None where it is not in the folder."""
    name = _mapping(stated).get("source") if isinstance(stated, Mapping) else stated
    if not isinstance(name, str):
        return None
    path = folder / name
    return path if path.resolve().is_relative_to(folder.resolve()) and path.is_file() else None


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
