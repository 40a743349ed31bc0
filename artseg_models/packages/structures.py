"""Packages of the networks that find nuclei or cell bodies, made like those of artifacts."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from artseg_models import __version__
from artseg_models.backends import TorchBackend
from artseg_models.bundle import cards_folder
from artseg_models.errors import ArtSegError
from artseg_models.files import whole_files
from artseg_models.images import read_image
from artseg_models.networks import unet
from artseg_models.packages.cards import SIMULATED, metrics_table, simulated_texts, stated
from artseg_models.packages.check import check_description, quiet_zoo
from artseg_models.packages.contents import compared_shapes
from artseg_models.packages.draft import (
    TEST_SIDE,
    Draft,
    archive_name,
    around_peak,
    exported_with,
    feature_fields,
    halo_fields,
    image_facts,
    inference_time,
    listed_file,
    probability_of,
    training_fields,
    write_array,
)
from artseg_models.packages.export import pack_folder, slug_of
from artseg_models.packages.formats import OLDER_FORMAT, newest_format
from artseg_models.packages.halo import OVERLAP_PX, halo_effect
from artseg_models.packages.looks import training_features
from artseg_models.packages.maintainer import known_maintainer
from artseg_models.packages.pictures import draw_cover
from artseg_models.packages.rdf import load_yaml
from artseg_models.packages.run import Learning, settings_of
from artseg_models.packages.weights import TOLERANCE, write_weights
from artseg_models.predict import TILE_PX, artifact_objects
from artseg_models.training.structures import read_structure_run

logger = logging.getLogger(__name__)


def export_structure(
    run: Path,
    out: Path,
    *,
    name: str | None = None,
    version: str = "0.1.0",
    author: str = "ArtSeg developers",
    maintainer: str | None = None,
    licence: str = "BSD-3-Clause",
) -> tuple[Path, Path]:
    """Write the package of a network that finds nuclei or cells, in the newest format and in 0.5.10.

    Every weight format is compared with the network before anything is written.

    Parameters
    ----------
    run : Path
        Run folder of `artseg_models.training.structures.train_structure`.
    out : Path
        Folder for the packages; made where missing.
    name : str, optional
        Begins the files' names and ids, which end with nuclei or cells; the run's name by default.
    version, author, maintainer, licence : str
        As in `artseg_models.packages.export.export_packages`.

    Returns
    -------
    tuple of Path
        The package in the newest format, and the one in 0.5.10.

    Raises
    ------
    ArtSegError
        The run is unfinished or damaged, a weight format differs from the network, or a field is not valid.
    """
    network, result = read_structure_run(run)
    structure = str(result["structure"])
    slug = slug_of(name if name is not None else str(result["name"]))
    with tempfile.TemporaryDirectory(prefix="artseg-export-") as temporary:
        folder = Path(temporary)
        named = maintainer if maintainer is not None else known_maintainer()
        draft = _draft(run, network, result, folder, slug, version, author, named or None, licence)
        formats = (newest_format(), OLDER_FORMAT)
        paths = [out / archive_name(slug, structure, format_version) for format_version in formats]
        with whole_files(paths) as unfinished, quiet_zoo():
            for format_version, path in zip(formats, unfinished, strict=True):
                draft.describe(format_version)
                checked = check_description(folder)
                if checked.outcome != "passed":
                    raise ArtSegError(
                        f"The package of {structure} would not be valid in the Model Zoo: {checked.detail}. Nothing "
                        "was written; check the options given."
                    )
                pack_folder(folder, path)
    for path in paths:
        logger.info("Wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return paths[0], paths[1]


def _draft(
    run: Path,
    network: unet.UNet,
    result: Mapping[str, Any],
    folder: Path,
    slug: str,
    version: str,
    author: str,
    maintainer: str | None,
    licence: str,
) -> Draft:
    structure, shape = str(result["structure"]), result["unet"]
    binning = int(shape["binning"])
    pixels = np.asarray(read_image(run / "sample.tiff").pixels)
    probability = probability_of(network, pixels)
    weights = write_weights(
        network,
        folder,
        architecture=[Path(unet.__file__)],
        arguments=shape,
        output="probability",
        output_axes=("batch", "channel", "y", "x"),
        shapes=compared_shapes(binning),
    )
    test_image = around_peak(pixels, probability, max(TEST_SIDE, 48 * binning))
    test_output = probability_of(network, test_image)
    peak = float(test_output.max())
    if not peak >= result["cutoff"]:
        raise ArtSegError(
            f"The network of {run} finds no {structure} in {run / 'sample.tiff'}, so that a reader's test would pass "
            "on anything. Train longer."
        )
    write_array(folder / "test_input.npy", test_image[None, None])
    write_array(folder / "test_output.npy", test_output[None, None])
    tifffile.imwrite(folder / "sample_input.tif", pixels, compression="zlib", metadata=None)
    tifffile.imwrite(folder / "sample_output.tif", probability[None, None], compression="zlib", metadata=None)
    objects = artifact_objects(probability, cutoff=result["cutoff"], smallest_artifact_px=result["smallest_px"])
    draw_cover(folder / "cover.png", pixels, objects > 0)
    sources = cards_folder() / f"artseg-{structure}"
    content = load_yaml(sources / "rdf.yaml")
    minimum_side = 32 * binning
    image, output = content["inputs"][0], content["outputs"][0]
    for axis in image["axes"]:
        if axis["type"] == "space":
            axis["size"] = {"min": minimum_side, "step": 1}
    for tensor, what in ((image, "input"), (output, "output")):
        tensor["test_tensor"] = listed_file(folder / f"test_{what}.npy")
        tensor["sample_tensor"] = listed_file(folder / f"sample_{what}.tif")
    simulated = bool(result.get("simulated"))  # runs before artseg 0.1 do not tell
    settings = settings_of(run / "configuration.json")
    hours = result["seconds"] / 3600
    effect = halo_effect(TorchBackend(network, "cpu"), pixels, binning=binning)
    content["config"]["bioimageio"] |= {
        "model_parameter_count": sum(parameter.numel() for parameter in network.parameters()),
        "training": training_fields(
            Learning.model_validate(settings["unet"]), loss="torch.nn.BCEWithLogitsLoss", hours=hours
        ),
        "environmental_impact": {
            "hours_used": round(hours, 4),
            **({"hardware_type": result["hardware"]} if "hardware" in result else {}),
        },
        "inference_time": inference_time(weights["onnx"].path, pixels),
        "reproducibility_tolerance": [
            {"relative_tolerance": 1e-3, "absolute_tolerance": min(TOLERANCE, float(f"{0.005 * peak:.1g}"))}
        ],
    }
    content["config"]["artseg"] = {
        "target": structure,
        "cutoff": result["cutoff"],
        "smallest_artifact_px": result["smallest_px"],
        "gate_threshold": None,
        "binning": binning,
        "pixel_size_um": result["pixel_size_um"],
        "recommended_tile_px": TILE_PX * binning,
        "recommended_overlap_px": OVERLAP_PX * binning,
        "whole_images_only": False,
        "training": {
            "source": result["source"],
            "simulated": simulated,
            "images": dict(result["counts"]),
            "epochs": result["epochs"],
            "settings": settings,
        },
        "image_features": feature_fields(training_features(run, plane=settings.get("plane"))),
        "sample": image_facts(pixels),
        **({} if effect is None else {"halo_effect": halo_fields(effect)}),
        "validation": dict(result["validation"]),
        "largest_difference": {name: float(f"{file.difference:.2g}") for name, file in weights.items()},
        "weights_bytes": {name: file.path.stat().st_size for name, file in weights.items()},
        "artseg_version": __version__,
        "exported_with": exported_with(),
    }
    if simulated:
        content["description"] += SIMULATED
    prefix = slug if slug.startswith("artseg") else f"artseg-{slug}"
    finished = datetime.fromtimestamp((run / "result.json").stat().st_mtime, UTC)
    content |= {
        "name": f"{content['name']} ({slug})",
        "id": f"{prefix}-{structure}",
        "version": version,
        "authors": [{"name": author}],
        "packaged_by": [{"name": author}],
        "license": licence,
        "attachments": [],
        "links": [],
        "timestamp": finished.isoformat(timespec="seconds"),
        "version_comment": f"Exported by artseg {__version__} from the run '{result['name']}'.",
        "weights": {name: {**file.entry, "authors": [{"name": author}]} for name, file in weights.items()},
    }
    if maintainer is not None:
        content["maintainers"] = [{"github_user": maintainer}]
    fields = {
        "name": content["name"],
        "minimum_side": minimum_side,
        "unet": shape,
        "cutoff": stated(result["cutoff"], missing="0.5"),
        "smallest_px": result["smallest_px"],
        "pixel_size_um": stated(result["pixel_size_um"], missing="unknown"),
        "source": result["source"],
        **simulated_texts(simulated),
        "counts": result["counts"],
        "epochs": result["epochs"],
        "validation_table": metrics_table(result["validation"]),
        "tolerance": f"{TOLERANCE:g}",
        "licence": licence,
        "artseg_version": __version__,
    }
    return Draft(structure, folder, content, sources / "card.md", fields, slug)
