"""The folder that a training leaves: what it says at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artseg_models.errors import ArtSegError
from artseg_models.files import read_json


def result_of(run: Path) -> dict[str, Any]:
    """Read what a finished training says of itself.

    Raises
    ------
    ArtSegError
        There is no such folder, it is something else, such as a package, or the training has not ended.
    """
    file = run / "result.json"
    if not file.is_file():
        if not run.exists():
            found = "there is nothing of that name"
        elif run.is_file():
            found = "that is a file, such as a package"
        elif (run / "rdf.yaml").is_file():
            found = "that is a package"
        else:
            found = "it has no result.json"
        raise ArtSegError(
            f"Expected a finished training run at {run}, but {found}. "
            "Choose the folder given to `artseg train --out`, or let the training end."
        )
    return read_json(file)
