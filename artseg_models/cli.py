"""The command line: parses, calls, prints. Each verb is a function elsewhere."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from artseg_models import __version__
from artseg_models.errors import ArtSegError

app = typer.Typer(
    name="artseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Artifact masks for brightfield microscopy, learned from image-level labels.",
)
console = Console()


def _show_version(asked: bool) -> None:
    if asked:
        console.print(f"artseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show more of what is done.")] = False,
) -> None:
    """Options of every command."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_level=verbose)],
    )
    for noisy in ("matplotlib", "PIL", "httpx", "urllib3", "bioimageio", "tifffile"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


# ---- labels and simulation ----

# ---- training, prediction ----

# ---- packages ----

# ---- evaluation, demo ----

# ---- CellProfiler, service ----


def main() -> None:
    """Run the command line; a problem that the user can mend ends in its message and exit code 1."""
    try:
        app()
    except ArtSegError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {error}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
