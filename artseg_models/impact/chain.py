"""The paper's second half on simulated plates, from labels to log IC50, through the real CellProfiler.

One plate teaches: its image-level labels the artifact model, its label maps the networks of nuclei and cell bodies. On
another, a concentration-response assay, CellProfiler measures nuclei and intensities three times: without removal of
artifacts, with the model's masks, and with the true masks. What artifacts change is then read off its tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from artseg_models import __version__
from artseg_models.errors import ArtSegError
from artseg_models.files import write_text
from artseg_models.steps import Progress, Step

Size = Literal["tiny", "standard"]

TREATMENTS: Mapping[str, str] = {
    "true": "affinity_drawn_masks",
    "model": "affinity_artifacts_masked",
    "none": "affinity_no_masking",
}
"""How artifacts are dealt with, and the example pipeline that does so."""

CELL_COLUMN, BACKGROUND_COLUMN = "Intensity_MeanIntensity_SignalInCells", "Intensity_MeanIntensity_SignalBesideCells"
"""What these pipelines measure in the signal channel, over cells and beside them."""

_TINY: Mapping[str, Any] = {
    "binning": 1,
    "classifier": {"depth": 10, "width": 16, "schedule": {"epochs": 2, "batch": 4}},
    "scorecam": {"groups": 4},
    "unet": {"width": 4, "levels": 3, "schedule": {"epochs": 2, "batch": 4}, "crop": 64},
    "cutoff": 0.5,
    "smallest_artifact_px": 20,
}
_SMALL: Mapping[str, Any] = {"width": 8, "schedule": {"epochs": 12}, "crop": 160}
_TINY_STRUCTURE: Mapping[str, Any] = {"unet": {"width": 4, "levels": 3, "schedule": {"epochs": 4}, "crop": 64}}


@dataclass(frozen=True)
class Scale:
    """How much is simulated, and what changes in the preset `best`.

    Attributes
    ----------
    training_fields : int
        Fields of the plate that teaches, two thirds of them with artifacts.
    scale : float
        Size of the images relative to 1224 x 904 pixels.
    overrides, structure_overrides : mapping
        Of the artifact model, and of both networks for nuclei and cells.
    """

    training_fields: int
    scale: float
    overrides: Mapping[str, Any]
    structure_overrides: Mapping[str, Mapping[str, Any]]


SCALES: dict[Size, Scale] = {
    "standard": Scale(
        training_fields=360,
        scale=0.5,
        # networks of a few filters, which learn within minutes on a processor
        overrides={
            "binning": 4,  # a clump fits into a crop
            # an artifact that fills the field leaves cells a fifth of their contrast
            "classifier": {"depth": 10, "width": 16, "augmentation": {"contrast": 0.8}},
            "unet": {"width": 16, "schedule": {"epochs": 16}, "crop": 128, "augmentation": {"contrast": 0.8}},
        },
        structure_overrides={"nuclei": {"unet": _SMALL}, "cells": {"binning": 2, "unet": _SMALL}},
    ),
    # shows that everything works, not how well: such networks learn little
    "tiny": Scale(
        training_fields=24,
        scale=0.2,
        overrides=_TINY,
        structure_overrides={"nuclei": _TINY_STRUCTURE, "cells": _TINY_STRUCTURE},
    ),
}


@dataclass(frozen=True)
class Goal:
    """One figure of the chain beside what was aimed at.

    Attributes
    ----------
    name : str
        What it is.
    found, wanted : float
        The figure and its bound.
    at_most : bool
        Whether the bound is an upper one.
    paper : float
        The paper's figure, of other images; NaN where it has none.
    """

    name: str
    found: float
    wanted: float
    at_most: bool
    paper: float

    @property
    def met(self) -> bool:
        """Whether the figure keeps the bound."""
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted


def run_chain(
    out: Path,
    *,
    size: Size = "standard",
    seed: int = 0,
    compounds: Sequence[str] | None = None,
    fields_per_well: int = 1,
    models: Path | None = None,
    say: Callable[[str], None],
) -> Path:
    """Run the chain, or go on where it was stopped.

    Parameters
    ----------
    out : Path
        Its folder: gets `training/`, `runs/`, `packages/`, `assay/`, `cellprofiler/` (a folder a treatment and plate),
        `nuclei/` (from the stain), `nuclei_brightfield/` (from the network), `affinity/`, `affinity_true_cells/`,
        and `goals.csv`.
    size : {"standard", "tiny"}
        See `SCALES`.
    seed : int
        The same seed gives the same images and trainings; the plate that teaches has another one.
    compounds : sequence of str, optional
        Experiments of these only; all ten by default.
    fields_per_well : int
        How many fields of each well.
    models : Path, optional
        `packages/` of an earlier chain of the same size: nothing is trained then.
    say : callable
        Is told what is done and how long it took, a line each.

    Returns
    -------
    Path
        goals.csv.

    Raises
    ------
    ArtSegError
        `out` holds something else, CellProfiler is missing, or a step fails; run it again to go on.
    """
    from artseg_models.cellprofiler import find_cellprofiler
    from artseg_models.simulate import paper_experiments

    find_cellprofiler()  # better said before the training than after it
    experiments = paper_experiments(seed, compounds)
    settings: dict[str, Any] = {
        "size": size,
        "seed": seed,
        "compounds": sorted({one.compound for one in experiments}),
        "fields_per_well": fields_per_well,
        "models": None if models is None else str(models.resolve()),
    }
    wells = 2 * sum(len(one.concentrations) for one in experiments)
    plates = [f"plate{number + 1}" for number in range(-(-wells // 96))]
    progress = Progress(out / "chain.json", "chain", {**settings, "artseg_version": __version__})
    packages = models or out / "packages"
    steps: list[Step] = []
    if models is None:
        steps += _training_steps(out, SCALES[size], seed)
    steps += _measuring_steps(out, SCALES[size], seed, packages, compounds, fields_per_well, plates)
    progress.run(steps, say)
    return out / "goals.csv"


def model_paths(packages: Path) -> dict[str, Path]:
    """Give the packages of a chain by what they find."""
    return {
        name: packages / f"chain-{kind}.zip"
        for name, kind in (("artifacts", "unet"), ("nuclei", "nuclei"), ("cells", "cells"))
    }


def _training_steps(out: Path, scale: Scale, seed: int) -> list[Step]:
    training, runs, packages = out / "training", out / "runs", out / "packages"
    labels = training / "labels.csv"

    def simulate() -> object:
        from artseg_models.simulate import simulate_family

        return simulate_family(
            training,
            "cho-m4r",
            fields=scale.training_fields,
            seed=seed + 100,
            scale=scale.scale,
            prevalence=2 / 3,
            fluorescence=True,
            alike=False,  # the same world as the assay's
        )

    def train_model() -> object:
        from artseg_models.methods import train

        return train(labels, runs / "model", preset="best", seed=seed, overrides=scale.overrides)

    def export_model() -> object:
        from artseg_models.packages.export import export_packages

        return export_packages(runs / "model", packages, name="chain")

    def learn(structure: Literal["nuclei", "cells"]) -> object:
        from artseg_models.packages.structures import export_structure
        from artseg_models.training.structures import train_structure

        run = train_structure(
            labels,
            training / structure,
            runs / structure,
            structure=structure,
            seed=seed,
            overrides=scale.structure_overrides[structure],
        )
        return export_structure(run, packages, name="chain")

    def score() -> object:
        return write_scores(labels, training, packages, out / "scores.csv")

    paths = model_paths(packages)
    return [
        Step(f"simulate {scale.training_fields} fields to learn from, each called clean or artifact", labels, simulate),
        Step("train the artifact model from these labels alone", runs / "model" / "result.json", train_model),
        Step("export it as Model Zoo packages", paths["artifacts"], export_model),
        Step("train and export a network for cell bodies in brightfield", paths["cells"], lambda: learn("cells")),
        Step("train and export a network for nuclei in brightfield", paths["nuclei"], lambda: learn("nuclei")),
        Step("score all three on the fields of the test split", out / "scores.csv", score),
    ]


def write_scores(labels: Path, label_maps: Path, packages: Path, path: Path) -> None:
    """Score the three models on test fields: the artifact model by masks, the others by label maps beside artifacts.

    Parameters
    ----------
    labels : Path
        labels.csv with the test split and masks.
    label_maps : Path
        Folder with `nuclei/` and `cells/`.
    packages : Path
        Of a chain.
    path : Path
        CSV to write: model, images, image_f1, pixel_f1, pixel_iou, object_f1.
    """
    from artseg_models.evaluate import evaluate
    from artseg_models.impact.structures import score_structure
    from artseg_models.labels import read_labels
    from artseg_models.packages.read import read_package
    from artseg_models.predict import Predictor
    from artseg_models.training.structures import STRUCTURES

    items = read_labels(labels).of_split("test")
    paths = model_paths(packages)
    artifacts = evaluate(Predictor(read_package(paths["artifacts"])), items)
    pixels = artifacts.pixels
    rows: list[dict[str, object]] = [
        {
            "model": "artifacts",
            "images": len(items),
            "image_f1": artifacts.images.f1,
            "pixel_f1": None if pixels is None else pixels.f1,
            "pixel_iou": None if pixels is None else pixels.iou,
            "object_f1": None,
        }
    ]
    for structure in STRUCTURES:
        score = score_structure(paths[structure], labels, label_maps / structure)
        rows.append({"model": structure, **vars(score)})
    write_text(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.4f", lineterminator="\n"))


def _measuring_steps(
    out: Path,
    scale: Scale,
    seed: int,
    packages: Path,
    compounds: Sequence[str] | None,
    fields_per_well: int,
    plates: Sequence[str],
) -> list[Step]:
    assay, measured, plugins = out / "assay", out / "cellprofiler", out / "plugins"
    paths = model_paths(packages)

    def simulate() -> object:
        from artseg_models.simulate import simulate_assay

        return simulate_assay(assay, seed=seed, scale=scale.scale, compounds=compounds, fields_per_well=fields_per_well)

    def install_module() -> object:
        from artseg_models.cellprofiler_install import install

        return install(plugins=plugins)

    def measure(treatment: str, plate: str) -> object:
        from artseg_models.cellprofiler import find_pipeline, run_pipeline

        wanted = {"Cells": paths["cells"]} | ({"Artifacts": paths["artifacts"]} if treatment == "model" else {})
        return run_pipeline(
            find_pipeline(TREATMENTS[treatment]),
            assay / plate,
            measured / treatment / plate,
            package=wanted,
            plugins=plugins,
        )

    def nuclei(folder: Path, *, brightfield: bool) -> object:
        return _score_nuclei(assay, measured, folder, paths["nuclei"] if brightfield else None)

    def affinity() -> object:
        from artseg_models.impact.wells import read_measurements

        return _compare(
            assay,
            out / "affinity",
            {
                name: read_measurements(measured / name, cell=CELL_COLUMN, background=BACKGROUND_COLUMN)
                for name in TREATMENTS
            },
        )

    def affinity_of_true_cells() -> object:
        from artseg_models.impact.wells import measure_images

        return _compare(
            assay,
            out / "affinity_true_cells",
            {
                "true": measure_images(assay, assay, masks=assay),
                "none": measure_images(assay, assay),
            },
        )

    def goals() -> object:
        return write_goals(out)

    names = {"true": "with the true masks", "model": "with the model's masks", "none": "without removal of artifacts"}
    return [
        Step(
            "simulate the concentration-response assay, other fields than those to learn from",
            assay / "layout.csv",
            simulate,
        ),
        Step("install the module SegmentArtifacts into a plugins folder", plugins, install_module),
        *(
            Step(
                f"measure {plate} in CellProfiler {names[treatment]}",
                measured / treatment / plate / "Image.csv",
                lambda treatment=treatment, plate=plate: measure(treatment, plate),
            )
            for treatment in TREATMENTS
            for plate in plates
        ),
        Step(
            "score nuclei that CellProfiler found in the stain",
            out / "nuclei" / "summary.csv",
            lambda: nuclei(out / "nuclei", brightfield=False),
        ),
        Step(
            "score nuclei that the network finds in brightfield",
            out / "nuclei_brightfield" / "summary.csv",
            lambda: nuclei(out / "nuclei_brightfield", brightfield=True),
        ),
        Step("fit the displacement curves", out / "affinity" / "summary.csv", affinity),
        Step(
            "fit them again with the true outlines of cells",
            out / "affinity_true_cells" / "summary.csv",
            affinity_of_true_cells,
        ),
        Step("compare with the goals", out / "goals.csv", goals),
    ]


def _score_nuclei(assay: Path, measured: Path, out: Path, package: Path | None) -> None:
    from artseg_models.impact.nuclei import find_nuclei, score_folders, write_nuclei
    from artseg_models.impact.zooms import write_zooms
    from artseg_models.progress import track

    found, under = measured / "none", {"true": measured / "true", "model": measured / "model"}
    if package is not None:
        from artseg_models.packages.read import read_package
        from artseg_models.predict import Predictor

        found, under = out / "found", {}
        find_nuclei(
            Predictor(read_package(package)),
            assay,
            assay,
            found,
            progress=lambda paths: track(paths, "Finding nuclei", len(paths)),
        )
    scores, _ = score_folders(
        assay,
        found,
        {"true": assay, "model": measured / "model"},
        reference="true",
        measured=under,
        progress=lambda paths: track(paths, "Scoring nuclei", len(paths)),
    )
    write_zooms(scores, out / "zooms.png", images=assay, truth=assay, found=found, artifacts=assay)
    write_nuclei(scores, out)


def _compare(assay: Path, out: Path, measured: Mapping[str, Any]) -> None:
    from artseg_models.impact.affinity import compare_treatments, write_affinity
    from artseg_models.impact.curves import write_curves
    from artseg_models.impact.wells import read_layout

    compared = compare_treatments(read_layout(assay / "layout.csv"), measured, reference="true")
    write_curves(compared, out)
    write_affinity(compared, out)


def read_goals(out: Path) -> list[Goal]:
    """Read what came out of a chain, beside its goals.

    Raises
    ------
    ArtSegError
        The chain is not finished.
    """
    tables: dict[str, pd.DataFrame] = {}
    for name, key in (("nuclei", "area"), ("nuclei_brightfield", "area"), ("affinity", "treatment")):
        path = out / name / "summary.csv"
        if not path.is_file():
            raise ArtSegError(f"Expected {path} of a finished chain, but it is not there. Run the chain to its end.")
        tables[name] = pd.read_csv(path).set_index(key)

    def apart(table: str, column: str, one: str, other: str) -> float:
        values: Any = tables[table][column]
        return abs(float(values[one]) - float(values[other]))

    def affinity(column: str) -> float:
        values: Any = tables["affinity"][column]
        return float(values["model"])

    removed = ("after removal, model", "artifact-free")
    masked = ("measured with masks, model", "measured with masks, true")
    return [
        *(
            Goal(
                f"nuclei, {source}: {score} F1 apart",
                apart(table, f"{score}_f1", *pair),
                0.01,
                True,
                paper,
            )
            for source, table, pair in (
                ("stain", "nuclei", removed),
                ("masked stain", "nuclei", masked),
                ("brightfield", "nuclei_brightfield", removed),
            )
            for score, paper in (("pixel", 0.0), ("object", 0.01))
        ),
        Goal("log IC50 apart, mean", affinity("mean_absolute_log_ic50_difference"), 0.05, True, 0.16),
        Goal("Pearson r of wells", affinity("pearson_r"), 0.99, False, 0.98),
        Goal("R2 apart", apart("affinity", "mean_r2", "model", "true"), 0.01, True, 0.03),
    ]


def write_goals(out: Path) -> None:
    """Write goals.csv: each goal, what was found, whether it was met, and the paper's figure."""
    rows = [
        {
            "goal": one.name,
            "found": one.found,
            "wanted": f"{'at most' if one.at_most else 'at least'} {one.wanted:g}",
            "met": "yes" if one.met else "no",
            "paper": one.paper,
        }
        for one in read_goals(out)
    ]
    write_text(out / "goals.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.4g", lineterminator="\n"))
