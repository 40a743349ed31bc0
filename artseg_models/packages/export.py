"""From a finished training run to Model Zoo packages, each in two formats.

Of ScoreCAM-U-Net there are classifier, U-Net, and both in one; of a method with one network and no gate its map.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json, whole_files
from artseg_models.packages.check import check_description, quiet_zoo
from artseg_models.packages.contents import classifier_draft, combined_draft, map_draft, unet_draft
from artseg_models.packages.draft import KINDS, Draft, Shared, archive_name
from artseg_models.packages.formats import OLDER_FORMAT, newest_format
from artseg_models.packages.maintainer import known_maintainer
from artseg_models.packages.run import MAP_METHODS, TrainedRun, method_of, read_map_run, read_run

logger = logging.getLogger(__name__)

_NOT_EXPORTED = {
    "scorecam": "its map takes some dozens of passes of a classifier, and is scaled within the image",
    "patch-svdd": "it looks for the nearest of many thousand stored patches, which is no network",
}
_BOUND = (
    "it has a Gaussian for each position and so takes images of one size alone (--set gaussian=shared has one for all)"
)


def why_no_package(run: Path) -> str | None:
    """Say why no package can be made of a finished run; None where one can.

    Raises
    ------
    ArtSegError
        The run is unfinished.
    """
    method = method_of(run)
    if method == "padim" and read_json(run / "result.json")["padim"]["gaussian"] != "shared":
        return _BOUND
    return _NOT_EXPORTED.get(method)


class ExportedMap(NamedTuple):
    """Where the packages of a method with one network and no gate are.

    Attributes
    ----------
    newest : Path
        In the newest format.
    older : Path
        The same model in format 0.5.10, which every reader opens.
    """

    newest: Path
    older: Path

    @property
    def paths(self) -> list[Path]:
        """Those that were written."""
        return list(self)


class ExportedPackages(NamedTuple):
    """Where the packages of a run of ScoreCAM-U-Net are.

    Attributes
    ----------
    classifier, unet, combined : Path
        In the newest format. No `combined` where the model finds nothing in the run's sample image, since every
        reader's test would pass on anything then.
    older_classifier, older_unet, older_combined : Path
        The same models in format 0.5.10, which every reader opens.
    """

    classifier: Path
    unet: Path
    combined: Path | None
    older_classifier: Path
    older_unet: Path
    older_combined: Path | None

    @property
    def paths(self) -> list[Path]:
        """Those that were written."""
        return [path for path in self if path is not None]


def export_run(
    run: Path,
    out: Path,
    *,
    name: str | None = None,
    version: str = "0.1.0",
    author: str = "ArtSeg developers",
    maintainer: str | None = None,
    licence: str = "BSD-3-Clause",
) -> ExportedPackages | ExportedMap:
    """Write the packages of a run of any method, all or none.

    Every weight format is compared with the network at several image sizes, and the description is validated,
    before anything appears in `out`.

    Parameters
    ----------
    run : Path
        Run folder of `artseg train`.
    out : Path
        Folder for the packages; made where missing.
    name : str, optional
        Begins the files' names and ids; the run's name by default.
    version : str
        Version of the model.
    author : str
        Who trained the model.
    maintainer : str, optional
        GitHub user who answers questions, without whom the Zoo's check warns; the one of the environment variable
        ARTSEG_MAINTAINER or the remembered one by default. Empty: nobody.
    licence : str
        SPDX identifier.

    Returns
    -------
    ExportedPackages or ExportedMap
        Their paths.

    Raises
    ------
    ArtSegError
        The run is unfinished or damaged or of a method of which no package can be made, a weight format differs from
        its network, a field is not valid in the Zoo, or the files cannot be written. Packages that were there before
        are unchanged then.
    """
    method, reason = method_of(run), why_no_package(run)
    if reason is not None:
        raise ArtSegError(
            f"The run at {run} was trained by {method}, of which no package is made: {reason}. `artseg segment` and "
            "`artseg evaluate` take the run folder itself as the model."
        )
    if method not in MAP_METHODS:
        return export_packages(
            run, out, name=name, version=version, author=author, maintainer=maintainer, licence=licence
        )
    trained = read_map_run(run)
    with tempfile.TemporaryDirectory(prefix="artseg-export-") as temporary:
        shared = Shared(
            trained,
            slug_of(name if name is not None else trained.result.name),
            version=version,
            author=author,
            maintainer=_maintainer(maintainer, run),
            licence=licence,
        )
        written = _write([map_draft(shared, Path(temporary), trained)], out)
    return ExportedMap(written[method, newest_format()], written[method, OLDER_FORMAT])


def export_packages(
    run: Path,
    out: Path,
    *,
    name: str | None = None,
    version: str = "0.1.0",
    author: str = "ArtSeg developers",
    maintainer: str | None = None,
    licence: str = "BSD-3-Clause",
) -> ExportedPackages:
    """Write the packages of a run of ScoreCAM-U-Net, all or none; see `export_run`."""
    method = method_of(run)
    if method != "scorecam-unet":
        raise ArtSegError(
            f"Expected a run of scorecam-unet at {run}, which has classifier and U-Net, but it was trained by {method}."
        )
    trained = read_run(run)
    with tempfile.TemporaryDirectory(prefix="artseg-export-") as temporary:
        shared = Shared(
            trained,
            slug_of(name if name is not None else trained.result.name),
            version=version,
            author=author,
            maintainer=_maintainer(maintainer, run),
            licence=licence,
        )
        written = _write(_drafts(shared, trained, Path(temporary)), out)
    newest = newest_format()
    return ExportedPackages(
        written["classifier", newest],
        written["unet", newest],
        written.get(("combined", newest)),
        written["classifier", OLDER_FORMAT],
        written["unet", OLDER_FORMAT],
        written.get(("combined", OLDER_FORMAT)),
    )


def _drafts(shared: Shared, trained: TrainedRun, temporary: Path) -> list[Draft]:
    folders = {kind: temporary / kind for kind in KINDS}
    for folder in folders.values():
        folder.mkdir()
    drafts = [
        classifier_draft(shared, folders["classifier"], trained),
        unet_draft(shared, folders["unet"], trained, classifier_onnx=folders["classifier"] / "weights.onnx"),
    ]
    both = combined_draft(shared, folders["combined"], trained)
    return drafts if both is None else [*drafts, both]


def _maintainer(given: str | None, run: Path) -> str | None:
    named = given if given is not None else known_maintainer()
    if not named:
        logger.info(
            "The Model Zoo's check will warn that nobody maintains these models. Name the GitHub user who answers "
            "questions once: `artseg export %s --maintainer NAME`; later exports and trainings take it over.",
            run,
        )
    return named or None


def _write(drafts: Sequence[Draft], out: Path) -> dict[tuple[str, str], Path]:
    """Validate drafts in both formats and pack them, all or none; give the paths by kind and format."""
    written = [(draft, format_version) for format_version in (newest_format(), OLDER_FORMAT) for draft in drafts]
    paths = [out / archive_name(draft.slug, draft.kind, format_version) for draft, format_version in written]
    with whole_files(paths) as unfinished, quiet_zoo():
        for (draft, format_version), path in zip(written, unfinished, strict=True):
            draft.describe(format_version)
            checked = check_description(draft.folder)
            if checked.outcome != "passed":
                raise ArtSegError(
                    f"The {draft.kind}'s package would not be valid in the Model Zoo: {checked.detail}. Nothing "
                    "was written; check the options given to export."
                )
            pack_folder(draft.folder, path)
    for path in paths:
        logger.info("Wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return {(draft.kind, format_version): path for (draft, format_version), path in zip(written, paths, strict=True)}


def slug_of(name: str) -> str:
    """Make an id of a name: the Zoo takes lower-case letters, digits and minus."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug:
        raise ArtSegError(f"'{name}' has no letter or digit to make a package's name of. Choose another with --name.")
    return slug


def pack_folder(folder: Path, path: Path) -> None:
    """Pack a folder; the same files give the same bytes.

    TorchScript numbers its modules through the life of a process, so only the first exports of two processes agree.
    """
    files = sorted(folder.iterdir(), key=lambda file: (file.name != "rdf.yaml", file.name))
    # weights hardly shrink, so the fastest level is as good as the best
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for file in files:
            member = zipfile.ZipInfo(file.name, (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            with open(file, "rb") as source, target.open(member, "w") as written:
                shutil.copyfileobj(source, written, 2**20)
