"""`artseg export` and `artseg package`: write model packages and look at them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from artseg_models.cli.terminal import app, console
from artseg_models.errors import ArtSegError

if TYPE_CHECKING:
    from artseg_models.packages.check import Check

PackagePath = Annotated[Path, typer.Argument(help="A package: zip file or folder.")]


@app.command("export", rich_help_panel="Main job")
def export_run(
    run: Annotated[Path, typer.Argument(help="Run folder, as given to `artseg train --out`.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the packages; packages/ in the run folder if not given.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the packages; that of the run if not given.")] = None,
    model_version: Annotated[str, typer.Option(help="Version of the model.")] = "0.1.0",
    author: Annotated[str, typer.Option(help="Who trained the model.")] = "ArtSeg developers",
    maintainer: Annotated[
        str | None,
        typer.Option(
            help="GitHub user who answers questions; the Model Zoo asks for one. Remembered for later exports and "
            "trainings on this computer; '' is nobody. Default: ARTSEG_MAINTAINER, else the remembered one; in a "
            "terminal you are asked once."
        ),
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the model, an SPDX identifier.")] = "BSD-3-Clause",
) -> None:
    """Write a run's Model Zoo packages: NAME-unet.zip, NAME-classifier.zip and NAME-combined.zip.

    The combined one gives a mask instead of a map, for programs that only run a network, such as deepImageJ. Runs of
    --method unet, autoencoder and padim give one package, NAME-METHOD.zip; of scorecam and patch-svdd none is made.

    Those that end in -0.5.10.zip are the same models in the format that deepImageJ, ilastik and older versions of
    bioimageio.core open.
    """
    from artseg_models.packages.export import export_run as write_packages

    _settle_maintainer(maintainer)
    exported = write_packages(
        run,
        out or run / "packages",
        name=name,
        version=model_version,
        author=author,
        maintainer=maintainer,
        licence=licence,
    )
    for path in exported.paths:
        console.print(str(path), highlight=False, soft_wrap=True)


def _settle_maintainer(given: str | None) -> None:
    """Remember who was named; ask where nothing was ever said and a person is there to answer."""
    from artseg_models.packages.maintainer import known_maintainer, remember_maintainer

    if given is None and (known_maintainer() is not None or not sys.stdin.isatty()):
        return
    while True:
        name = given if given is not None else _asked_maintainer()
        try:
            file = remember_maintainer(name.strip())
            break
        except ArtSegError as error:
            if given is not None:
                raise
            typer.echo(str(error), err=True)
    # not among the paths, which other programs may read
    typer.echo(f"Maintainer of models from this computer: {name.strip() or 'nobody'} ({file})", err=True)


def _asked_maintainer() -> str:
    return str(
        typer.prompt(
            "The Model Zoo wants a GitHub user who answers questions about a model, and warns without one.\n"
            "GitHub user name (Enter: nobody; asked this once)",
            default="",
            show_default=False,
            err=True,
        )
    )


package_app = typer.Typer(no_args_is_help=True, help="Look at a model: where it comes from, and whether it is whole.")
app.add_typer(package_app, name="package", rich_help_panel="More")


@package_app.command("info")
def package_info(package: PackagePath) -> None:
    """Show what a package is, and the cutoff, smallest artifact and gate that it states."""
    from artseg_models.packages.read import read_package

    read = read_package(package, any_kind=True)
    origin = "" if read.stated else " (not stated by the package)"
    numbers = {name: value for name, value in read.validation.items() if isinstance(value, int | float)}
    rows = {
        "id": read.id,
        "name": read.name,
        "version": read.version,
        "kind": read.kind,
        "SHA-256": read.sha256,
        "format": read.format_version,
        "weights": ", ".join(read.weights),
        "image size": f"from {read.y.minimum} x {read.x.minimum} pixels, in steps of {read.y.step} x {read.x.step}",
        "cutoff": f"{read.cutoff:g}{origin}",
        "smallest artifact": f"{read.smallest_artifact_px} pixels{origin}",
        "gate": "none" if read.gate_threshold is None else f"{read.gate_threshold:g}",
        **({"kinds": ", ".join(f"{at} {kind}" for at, kind in enumerate(read.kinds, start=1))} if read.kinds else {}),
        "pixel size": "unknown" if read.pixel_size_um is None else f"{read.pixel_size_um:g} um",
        "trained on": read.trained_on,
        "validation": ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()) or "not stated",
        "preprocessing": ", ".join(operation.id for operation in read.preprocessing) or "none",
        "postprocessing": ", ".join(operation.id for operation in read.postprocessing) or "none",
        "authors": ", ".join(read.authors),
        "licence": read.licence,
        "cite": "; ".join(citation.doi or citation.text for citation in read.cite),
        "description": read.description,
    }
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for row, value in rows.items():
        table.add_row(row, escape(value))
    console.print(table, highlight=False)


@package_app.command("check")
def package_check(
    packages: Annotated[list[Path], typer.Argument(help="Packages: zip files or folders.")],
    trust: Annotated[
        bool, typer.Option("--trust", help="Also test the state dict, which runs the package's own Python.")
    ] = False,
) -> None:
    """Say which programs open packages and why not, and test them with the Model Zoo's own reader.

    Whether a program opens one follows from rules, each with its source; only what the second table names was run:
    the Zoo's checks of description and files, and of each weight format against the test output.
    Exits with 1 when ArtSeg does not open one or the Zoo's test of one fails.
    """
    from artseg_models.packages.check import check_package

    failed = False
    for package in packages:
        if len(packages) > 1:
            console.rule(str(package), align="left")
        found = check_package(package, trust=trust)
        _show_check(found)
        failed = failed or found.failed
    if failed:
        raise typer.Exit(1)


def _show_check(found: Check) -> None:
    if found.consumers:
        programs = Table("program", "opens it", "why not, or what to know", "rule from")
        for verdict in found.consumers:
            opens = "[green]yes[/]" if verdict.opens else "[red]no[/]"
            reasons, sources = (escape("; ".join(texts)) for texts in (verdict.reasons, verdict.sources))
            programs.add_row(verdict.consumer, opens, reasons, sources)
        console.print(programs, highlight=False)
    table = Table("tried here", "outcome", "detail")
    colours = {"passed": "green", "failed": "red", "not run": "yellow"}
    for finding in found.findings:
        table.add_row(finding.what, f"[{colours[finding.outcome]}]{finding.outcome}[/]", escape(finding.detail))
    console.print(table, highlight=False)


@package_app.command("precisions")
def package_precisions(
    package: PackagePath,
    images: Annotated[
        list[Path] | None, typer.Argument(help="Images to compare on; the package's sample image if none are given.")
    ] = None,
) -> None:
    """Measure what bf16 and int8 would change in a package's map and mask, against ONNX Runtime in fp32.

    bf16 is PyTorch's autocast, int8 ONNX Runtime's static quantisation with ranges from the package's sample image.
    ArtSeg itself computes in fp32: this says what another program, or a faster setting, would cost.
    A pixel of the mask changes where its probability comes to lie on the other side of the cutoff.
    """
    from artseg_models.packages.precisions import measure_precisions

    table = Table("precision", "largest difference", "mean difference", "mask pixels changed", "of all", "of the mask")
    found = measure_precisions(package, images or [])
    for effect in found:
        of_mask = f"{effect.changed_px / effect.artifact_px:.3%}" if effect.artifact_px else "no mask"
        table.add_row(
            effect.precision,
            f"{effect.largest:.2g}",
            f"{effect.mean:.2g}",
            str(effect.changed_px),
            f"{effect.changed_px / effect.image_px:.4%}",
            of_mask,
        )
    console.print(table, highlight=False)
    console.print(f"{found[0].image_px} pixels, {found[0].artifact_px} of them in the mask of fp32", highlight=False)


@package_app.command("review")
def package_review(
    package: PackagePath,
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="New folder for the draft.")],
    trust: Annotated[
        bool, typer.Option("--trust", help="Also test the state dict, which runs the package's own Python.")
    ] = False,
) -> None:
    """Prepare a draft for the BioImage Model Zoo and list what its reviewers would still ask for.

    Give the package in format 0.5.10, which the Zoo's servers read. Nothing is uploaded: the draft is a folder with the
    files, the zip and REVIEW.md.
    """
    from artseg_models.packages.review import prepare_review

    review = prepare_review(package, out, trust=trust)
    table = Table("reviewers ask for", "state", "found, or what to do")
    colours = {"met": "green", "missing": "red", "yours to check": "yellow"}
    for point in [point for point in review.points if point.state != "met"]:
        table.add_row(escape(point.asked), f"[{colours[point.state]}]{point.state}[/]", escape(point.detail))
    console.print(table, highlight=False)
    counted = f"{len(review.missing)} of {len(review.points)} are missing"
    console.print(
        f"{counted}; all stand in {review.folder / 'REVIEW.md'}. To upload, once it is whole: {review.archive}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
