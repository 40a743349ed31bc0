"""`artseg segment`: masks of files and folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artseg_models.cli.terminal import DEVICE_HELP, ENGINE_HELP, Device, Engine, app, console, reason_of
from artseg_models.errors import ArtSegError

if TYPE_CHECKING:
    from artseg_models.packages.read import Package


#: images unlike the training images that are named; the table has all
_MOST_LISTED = 10


@app.command(rich_help_panel="Main job")
def segment(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            "-m",
            help="The model: NAME-unet.zip of a training, another package of the BioImage Model Zoo, or the run folder "
            "of a training by whatever method.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks, maps and segmentation.csv.")],
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = "auto",
    engine: Annotated[Engine | None, typer.Option(help=ENGINE_HELP, show_default=False)] = None,
    cutoff: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Pixels from this probability on are artifact; lower finds more. Default: as the model says.",
        ),
    ] = None,
    smallest_artifact: Annotated[
        int | None, typer.Option(min=0, help="Drop artifacts with fewer pixels. Default: as the model says.")
    ] = None,
    smallest_artifact_um2: Annotated[
        float | None, typer.Option(min=0, help="The same as an area in um2; needs the images' pixel size.")
    ] = None,
    gate_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Image probability below which an image is clean. Default: as the model says."),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Whether the classifier may call a whole image clean.")
    ] = True,
    plane: Annotated[int | None, typer.Option(min=0, help="Which plane of files with several, counted from 0.")] = None,
    pixel_size: Annotated[
        float | None, typer.Option(min=0, help="Side of a pixel in um, instead of what the files say.")
    ] = None,
    overlay: Annotated[
        bool,
        typer.Option("--overlay", help="Also write pictures with the artifacts outlined, each kind in its colour."),
    ] = False,
    geojson: Annotated[bool, typer.Option("--geojson", help="Also write outlines that QuPath opens.")] = False,
    fill: Annotated[
        bool,
        typer.Option("--fill", help="Also write the images with artifacts replaced by background, for showing."),
    ] = False,
    fill_margin: Annotated[int, typer.Option(min=0, help="With --fill: pixels around each artifact to replace.")] = 0,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run a package that has only a PyTorch state dict. That runs its author's Python on this computer "
            "with all your rights: only for authors whom you know. The SHA-256 of what runs is shown.",
        ),
    ] = False,
) -> None:
    """Write an artifact mask and a probability map for every image, and one table for all.

    NAME_artifacts.tif holds 255 on artifacts and 0 elsewhere, NAME_probability.tif the probability of artifact, 0 to 1,
    and segmentation.csv one row for each image: verdict, area fraction, number of artifacts, and how unlike the
    model's training images it looks: a warning says where that is much. A file that cannot be used is listed there and
    at the end; the others are done. Every file says which model made it.

    The model may be any package of the BioImage Model Zoo that takes one grey image and gives one map or mask. Those
    of others state no cutoff: 0.5 is taken, and every artifact kept, unless you give --cutoff and --smallest-artifact.

    A model that tells kinds of artifact apart also gives NAME_kinds.tif: on artifacts 1, 2, ... for its kinds, whose
    names stand in the file's metadata. The table counts the artifacts of each kind then and has the classifier's
    probability of each; overlays draw each kind in a colour of its own, and GeoJSON classifies by kind.

    A package of nuclei or cells (artseg impact train) gives NAME_nuclei.tif or NAME_cells.tif instead, a label map.

    With --fill, NAME_filled.tif is the image with artifacts replaced by a smooth background with noise. It is a picture
    to show: cells under the artifacts are gone, so measure in the original with the mask.
    """
    if smallest_artifact is not None and smallest_artifact_um2 is not None:
        raise typer.BadParameter("give --smallest-artifact or --smallest-artifact-um2, not both")
    from artseg_models.fill import FillSettings
    from artseg_models.methods.predictor import open_model
    from artseg_models.packages.read import read_package
    from artseg_models.segment import images_of, segment_images

    if trust:
        _tell_what_is_trusted(read_package(model))
    done = segment_images(
        open_model(model, device=device, engine=engine, trust=trust),
        images_of(images),
        out,
        cutoff=cutoff,
        smallest_artifact_px=smallest_artifact,
        smallest_artifact_um2=smallest_artifact_um2,
        gate=gate,
        gate_threshold=gate_threshold,
        plane=plane,
        pixel_size_um=pixel_size,
        overlay=overlay,
        geojson=geojson,
        filled=FillSettings(margin=fill_margin) if fill else None,
    )
    console.print(f"{done.done} images segmented; table: {done.table}")
    if done.unlike:
        listed = "\n".join(f"  {path}: {distance:.1f}" for path, distance in done.unlike[:_MOST_LISTED])
        more = len(done.unlike) - _MOST_LISTED
        console.print(
            f"{len(done.unlike)} of {done.done} images look unlike what the model was trained on (column unlike of the "
            f"table; images of the same kind are at about 1). Look at their masks before you use them:\n{listed}"
            + (f"\n  and {more} more" if more > 0 else ""),
            highlight=False,
            soft_wrap=True,
        )
    if done.failed:
        listed = "\n".join(f"  {reason_of(path, reason)}" for path, reason in done.failed)
        raise ArtSegError(
            f"{len(done.failed)} of {done.done + len(done.failed)} images could not be segmented:\n{listed}"
        )


def _tell_what_is_trusted(package: Package) -> None:
    """Name the Python that --trust lets run, to the bit."""
    from artseg_models.files import sha256

    architecture = package.architecture
    if architecture is None:
        raise ArtSegError(f"{package.path} has no state dict, so there is nothing to trust. Leave --trust out.")
    if architecture.file is None:
        console.print(f"Trusted if needed: the installed library {architecture.library}", highlight=False)
    else:
        console.print(
            f"Trusted if needed: {architecture.file.name}, SHA-256 {sha256(architecture.file)}",
            highlight=False,
            soft_wrap=True,
        )
    weights = package.weights["pytorch_state_dict"]
    console.print(f"with {weights.name}, SHA-256 {sha256(weights)}", highlight=False, soft_wrap=True)
    console.print(f"of {package.path}, SHA-256 {package.sha256}", highlight=False, soft_wrap=True)
