"""`artseg label`: sort images in the browser."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Literal

import typer

from artseg_models.cli.terminal import app, console


@app.command(rich_help_panel="Main job")
def label(
    images: Annotated[list[Path], typer.Argument(help="Folders (with their subfolders) and image files.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The table; without this labels.csv in the first folder.")
    ] = None,
    name: Annotated[str, typer.Option(help="Your name, kept with each label; without this your login name.")] = "",
    kinds: Annotated[
        str, typer.Option(help="Kinds of artifact that get the keys 1 to 9, e.g. --kinds dust,fibre,bubble.")
    ] = "",
    order: Annotated[
        Literal["random", "name"],
        typer.Option(help="random: so that neighbours on the plate do not sway you. name: as the files are called."),
    ] = "random",
    results: Annotated[
        Path | None, typer.Option(file_okay=False, help="What `artseg segment` wrote for these images, to look at.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="For trainings started on the page, as of `artseg train`."),
    ] = None,
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the page's address, open nothing.")] = False,
) -> None:
    """Sort images into clean and artifact in your browser, about two seconds an image.

    One image fills the page; C is clean, A artifact, U unsure, B goes back. Every label is on disk in labels.csv before
    the next image shows: close the page at any time, the same command goes on where you were. Who decided, when and how
    fast is kept beside it in labels.history.jsonl. Images labelled unsure are not trained on.

    Given a folder that `artseg segment` wrote, or with --results, the page also shows probability maps and masks: move
    the cutoff, accept, reject or mend masks with brush and polygon, export and import them. Its tab Model trains on the
    labels, lets the model look at all images, exports it and installs it into CellProfiler. Finish, Ctrl+C and SIGTERM
    stop what runs there, and the tab offers to go on; where this program is killed outright, training goes on, and the
    next page finds it.

    The page runs on this computer alone and needs no internet. `artseg labels check` looks through the result.
    """
    from artseg_models.labelling.results import read_results
    from artseg_models.labelling.server import serve
    from artseg_models.labelling.store import Store
    from artseg_models.labels import problem_of_kind, problems_of_kinds

    names = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    problems = [*(problem for kind in names if (problem := problem_of_kind(kind))), *problems_of_kinds(names)]
    if problems:
        raise typer.BadParameter(problems[0])
    table = out or (images[0] if images[0].is_dir() else images[0].parent) / "labels.csv"
    if results is None and (images[0] / "segmentation.csv").is_file():
        results = images[0]
        images = [one.image for one in read_results(results)]
    store = Store(images, table, order=order)

    def announce(address: str) -> None:
        console.print(f"Labels: {table}", highlight=False, soft_wrap=True)
        console.print(f"Page:   {address}", highlight=False, soft_wrap=True)
        console.print("Ends with Ctrl+C, or with Finish on the page.", highlight=False)

    serve(
        store,
        kinds=names,
        who=name or _login_name(),
        plane=plane,
        results=results,
        settings=settings or [],
        port=port,
        browser=not no_browser,
        announce=announce,
    )


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # accounts without a name, as in containers
        return ""
