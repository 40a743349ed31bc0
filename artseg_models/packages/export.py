"""From a finished training run to Model Zoo packages: classifier, U-Net, and both in one; each in two formats."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_files
from artseg_models.packages.check import check_description, quiet_zoo
from artseg_models.packages.draft import KINDS, Shared, archive_name
from artseg_models.packages.formats import OLDER_FORMAT, newest_format
from artseg_models.packages.kinds import classifier_draft, combined_draft, unet_draft
from artseg_models.packages.maintainer import known_maintainer
from artseg_models.packages.run import read_run

logger = logging.getLogger(__name__)

#: Methods whose runs become packages.
EXPORTED_METHODS = ("scorecam-unet",)


class ExportedPackages(NamedTuple):
    """Where a run's packages are.

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
    """Write the packages of a run, all or none.

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
    ExportedPackages
        Their paths.

    Raises
    ------
    ArtSegError
        The run is unfinished or damaged, a weight format differs from its network, a field is not valid in the Zoo,
        or the files cannot be written. Packages that were there before are unchanged then.
    """
    trained = read_run(run)
    slug = slug_of(name if name is not None else trained.result.name)
    formats = (newest_format(), OLDER_FORMAT)
    with tempfile.TemporaryDirectory(prefix="artseg-export-") as temporary:
        named = maintainer if maintainer is not None else known_maintainer()
        if not named:
            logger.info(
                "The Model Zoo's check will warn that nobody maintains these models. Name the GitHub user who answers "
                "questions once: `artseg export %s --maintainer NAME`; later exports and trainings take it over.",
                run,
            )
        shared = Shared(trained, slug, version=version, author=author, maintainer=named or None, licence=licence)
        folders = {kind: Path(temporary) / kind for kind in KINDS}
        for folder in folders.values():
            folder.mkdir()
        drafts = [
            classifier_draft(shared, folders["classifier"]),
            unet_draft(shared, folders["unet"], classifier_onnx=folders["classifier"] / "weights.onnx"),
        ]
        both = combined_draft(shared, folders["combined"])
        if both is not None:
            drafts.append(both)
        written = [(draft, format_version) for format_version in formats for draft in drafts]
        paths = [out / archive_name(slug, draft.kind, format_version) for draft, format_version in written]
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
    places = {(draft.kind, format_version): path for (draft, format_version), path in zip(written, paths, strict=True)}
    newest, older = formats
    return ExportedPackages(
        places["classifier", newest],
        places["unet", newest],
        places.get(("combined", newest)),
        places["classifier", older],
        places["unet", older],
        places.get(("combined", older)),
    )


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
