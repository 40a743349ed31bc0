"""`artseg benchmark`: measure on this computer what the README states of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from artseg_models.cli.terminal import DEVICE_HELP, Device, app, console

benchmark_app = typer.Typer(no_args_is_help=True, help="Measure speed and memory on this computer.")
app.add_typer(benchmark_app, name="benchmark", rich_help_panel="More")


@benchmark_app.callback()
def benchmark() -> None:
    """Measure speed and memory on this computer."""


@benchmark_app.command("service")
def benchmark_service(
    model: Annotated[Path, typer.Argument(exists=True, help="A model package: zip file or folder.")],
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = "auto",
    images: Annotated[int, typer.Option(min=4, help="Images for each median of the detour.")] = 20,
    side: Annotated[int, typer.Option(min=64, help="Height and width of the simulated fields, in pixels.")] = 1080,
    cellprofiler: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Also time the module inside this CellProfiler; repeat for several."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Measure what CellProfiler's way to the network costs: start, detour, memory and throughput of the service.

    The service is one of its own, with the client that runs inside CellProfiler. Sides that are compared take turns.
    With --cellprofiler a pipeline runs there without its window, and the module itself is timed: the network, the way
    there and back, masks, objects and measurements; reading the image file is not in it.
    """
    from artseg_models.benchmark.module import benchmark_module
    from artseg_models.benchmark.service import benchmark_service as measure
    from artseg_models.files import write_json

    found = measure(model, device=device, images=images, shape=(side, side))
    console.print(
        f"{found.model} on {found.device}, {images} simulated images of {side} x {side} pixels", highlight=False
    )
    table = Table.grid(padding=(0, 2))
    for row, value in (
        ("first image, service not running", f"{found.first_seconds:.1f} s"),
        ("prediction in the own process", f"{1000 * found.inside_seconds:.0f} ms"),
        ("the same through the service", f"{1000 * found.client_seconds:.0f} ms"),
        ("of that, in the network", f"{1000 * found.network_seconds:.0f} ms"),
        ("service over own process", f"{found.ratio:.3f}"),
        ("the same in processor time", f"{found.processor_ratio:.3f}"),
    ):
        table.add_row(row, value)
    console.print(table, highlight=False)
    crowds = Table("clients at a time", "images/s", "relative to one", "memory of the service")
    for crowd in found.crowds:
        crowds.add_row(
            str(crowd.clients),
            f"{crowd.images_per_second:.2f}",
            f"{crowd.relative:.2f}",
            f"{crowd.resident_mib:.0f} MiB",
        )
    console.print(crowds, highlight=False)
    modules = [
        benchmark_module(model, [program], device=device, images=images, shape=(side, side))
        for program in cellprofiler or ()
    ]
    if modules:
        inside = Table("CellProfiler", "engine", "first image", "own process", "module", "of that, network", "ratio")
        for module in modules:
            inside.add_row(
                module.cellprofiler,
                module.engine,
                f"{module.first_seconds:.1f} s",
                f"{1000 * module.inside_seconds:.0f} ms",
                f"{1000 * module.module_seconds:.0f} ms",
                f"{1000 * module.network_seconds:.0f} ms",
                f"{module.ratio:.3f}",
            )
        console.print(inside, highlight=False)
    if out is not None:
        write_json(out, found.fields() | {"inside_cellprofiler": [module.fields() for module in modules]})
        console.print(f"Wrote {out}", highlight=False, soft_wrap=True)


@benchmark_app.command("methods")
def benchmark_methods(
    side: Annotated[int, typer.Option(min=64, help="Height and width of an image, in pixels; a multiple of 16.")] = 256,
    images: Annotated[
        list[int] | None, typer.Option(min=2, help="Numbers of clean images for PaDiM; repeat. Default: 50 and 500.")
    ] = None,
) -> None:
    """Measure Patch SVDD's pass over all patches against one by one, and PaDiM's time and memory by the images.

    Where anomalib is installed, its PaDiM is measured beside ours: features of the same ResNet18 for the same images, a
    Gaussian for each position, each in a process of its own.
    """
    from artseg_models.benchmark.methods import measure_dense_pass, measure_padim, padim_peak_mib, padim_programs

    found = measure_dense_pass(side=side)
    console.print(
        f"Patch SVDD, {side} x {side} pixels: all patches in one pass {found.dense_seconds:.3f} s, one by one "
        f"{found.patchwise_seconds:.3f} s: {found.faster:.1f} times as fast; largest difference "
        f"{found.largest_difference:.1e}",
        highlight=False,
    )
    table = Table("clean images", "peak memory of a whole PaDiM fit")
    for count in images or [50, 500]:
        table.add_row(str(count), f"{padim_peak_mib(count, side=side):.0f} MiB")
    console.print(table, highlight=False)
    programs = Table("PaDiM alone", "clean images", "fit", "an image", "peak memory")
    for count in images or [50, 500]:
        for program in padim_programs():
            cost = measure_padim(program, count, side=side)
            programs.add_row(
                cost.program,
                str(cost.images),
                f"{cost.fit_seconds:.1f} s",
                f"{1000 * cost.predict_seconds:.0f} ms",
                f"{cost.peak_mib:.0f} MiB",
            )
    console.print(programs, highlight=False)


@benchmark_app.command("prediction")
def benchmark_prediction(
    model: Annotated[Path, typer.Argument(exists=True, help="A model package: zip file or folder.")],
    side: Annotated[int, typer.Option(min=64, help="Height and width of the images, in pixels.")] = 1080,
    rounds: Annotated[int, typer.Option(min=1, help="How often each engine runs; the fastest counts.")] = 3,
    areas: Annotated[
        list[int] | None,
        typer.Option(
            "--area", min=1, help="Also images of so many times the area: 1, 4, 16, 64; repeat. Default: 1, 4, 16."
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="Image files for the way from file to mask.")] = 10,
    counts: Annotated[
        list[int] | None,
        typer.Option("--count", min=1, help="Also so many files of 256 x 256 pixels; repeat. Default: 10, 100, 1000."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Compare engines on this processor, and measure how time and memory grow with area and number of images.

    Engines take turns on the same image, so their ratios hold even on a busy computer. The first engine is PyTorch in
    fp32 as it comes. Images are noise: time does not depend on what they show. bioimageio.core runs the same package
    beside; where cellpose 3 is installed, so does its network, for what an image costs elsewhere in a pipeline.
    """
    from artseg_models.benchmark.prediction import (
        compare_engines,
        compare_with_core,
        measure_cellpose,
        measure_counts,
        measure_from_file_to_mask,
        measure_growth,
    )
    from artseg_models.files import write_json

    chosen, times = compare_engines(model, side=side, rounds=rounds)
    table = Table("engine", f"{side} x {side} pixels", "against torch", "")
    for found in times:
        timed = found.seconds < float("inf")
        table.add_row(
            found.engine,
            f"{1000 * found.seconds:.0f} ms" if timed else "",
            f"{times[0].seconds / found.seconds:.1f}x" if timed and times[0].refused is None else "",
            f"not used: {found.refused}" if found.refused else "taken by auto" if found.engine == chosen else "",
        )
    console.print(table, highlight=False)
    grown = measure_growth(model, areas or [1, 4, 16], side=side)
    sizes = Table("image", "seconds", "megapixels a second", "peak memory", "tiles")
    for growth in grown:
        sizes.add_row(
            f"{growth.side} x {growth.side}",
            f"{growth.seconds:.2f}",
            f"{growth.megapixels_per_second:.2f}",
            f"{growth.peak_mib:.0f} MiB",
            str(growth.tiles),
        )
    console.print(sizes, highlight=False)
    whole = measure_from_file_to_mask(model, images=images, side=side)
    console.print(
        f"From {whole.images} files to masks: {whole.seconds:.2f} s; the network alone {whole.network_seconds:.2f} s: "
        f"{100 * whole.share:.0f} % of its throughput",
        highlight=False,
    )
    numbers = measure_counts(model, counts or [10, 100, 1000])
    files = Table("image files of 256 x 256 pixels", "seconds an image", "peak memory")
    for number in numbers:
        files.add_row(str(number.images), f"{number.seconds_each:.3f}", f"{number.peak_mib:.0f} MiB")
    console.print(files, highlight=False)
    beside = compare_with_core(model, side=side, rounds=rounds)
    console.print(
        f"bioimageio.core on the same package and image: {1000 * beside.core_seconds:.0f} ms; ArtSeg with "
        f"{beside.engine}: {1000 * beside.seconds:.0f} ms, {beside.core_seconds / beside.seconds:.1f} times as fast; "
        f"largest difference {beside.largest_difference:.1e}",
        highlight=False,
    )
    cellpose = measure_cellpose(side=side)
    if cellpose is not None:
        console.print(
            f"cellpose's network on an image of this size: {cellpose:.2f} s, {cellpose / beside.seconds:.0f} times "
            "what ArtSeg takes",
            highlight=False,
        )
    if out is not None:
        write_json(
            out,
            {
                "engine": chosen,
                "engines": {found.engine: found.seconds for found in times if found.refused is None},
                "growth": [vars(growth) for growth in grown],
                "from_file_to_mask": vars(whole),
                "counts": [vars(number) for number in numbers],
                "bioimageio_core": vars(beside),
                **({} if cellpose is None else {"cellpose_seconds": cellpose}),
            },
        )
        console.print(f"Wrote {out}", highlight=False, soft_wrap=True)


@benchmark_app.command("scorecam")
def benchmark_scorecam(
    run: Annotated[
        Path | None,
        typer.Argument(exists=True, file_okay=False, help="Run folder of a training; without it: untrained ResNet50."),
    ] = None,
    labels: Annotated[Path | None, typer.Argument(exists=True, help="Labels whose validation images are used.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Artifact images.")] = 3,
    side: Annotated[int, typer.Option(min=32, help="Height and width of what is used of them, binned pixels.")] = 128,
    layer: Annotated[int, typer.Option(min=1, max=4, help="The layer whose activation maps are used.")] = 4,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Compare modes and engines of ScoreCAM with one another, and with grad-cam and torchcam where they are installed.

    Each way runs in a process of its own, on the same network and images. Likeness to the exact maps means something
    with a trained classifier only: name a run and its labels.
    """
    from artseg_models.benchmark.scorecam import benchmark_scorecam as measure
    from artseg_models.files import write_json

    found = measure(run, labels, images=images, side=side, layer=layer)
    seconds = {one.way.name: one.seconds for one in found if one.refused is None}
    (exact,) = (one for one in found if one.way.name == "exact, torch")
    peers = [name for name in ("grad-cam", "torchcam") if name in seconds]
    references = peers or [exact.way.name]
    likeness = ("r", "least\nr", "IoU") if run is not None else ()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("ScoreCAM", no_wrap=True)
    for name in ("s", *(name.replace(", ", ",\n") for name in references), "MiB", *likeness):
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[dict[str, object]] = []
    for one in found:
        if one.refused is not None:
            table.add_row(f"{one.way.name}: {one.refused}")
            continue
        ratios = [seconds[name] / one.seconds for name in references]
        mean, smallest = one.correlation(exact)
        alike = [f"{value:.3f}" for value in (mean, smallest, one.iou(exact))] if run is not None else []
        table.add_row(
            one.way.name,
            f"{one.seconds:.2f}",
            *(f"{ratio:.1f}" for ratio in ratios),
            f"{one.more_mib:+.0f}",
            *alike,
        )
        row: dict[str, object] = {"way": one.way.name, "seconds": one.seconds, "more_mib": one.more_mib}
        row |= {f"times_{name}": ratio for name, ratio in zip(references, ratios, strict=True)}
        if run is not None:
            row |= {"correlation": mean, "smallest": smallest, "iou": one.iou(exact)}
        rows.append(row)
    console.print(table, highlight=False)
    console.print(
        f"s: seconds an image; {', '.join(references)}: so many times as fast as these; MiB: more memory at most"
        + ("; r: correlation with the exact map; IoU of pseudo-labels with those of it" if run is not None else ""),
        highlight=False,
    )
    if out is not None:
        write_json(out, {"ways": rows})
        console.print(f"Wrote {out}", highlight=False, soft_wrap=True)


@benchmark_app.command("training")
def benchmark_training(
    images: Annotated[int, typer.Option(min=20, help="Simulated fields to train on.")] = 500,
    side: Annotated[int, typer.Option(min=64, help="Height and width of a field, in pixels.")] = 1080,
    preset: Annotated[str, typer.Option(help="quick, best or paper, as of `artseg train`.")] = "quick",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; repeat for more.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Train on simulated fields, to know what a training takes here and whether its networks wait for images."""
    from artseg_models.benchmark.training import benchmark_training as measure
    from artseg_models.files import write_json

    found = measure(images=images, side=side, preset=preset, changes=tuple(changes or ()))
    table = Table("stage", "minutes", "waiting for images")
    for name, seconds in found.network_seconds.items():
        table.add_row(name.replace("_", " "), f"{seconds / 60:.1f}", f"{100 * found.waiting[name]:.1f} %")
    rest = found.seconds - sum(found.network_seconds.values())
    table.add_row("reading, ScoreCAM, validation", f"{rest / 60:.1f}", "")
    table.add_row("all", f"{found.seconds / 60:.1f}", "")
    console.print(table, highlight=False)
    console.print(
        f"{preset} on {found.images} simulated fields of {found.side} x {found.side} pixels; peak memory "
        f"{found.peak_mib:.0f} MiB",
        highlight=False,
    )
    if out is not None:
        write_json(out, vars(found))
        console.print(f"Wrote {out}", highlight=False, soft_wrap=True)
