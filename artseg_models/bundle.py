"""The files that travel with the package but are not Python of it: CellProfiler's plugins and the model cards.

In a checkout (and its editable install) they stand in the top-level folders `plugins/` and `bioimageio/`; the
wheel carries copies in `artseg_models/_bundle/`, put there by `packaging/build_bundle.py`.
"""

from __future__ import annotations

from pathlib import Path

from artseg_models.errors import ArtSegError

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    in_checkout = _PACKAGE.parent / name
    # a stray folder of that name beside an installed package must not be taken for ours
    candidates = [_PACKAGE / "_bundle" / name]
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        candidates.append(in_checkout)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise ArtSegError(
        f"Expected the folder '{name}' that comes with artseg at {candidates[0]}, but it is not there: "
        "the installation is incomplete. Install artseg again: pip install --force-reinstall --no-deps artseg."
    )


def plugins_folder() -> Path:
    """Folder with what goes into CellProfiler's plugins folder: modules, their client, example pipelines.

    Returns
    -------
    Path
        An existing folder, to be read only: it may belong to the installed package.

    Raises
    ------
    ArtSegError
        The installation is incomplete.
    """
    return _folder("plugins")


def pipelines_folder() -> Path:
    """Folder with the example pipelines (`*.cppipe`).

    Returns
    -------
    Path
        An existing folder, to be read only.

    Raises
    ------
    ArtSegError
        The installation is incomplete.
    """
    return plugins_folder() / "pipelines"


def cards_folder() -> Path:
    """Folder with the model cards' sources, one folder a package.

    Returns
    -------
    Path
        An existing folder, to be read only.

    Raises
    ------
    ArtSegError
        The installation is incomplete.
    """
    return _folder("bioimageio")
