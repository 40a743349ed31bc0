"""`artseg collection`: share models within a lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from artseg_models.cli.terminal import app, console

collection_app = typer.Typer(
    no_args_is_help=True,
    help="Share models: a folder of packages by id and version that any web server, or artseg serve, can offer.",
)
app.add_typer(collection_app, name="collection", rich_help_panel="More")

Folder = Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="The collection's folder.")]


@collection_app.command("add")
def collection_add(
    folder: Folder,
    packages: Annotated[
        list[Path],
        typer.Argument(
            metavar="PACKAGE...",
            help="Packages (.zip). Give both formats of a model, NAME-unet.zip and NAME-unet-0.5.10.zip, so that every "
            "program opens it.",
        ),
    ],
) -> None:
    """Add packages to a collection, all or none; the first begins it.

    What is there stays: a changed model needs a version of its own (artseg export --model-version).
    """
    from artseg_models.collection.store import add_packages

    for added in add_packages(folder, packages):
        what = f"{added.entry.id} {added.entry.version}"
        outcome = f"Added {what} from {added.source}" if added.new else f"{what} of {added.source} is there already"
        console.print(outcome, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Page: {folder / 'index.html'}", highlight=False, markup=False, soft_wrap=True)


@collection_app.command("list")
def collection_list(folder: Folder) -> None:
    """Show which models a collection holds, the newest version of each first."""
    from artseg_models.collection.index import read_collection

    table = Table("id", "version", "gives", "formats", "SHA-256")
    for column in (table.columns[0], table.columns[-1]):
        column.no_wrap = True
    for entry in read_collection(folder).entries:
        formats = ", ".join(file.format_version for file in entry.files)
        gives = "map" if entry.kind == "segmentation" else "verdict"
        table.add_row(*map(escape, (entry.id, entry.version, gives, formats, entry.sha256[:12])))
    console.print(table, highlight=False)


@collection_app.command("build")
def collection_build(folder: Folder) -> None:
    """Make index, page and unpacked files of a collection anew from the packages in its folder downloads.

    For packages that were copied there by hand, or after files were lost.
    """
    from artseg_models.collection.store import build_collection

    collection = build_collection(folder)
    console.print(
        f"{len(collection.entries)} packages by id and version. Page: {collection.folder / 'index.html'}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
