"""`artseg cellprofiler`: set CellProfiler up, run and change pipelines."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from artseg_models.cli.terminal import app, console
from artseg_models.errors import ArtSegError

cellprofiler_app = typer.Typer(no_args_is_help=True, help="Set up CellProfiler and run pipelines without its window.")
app.add_typer(cellprofiler_app, name="cellprofiler", rich_help_panel="Main job")


@cellprofiler_app.command("install")
def cellprofiler_install(
    plugins_folder: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="CellProfiler's plugins folder; without it, those in the preferences of your CellProfiler 4 and 5.",
        ),
    ] = None,
    system_wide: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="FOLDER",
            help="For an administrator: a plugins folder that all users of the computer or cluster share.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is installed, whether it fits, and what mends it.")
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Remove what was installed, and nothing else.")
    ] = False,
) -> None:
    """Put SegmentArtifacts and MeasureArtifactOverlap into CellProfiler, which then finds this artseg by itself.

    CellProfiler's own Python stays as it is. With --check the exit code is 1 where something must be mended.
    """
    if check and uninstall:
        raise typer.BadParameter("give --check or --uninstall, not both")
    if plugins_folder is not None and system_wide is not None:
        raise typer.BadParameter("give --plugins-folder or --system-wide, not both")
    from artseg_models import cellprofiler_install as work

    named = system_wide or plugins_folder
    if check:
        raise typer.Exit(_check(named, system_wide=system_wide is not None))
    if uninstall:
        _uninstall(named)
        return
    for folder in work.install(plugins=named, for_everybody=system_wide is not None):
        _say(f"SegmentArtifacts and MeasureArtifactOverlap are in {folder}; start CellProfiler again to see them.")
    if system_wide is not None:
        private = work.private_to_me(Path(sys.executable))
        if private is not None:
            _say(
                f"! Others may not enter {private}, where artseg's Python is: install artseg where all may run it, "
                "then run this command with that one."
            )
        _say("Users set this folder in File > Preferences > CellProfiler plugins directory; without the window:")
        _say(f"    cellprofiler -c -r -p PIPELINE -i IMAGES -o OUT --plugins-directory {system_wide.resolve()}")


def _check(named: Path | None, *, system_wide: bool) -> int:
    """Show what is installed where; give the exit code."""
    from artseg_models import cellprofiler_install as work

    for program in work.find_programs():
        _say(f"CellProfiler {program.version or '(version unknown)'}: {program.path}")
    places = [work.Place(named, "as named")] if named is not None else work.find_places()
    findings = [work.check_place(place.folder) for place in places]
    if not places:
        findings = [work.Finding("no plugins folder of CellProfiler was found", ["nothing is installed"])]
    whole = next((place.folder for place, found in zip(places, findings, strict=True) if not found.problems), None)
    if whole is not None:
        findings.append(work.check_service(whole))
    for found in findings:
        _say(f"{'[mend]' if found.problems else '[ok]  '} {found.what}")
        for problem in found.problems:
            _say(f"         {problem}")
    if all(not found.problems for found in findings):
        return 0
    if not places:
        option = " --plugins-folder FOLDER"
    elif named is None:
        option = ""
    else:
        option = f" --{'system-wide' if system_wide else 'plugins-folder'} {shlex.quote(str(named))}"
    if whole is not None and findings[-1].problems:
        _say("What mends it stands above.")
    else:
        _say(f"This mends it: artseg cellprofiler install{option}")
    return 1


def _uninstall(named: Path | None) -> None:
    from artseg_models import cellprofiler_install as work

    folders = [named] if named is not None else [place.folder for place in work.find_places()]
    installed = [folder for folder in folders if (folder / work.INSTALLATION).is_file()]
    if not installed:
        looked = ", ".join(map(str, folders)) or "no plugins folder"
        raise ArtSegError(
            f"Found nothing to remove: looked into {looked}. Name another: "
            "artseg cellprofiler install --uninstall --plugins-folder FOLDER"
        )
    for folder in installed:
        done = work.uninstall(folder)
        _say(f"Removed {len(done.removed)} files from {done.folder}.")
        if done.kept:
            _say(f"! Kept, because they were changed since: {', '.join(done.kept)}")


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@cellprofiler_app.command("compare")
def cellprofiler_compare(
    before: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Results of one run, say without masks.")
    ],
    after: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Results of the other, say with masks.")],
    objects: Annotated[str, typer.Option(help="The objects to compare, as the pipeline names them.")] = "Nuclei",
    measurements: Annotated[
        list[str] | None,
        typer.Option("--measurement", help="Only measurements whose name holds this; repeat for more."),
    ] = None,
) -> None:
    """Show how counts and mean measurements differ between two runs of a pipeline."""
    from artseg_models.compare import compare_runs

    changes = compare_runs(before, after, objects=objects, measurements=tuple(measurements or ()))
    table = Table("measurement", *(f"{folder.name}" for folder in (before, after)), "change")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for change in changes:
        table.add_row(change.measurement, f"{change.before:.5g}", f"{change.after:.5g}", f"{change.relative:+.1%}")
    console.print(table)


@cellprofiler_app.command("run")
def cellprofiler_run(
    pipeline: Annotated[
        str,
        typer.Argument(
            help="A .cppipe or .cpproj file, or an example: artifacts_masked, no_masking, affinity_artifacts_masked ..."
        ),
    ],
    images: Annotated[
        Path, typer.Option("--images", "-i", exists=True, file_okay=False, help="Folder with the images.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder for what the pipeline writes.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[OBJECTS=]FILE",
            help="Model package for every SegmentArtifacts; or, repeated, for each by the objects that it makes: "
            "Artifacts=first-unet.zip, Cells=mine-cells.zip.",
        ),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PATTERN, repeatable: which files are the channels of the example pipelines, for instance "
            "`brightfield=*ch1*`, `dna=*ch5*`, `signal=*ch2*`.",
        ),
    ] = None,
    cellprofiler: Annotated[
        Path | None,
        typer.Option(help="The cellprofiler executable; without it, ARTSEG_CELLPROFILER, then the one on PATH."),
    ] = None,
) -> None:
    """Run a pipeline in CellProfiler without its window and check that it wrote its results."""
    from artseg_models.cellprofiler import find_pipeline, run_pipeline

    channels: dict[str, str] = {}
    for item in channel or []:
        name, equals, pattern = item.partition("=")
        if not (name and equals and pattern):
            raise typer.BadParameter(f"expected NAME=PATTERN, got '{item}'", param_hint="--channel")
        channels[name] = pattern
    written = run_pipeline(
        find_pipeline(pipeline),
        images,
        out,
        package=_models(model),
        cellprofiler=[str(cellprofiler)] if cellprofiler else None,
        channels=channels or None,
    )
    console.print(f"CellProfiler wrote its results to {written}", highlight=False)


def _models(given: list[str] | None) -> Path | dict[str, Path] | None:
    if given is None:
        return None
    if len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists()):
        return Path(given[0])
    named: dict[str, Path] = {}
    for item in given:
        objects, equals, path = item.partition("=")
        if not (objects and equals and path) or objects in named:
            raise typer.BadParameter(
                f"expected one FILE, or OBJECTS=FILE for each SegmentArtifacts, got '{item}'", param_hint="--model"
            )
        named[objects] = Path(path)
    return named


@cellprofiler_app.command("insert")
def cellprofiler_insert(
    pipeline: Annotated[
        Path, typer.Argument(help="The pipeline to insert into, a .cppipe or .cpproj file; it stays as it is.")
    ],
    brightfield: Annotated[str, typer.Option(help="Name of the brightfield image in the pipeline.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new .cppipe file; of a project also a .cpproj file.")],
    mask_images: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Image in which artifacts are blanked; repeat, or separate by commas."),
    ] = None,
    objects: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Objects to drop where artifacts are; repeat, or separate by commas."),
    ] = None,
    package: Annotated[
        Path | None, typer.Option("--package", "-m", help="Model package; without it, choose one in CellProfiler.")
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Objects are dropped whole if more than this share of them lies under artifacts. Default: 0.5. In "
            "objects that are found in a masked image, every touch counts.",
        ),
    ] = None,
    cut_objects: Annotated[
        bool, typer.Option("--cut-objects", help="Cut artifacts off objects instead of dropping them whole.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
) -> None:
    """Put SegmentArtifacts into a pipeline so that every measurement keeps its name.

    The raw image or objects get a new name (DNA becomes DNA_unmasked), the masked ones take the old; all else stays as
    it is. The changes are listed first.
    """
    if cut_objects and overlap is not None:
        raise typer.BadParameter("give --overlap or --cut-objects, not both")
    from artseg_models.pipelines.insert import plan_insertion
    from artseg_models.pipelines.project import open_pipeline, save_pipeline

    plan = plan_insertion(
        open_pipeline(pipeline),
        brightfield=brightfield,
        mask_images=_names(mask_images),
        objects=_names(objects),
        package=package,
        overlap=overlap,
        cut_objects=cut_objects,
    )
    for line in plan.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for note in plan.notes:
        console.print(f"! {note}", highlight=False, markup=False, soft_wrap=True)
    if not yes:
        if not sys.stdin.isatty():
            raise ArtSegError(f"{out} was not written: nobody is there to ask. Add --yes to write it.")
        if not typer.confirm(f"Write {out}?"):
            raise typer.Exit(1)
    save_pipeline(plan.apply(), out, source=pipeline)
    console.print(f"Wrote {out}", highlight=False, markup=False, soft_wrap=True)


def _names(given: list[str] | None) -> list[str]:
    return [name.strip() for item in given or [] for name in item.split(",") if name.strip()]
