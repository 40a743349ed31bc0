"""The command line: parses, calls, prints. Each verb is a module here, and a function elsewhere."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from artseg_models import __version__
from artseg_models.cli.terminal import app, console
from artseg_models.errors import ArtSegError

# each registers its verb with the application; the order is that of the help
for _verb in (
    "label",
    "labels",
    "simulate",
    "train",
    "segment",
    "fill",
    "package",
    "evaluate",
    "counterfactual",
    "suggest",
    "study",
    "ablation",
    "report",
    "impact",
    "demo",
    "cellprofiler",
    "collection",
    "serve",
    "benchmark",
):
    importlib.import_module(f"artseg_models.cli.{_verb}")


def _show_version(asked: bool) -> None:
    if asked:
        console.print(f"artseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show more of what is done.")] = False,
) -> None:
    """Options of every command."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_level=verbose)],
    )
    for noisy in ("matplotlib", "PIL", "httpx", "urllib3", "bioimageio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # it logs what it then raises
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def main() -> None:
    """Run the command line; a problem that the user can mend ends in its message and exit code 1."""
    # before PyTorch is loaded: its threads spin while they wait, which costs half the speed as soon as anything else
    # runs on the machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ArtSegError as error:
        _fail(str(error))
    except OSError as error:
        # wherever it happens, it is the disk's or the user's to mend
        logging.getLogger(__name__).debug("where it happened", exc_info=True)
        _fail(
            f"Could not read or write {error.filename or 'a file'}: {error.strerror or error}. Free space, or check "
            "the path and whether you may write there. With artseg --verbose the place in the program is shown too."
        )


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)
