"""Who answers questions about models: a GitHub user, named once on a computer."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from platformdirs import user_config_path

from artseg_models.errors import ArtSegError
from artseg_models.files import write_text

_GITHUB_USER = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}")


def maintainer_file() -> Path:
    """File that keeps the name: in ARTSEG_CONFIG_DIR, else in the user's folder of settings."""
    chosen = os.environ.get("ARTSEG_CONFIG_DIR")
    return (Path(chosen) if chosen else user_config_path("artseg", appauthor=False)) / "maintainer.txt"


def known_maintainer() -> str | None:
    """Give the GitHub user of ARTSEG_MAINTAINER, else the remembered one.

    Returns
    -------
    str or None
        Empty: it was said that nobody is to be named. None: nothing was said.
    """
    named = os.environ.get("ARTSEG_MAINTAINER")
    if named is not None:
        return named.strip()
    try:
        return maintainer_file().read_text(encoding="utf-8").strip()
    except OSError:
        return None


def remember_maintainer(name: str) -> Path:
    """Note the GitHub user for models that are exported later on this computer.

    Parameters
    ----------
    name : str
        Empty: nobody is to be named.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ArtSegError
        It cannot be one, GitHub says that there is none, or the file cannot be written.
    """
    if name:
        check_maintainer(name)
    write_text(maintainer_file(), f"{name}\n")
    return maintainer_file()


def check_maintainer(name: str) -> None:
    """Ask GitHub, by the Zoo's own check, whether there is such a user; without network only the form is checked.

    Raises
    ------
    ArtSegError
        There is none.
    """
    from bioimageio.spec import ValidationContext
    from bioimageio.spec.generic.v0_3 import Maintainer

    wrong = f"Expected the name of a user of GitHub, such as octocat, got '{name}'"
    if not _GITHUB_USER.fullmatch(name):
        raise ArtSegError(
            f"{wrong}: letters, digits and single hyphens. Give --maintainer another one, or leave it out."
        )
    try:
        with ValidationContext(perform_io_checks=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a limit on questions: it could not be asked, as without network
            Maintainer(github_user=name)
    except ValueError as error:
        raise ArtSegError(
            f"{wrong}, whom GitHub does not know. Give --maintainer another one, or leave it out."
        ) from error
    # whatever is raised where there is no network
    except Exception:
        return
