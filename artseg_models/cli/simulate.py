"""`artseg simulate`: images whose artifacts are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from artseg_models.cli.terminal import app, console

simulate_app = typer.Typer(no_args_is_help=True, help="Make images in which every artifact is known, to try things on.")
app.add_typer(simulate_app, name="simulate", rich_help_panel="More")

SimulationFolder = Annotated[Path, typer.Argument(help="Folder to write; made if it is not there.", file_okay=False)]
SimulationSide = Annotated[int, typer.Option(min=32, help="Width and height of a field in pixels.")]
SimulationSeed = Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")]
SimulationFraction = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of fields with artifacts.")]
SimulationOME = Annotated[bool, typer.Option(help="Write each field as one OME-TIFF of three channels too, in ome/.")]


@simulate_app.command("training")
def simulate_training(
    out: SimulationFolder,
    fields: Annotated[int, typer.Option(min=1, help="How many fields of view.")] = 240,
    side: SimulationSide = 512,
    seed: SimulationSeed = 0,
    artifact_fraction: SimulationFraction = 0.5,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Only artifacts of these kinds, such as dust,fibre,bubble; the labels then name the kinds of each "
            "field, and there is a mask for each of them. A name that is not known lists all that are. Default: all, "
            "and none is named."
        ),
    ] = None,
) -> None:
    """Simulate brightfield fields with image-level labels to train from, and their masks to score with."""
    from artseg_models.simulate import simulate_training_set

    labels = simulate_training_set(
        out,
        fields=fields,
        shape=(side, side),
        seed=seed,
        artifact_fraction=artifact_fraction,
        kinds=None if kinds is None else [kind.strip() for kind in kinds.split(",") if kind.strip()],
    )
    console.print(f"{fields} fields, labels in {labels}", highlight=False, markup=False)


@simulate_app.command("plate")
def simulate_a_plate(
    out: SimulationFolder,
    wells: Annotated[int, typer.Option(min=1, max=96, help="How many wells.")] = 8,
    fields_per_well: Annotated[int, typer.Option(min=1, help="How many fields of each well.")] = 2,
    side: SimulationSide = 512,
    seed: SimulationSeed = 0,
    artifact_fraction: SimulationFraction = 0.5,
    ome: SimulationOME = False,
) -> None:
    """Simulate a plate: brightfield, DNA and signal channel, a dose that raises the signal, and the truth."""
    from artseg_models.simulate import simulate_plate

    simulate_plate(
        out,
        wells=wells,
        fields_per_well=fields_per_well,
        shape=(side, side),
        seed=seed,
        artifact_fraction=artifact_fraction,
        ome=ome,
    )
    console.print(f"{wells * fields_per_well} fields in {out}; truth in truth.csv", highlight=False, markup=False)


_FAMILY_HELP = {
    "seven-lines": "1080 x 1080 pixels of 0.59 um, seven cell lines, 350 cells a field; 11.4 % of the fields have "
    "artifacts, of 4,417 pixels on average, from specks to clumps over half of the field",
    "lncap": "2556 x 2156 pixels of 0.325 um, prostate cells, 681 a field; 6.5 % of the fields have artifacts, of "
    "75,933 pixels on average, such as hairs over a tenth of the field",
    "cho-m4r": "1224 x 904 pixels of 0.323 um, live ovary cells; 99.2 % of the fields have artifacts, a dozen each, of "
    "3,450 pixels on average",
}

FamilyFields = Annotated[int, typer.Option(min=1, help="How many fields of view.")]
FamilyScale = Annotated[
    float,
    typer.Option(
        min=0.01, max=1, help="Size of the images: 1 is the microscope's, 0.25 takes a sixteenth of the time."
    ),
]
FamilyPrevalence = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Share of fields with artifacts; 0.5 gives as many clean ones. Default: the paper's."
    ),
]
FamilyFluorescence = Annotated[
    bool, typer.Option(help="Write the DNA and signal channels and the label maps of nuclei and cells too.")
]


def _add_family(name: Literal["seven-lines", "lncap", "cho-m4r"]) -> None:
    def command(
        out: SimulationFolder,
        fields: FamilyFields = 200,
        seed: SimulationSeed = 0,
        scale: FamilyScale = 1.0,
        prevalence: FamilyPrevalence = None,
        fluorescence: FamilyFluorescence = False,
    ) -> None:
        from artseg_models.simulate import simulate_family

        labels = simulate_family(
            out, name, fields=fields, seed=seed, scale=scale, prevalence=prevalence, fluorescence=fluorescence
        )
        console.print(f"{fields} fields, labels in {labels}", highlight=False, markup=False)

    command.__doc__ = (
        f"Simulate fields like the paper's: {_FAMILY_HELP[name]}.\n\nWritten are images, masks and labels.csv with "
        "image, label, split, group (a well), mask, kinds and areas of the artifacts, and cell line."
    )
    simulate_app.command(name)(command)


for _name in ("seven-lines", "lncap", "cho-m4r"):
    _add_family(_name)


@simulate_app.command("assay")
def simulate_an_assay(
    out: SimulationFolder,
    seed: SimulationSeed = 0,
    scale: FamilyScale = 0.5,
    compound: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this compound, repeatable: pirenzepine (2 experiments), atropine (3), arecholine (1), "
            "UNSW-MK259 (3), UR-SK75 (1). Default: all ten experiments."
        ),
    ] = None,
    fields_per_well: Annotated[int, typer.Option(min=1, help="How many fields of each well.")] = 4,
    artifact_fraction: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of fields with artifacts. Default: 0.992.")
    ] = None,
    well_spread: Annotated[
        float,
        typer.Option(min=0.0, max=0.9, help="How much wells of one concentration differ, as a share (one SD)."),
    ] = 0.06,
    ome: SimulationOME = False,
) -> None:
    """Simulate the paper's ten ligand displacement experiments on 96-well plates, with known log IC50.

    Each experiment has twelve concentrations (none, and eleven half-logarithmic steps) in duplicate, beside 2 nM of a
    labelled ligand whose light on the cells falls along a Hill curve of slope -1. Images are like those of CHO-M4R:
    1224 x 904 pixels of 0.323 um, times --scale. What artifacts do to the intensities follows from their light.

    Then: artseg impact affinity OUT/layout.csv --images OUT --cells OUT --masks manual=OUT --out impact
    """
    from artseg_models.simulate import simulate_assay

    layout = simulate_assay(
        out,
        seed=seed,
        scale=scale,
        compounds=compound,
        fields_per_well=fields_per_well,
        artifact_fraction=artifact_fraction,
        well_spread=well_spread,
        ome=ome,
    )
    console.print(f"Layout and truth in {layout}", highlight=False, markup=False)


@simulate_app.command("compare")
def compare(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A real brightfield image.")],
    pixel_size: Annotated[float, typer.Option(min=0.01, help="Side of its pixels in micrometres.")],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="The figure to write, a PNG file.")],
    cells: Annotated[
        float | None, typer.Option(min=0, help="Cells per 512 x 512 pixels of 0.6 um to simulate; drawn without it.")
    ] = None,
    artifact: Annotated[bool, typer.Option(help="Whether to simulate artifacts too.")] = True,
    seed: SimulationSeed = 0,
) -> None:
    """Say how far simulated brightfield is from a real image: grey values, power spectrum, pictures side by side."""
    from artseg_models.images import read_image
    from artseg_models.report.drawing import save_figure
    from artseg_models.simulate.realism import compare_with_real, realism_figure

    found = compare_with_real(
        read_image(image).pixels, pixel_size_um=pixel_size, artifact=artifact, cells=cells, seed=seed
    )
    save_figure(realism_figure(found, name=image.name), out)
    console.print(
        f"Grey values {found.histogram_distance:.2f} standard deviations of the real image apart, contrast "
        f"{found.contrast_ratio:.2f} times the real one, power spectrum {found.spectrum_distance:.1f} dB apart. "
        f"Picture: {out}",
        highlight=False,
    )
