"""`artseg study`: the paper's comparison on one's own data."""

from __future__ import annotations

import logging
import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from artseg_models.cli.terminal import app, console
from artseg_models.errors import ArtSegError


@app.command(rich_help_panel="More")
def study(
    source: Annotated[
        str | None, typer.Argument(metavar="STUDY.yaml", help="The study's file, or the name of one of --list.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", file_okay=False, help="Folder of the study; the same folder goes on."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder that paths in the study start from. Default: its own."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after this time; the same command goes on later.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Where trainings run, one on each at a time; can be repeated: cuda:0, cuda:1, cpu, mps. Default: "
            "every CUDA device, or the processor."
        ),
    ] = None,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="Choose and score with what is trained, though other trainings are missing."),
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try trainings again that failed before.")] = False,
    page: Annotated[bool, typer.Option("--page", help="Train nothing; write tables, figures and page anew.")] = False,
    list_studies: Annotated[bool, typer.Option("--list", help="Show the studies that come with ArtSeg.")] = False,
) -> None:
    """Compare the six systems of the paper on images of yours: data sets x methods x seeds, every table and figure.

    STUDY.yaml names the data sets; `artseg study --list` shows studies that come with ArtSeg, and where their files
    are, to copy from. Each training is a run in the study's folder. Cutoffs, and one smallest object for all methods of
    a data set, are chosen on validation images; then the test images are scored, once.

    The same command goes on where it was stopped. Trainings that are missing are listed on the page as not run.
    """
    from artseg_models.study.configuration import read_study, shipped

    if list_studies:
        known = shipped()
        table = Table(title="Studies that come with ArtSeg", title_justify="left")
        table.add_column("name")
        table.add_column("what")
        for name in known:
            table.add_row(name, read_study(name)[0].name)
        console.print(table)
        console.print(
            f"Their files, to copy from: {next(iter(known.values())).parent}", highlight=False, soft_wrap=True
        )
        return
    if source is None or out is None:
        raise typer.BadParameter("a study needs its file (or a name of --list) and --out")
    # so that what runs is stopped too, and its training goes on later
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from artseg_models.report.study import write_report
    from artseg_models.study.results import Results
    from artseg_models.study.run import cells_of, run_study

    # it tells of the masks' polarity each time that labels are read
    logging.getLogger("artseg_models.labels").setLevel(logging.WARNING)
    wanted, path = read_study(source)
    start = data if data is not None else path.parent
    if page:
        missing = [name for name in wanted.datasets if not (out / "data" / name / "dataset.json").exists()]
        if missing:
            raise ArtSegError(
                f"Expected the folder of a study that was begun, but {out} has no {', '.join(missing)}. "
                "Leave --page out."
            )
        cells = cells_of(wanted, out)
    else:
        cells = run_study(wanted, out, data=start, minutes=minutes, devices=device or (), retry=retry, finish=finish)
    results = Results(study=wanted, out=out, cells=cells)
    command = ["artseg", "study", source, "--out", out.name, *(["--data", data.name] if data is not None else [])]
    written = write_report(results, command=shlex.join(command))
    table = Table(title=f"{len(results.scores)} of {len(cells)} trainings scored", title_justify="left")
    for name in ("data set", "method", "seed", "state", "IoU of pixels", "F1 of images"):
        table.add_column(name)
    for cell in cells:
        score = results.scores.get((cell.dataset, cell.method, cell.seed))
        values = ["" if score is None else _shown(score["figures"][name][0]) for name in ("pixel_iou", "image_f1")]
        table.add_row(cell.dataset, cell.method, str(cell.seed), cell.state, *values)
    console.print(table)
    for row in results.missing:
        console.print(
            f"{row['dataset']}, {row['method']}, seed {row['seed']}: {row['why']}", highlight=False, markup=False
        )
    console.print(f"Page: {written}; tables and figures beside it.", highlight=False, soft_wrap=True)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
