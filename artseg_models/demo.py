"""The whole chain on simulated images: labels, training, packages, CellProfiler with and without masks, a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from artseg_models import __version__
from artseg_models.files import read_json
from artseg_models.steps import Progress, Step

Size = Literal["tiny", "standard"]


@dataclass(frozen=True)
class Scale:
    """How much is simulated, and how the model is trained.

    Attributes
    ----------
    fields : int
        Training fields of view.
    side : int
        Height and width of a field in pixels.
    scored : int
        Fields to score a model with that was given.
    wells, fields_per_well : int
        The plate.
    overrides : mapping
        Changes of the preset `quick`.
    """

    fields: int
    side: int
    scored: int
    wells: int
    fields_per_well: int
    overrides: Mapping[str, Any]


SCALES: Mapping[Size, Scale] = {
    "standard": Scale(fields=240, side=512, scored=48, wells=8, fields_per_well=3, overrides={}),
    # shows that everything works, not how well: such a network learns little
    "tiny": Scale(
        fields=32,
        side=160,
        scored=8,
        wells=2,
        fields_per_well=1,
        overrides={
            "binning": 1,
            "classifier": {"depth": 10, "width": 4, "schedule": {"epochs": 2, "batch": 4}},
            "scorecam": {"groups": 4},
            "unet": {"width": 4, "levels": 3, "schedule": {"epochs": 1, "batch": 4}, "crop": 64},
            "cutoff": 0.5,
            "smallest_artifact_px": 20,
        },
    ),
}


def demo(
    out: Path, *, size: Size = "standard", seed: int = 0, model: Path | None = None, say: Callable[[str], None]
) -> Path:
    """Run the demonstration, or go on where it was stopped.

    Parameters
    ----------
    out : Path
        Its folder.
    size : {"tiny", "standard"}
        "standard" takes minutes and shows what masks change; "tiny" only that everything works.
    seed : int
        The same seed gives the same images and the same training.
    model : Path, optional
        Package to use instead of training one.
    say : callable
        Is told what is done and how long it took, a line each.

    Returns
    -------
    Path
        The page, `out`/report.html; beside it lie picture.png and every step's folder.

    Raises
    ------
    ArtSegError
        `out` holds something else, CellProfiler is missing, the model cannot be used, or a step fails; run it again to
        go on.
    """
    from artseg_models.cellprofiler import find_cellprofiler

    find_cellprofiler()  # better said before the training than after it
    settings: dict[str, Any] = {"size": size, "seed": seed, "artseg_version": __version__}
    if model is not None:
        from artseg_models.packages.read import read_package

        settings["model_sha256"] = read_package(model).sha256
    progress = Progress(out / "demo.json", "demonstration", settings)
    progress.run(_steps(out, SCALES[size], size, seed, model, progress), say)
    say(f"Open {out / 'report.html'}")
    return out / "report.html"


def _steps(out: Path, scale: Scale, size: Size, seed: int, model: Path | None, progress: Progress) -> list[Step]:
    training, plate, run, packages = out / "training", out / "plate", out / "runs" / "demo", out / "packages"
    package = packages / "demo-unet.zip" if model is None else model.absolute()
    plugins, evaluation = out / "plugins", out / "evaluation"
    measured = {name: out / "cellprofiler" / name for name in ("no_masking", "artifacts_masked")}
    fields = scale.wells * scale.fields_per_well
    side = f"{scale.side} x {scale.side} pixels"

    def simulate_training() -> object:
        from artseg_models.simulate import simulate_training_set

        fields = scale.fields if model is None else scale.scored
        return simulate_training_set(training, fields=fields, shape=(scale.side, scale.side), seed=seed)

    def train_model() -> object:
        from artseg_models.methods import train

        return train(training / "labels.csv", run, preset="best", seed=seed, overrides=scale.overrides)

    def export() -> object:
        from artseg_models.packages.export import export_packages

        return export_packages(run, packages, name="demo")

    def score() -> object:
        from artseg_models.evaluate import evaluate, write_evaluation
        from artseg_models.labels import read_labels
        from artseg_models.packages.read import read_package
        from artseg_models.predict import Predictor
        from artseg_models.report.montage import write_montage

        predictor = Predictor(read_package(package))
        labels = read_labels(training / "labels.csv")
        # a model that was given has seen none of them
        result = evaluate(predictor, labels.of_split("test") if model is None else labels.images)
        write_montage(predictor, result, evaluation / "overlays.png")
        return write_evaluation(result, evaluation)

    def simulate_measured_plate() -> object:
        from artseg_models.simulate import simulate_plate

        # another seed than the training set, so that the model has not seen these fields
        return simulate_plate(
            plate,
            wells=scale.wells,
            fields_per_well=scale.fields_per_well,
            shape=(scale.side, scale.side),
            seed=seed + 1,
        )

    def install_module() -> object:
        from artseg_models.cellprofiler_install import install

        return install(plugins=plugins)

    def run_cellprofiler(name: str) -> object:
        from artseg_models.cellprofiler import find_pipeline, run_pipeline

        used = package if name == "artifacts_masked" else None
        return run_pipeline(find_pipeline(name), plate, measured[name], package=used, plugins=plugins)

    def show() -> object:
        return _write_page(out, scale, size, seed, model, progress.seconds)

    evaluated = evaluation / "evaluation.json"
    if model is None:
        to_model = [
            Step(
                f"simulate {scale.fields} training fields of {side}, each called clean or artifact",
                training / "labels.csv",
                simulate_training,
            ),
            Step("train the preset best from these labels alone", run / "result.json", train_model),
            Step("export the model as Model Zoo packages and check every weight format", package, export),
            Step("score the model on the test split (masks for scoring only)", evaluated, score),
        ]
    else:
        to_model = [
            Step(f"simulate {scale.scored} fields of {side} to score with", training / "labels.csv", simulate_training),
            Step(f"score {model.name} on them", evaluated, score),
        ]
    return [
        *to_model,
        Step(
            f"simulate a plate of {scale.wells} wells, {fields} fields in three channels",
            plate / "truth.csv",
            simulate_measured_plate,
        ),
        Step("install the module SegmentArtifacts into a plugins folder", plugins, install_module),
        Step(
            "measure nuclei in CellProfiler without artifact masks",
            measured["no_masking"] / "Image.csv",
            lambda: run_cellprofiler("no_masking"),
        ),
        Step(
            "measure nuclei in CellProfiler with artifact masks",
            measured["artifacts_masked"] / "Image.csv",
            lambda: run_cellprofiler("artifacts_masked"),
        ),
        Step("compare both with the simulated truth and write the page", out / "report.html", show),
    ]


def _write_page(
    out: Path, scale: Scale, size: Size, seed: int, given: Path | None, seconds: Mapping[str, float]
) -> None:
    from artseg_models.cellprofiler import cellprofiler_version, find_cellprofiler
    from artseg_models.images import read_image
    from artseg_models.report.comparison import FieldKey, compare, field_name, read_measurements, read_truth
    from artseg_models.report.page import Facts, write_page
    from artseg_models.report.panels import FieldImages
    from artseg_models.report.picture import most_changed, write_picture

    plate, measured = out / "plate", out / "cellprofiler"
    comparison = compare(
        read_truth(plate), read_measurements(measured / "no_masking"), read_measurements(measured / "artifacts_masked")
    )
    model = read_json(out / "evaluation" / "evaluation.json")
    audit = model["audit"]

    def images(key: FieldKey) -> FieldImages:
        brightfield, dna = (
            read_image(plate / f"{field_name(*key)}_{channel}.tiff") for channel in ("brightfield", "dna")
        )
        return FieldImages(brightfield.pixels, dna.pixels)

    facts = Facts(
        simulated=(
            "All images are simulated: cells, nuclei, light, noise and artifacts. "
            + (
                f"{scale.fields} fields of view served for training; the plate was not among them."
                if given is None
                else f"The model was given ({given.name}); {scale.scored} other fields of view served to score it."
            ),
            "Artifacts (such as dust, fibres, bubbles and clumps of dead cells) change all channels: they absorb, "
            "bend light or glow.",
            "Each well has a dose that raises the signal of its cells; so the true value of each measurement is known.",
        ),
        command=f"artseg demo --size {size} --seed {seed}" + ("" if given is None else f" --model {given.name}"),
        steps=tuple((name[0].upper() + name[1:], taken) for name, taken in seconds.items()),
        provenance={
            "Model": audit["model_id"],
            "SHA-256": audit["model_sha256"],
            "Cutoff": f"{audit['cutoff']:.3g}",
            "Smallest artifact": f"{audit['smallest_artifact_px']} px",
            "Gate": "none" if audit["gate_threshold"] is None else f"{audit['gate_threshold']:.3g}",
            "artseg": __version__,
            "CellProfiler": cellprofiler_version(find_cellprofiler()),
            "Seed": str(seed),
            "Size": size,
        },
        model=model,
    )
    shown = most_changed(comparison)
    write_picture(shown, images((shown.truth.well, shown.truth.site)), out / "picture.png")
    write_page(out / "report.html", comparison, images, facts)
