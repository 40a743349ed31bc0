"""From a finished training run to Model Zoo packages: classifier, U-Net, and both in one; each in two formats."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import nn

from artseg_models import __version__
from artseg_models.bundle import cards_folder
from artseg_models.errors import ArtSegError
from artseg_models.files import sha256, whole_files
from artseg_models.images import normalise
from artseg_models.networks import combined, resnet, unet
from artseg_models.packages.cards import (
    counts_table,
    draw_cover,
    epochs_text,
    fill_card,
    metrics_table,
    settings_text,
    stated,
)
from artseg_models.packages.check import check_description
from artseg_models.packages.formats import OLDER_FORMAT, in_format, newest_format
from artseg_models.packages.rdf import load_yaml, write_yaml
from artseg_models.packages.run import TrainedRun, read_run
from artseg_models.packages.weights import TOLERANCE, WeightFile, write_weights
from artseg_models.predict import TILE_PX, artifact_objects

logger = logging.getLogger(__name__)

_KINDS = ("classifier", "unet", "combined")
#: pixels along a side of the test image, before binning asks for more
_TEST_SIDE = 192


class ExportedPackages(NamedTuple):
    """Where a run's packages are.

    Attributes
    ----------
    classifier, unet, combined : Path
        In the newest format. No `combined` where the model finds nothing in the run's sample image, since every
        reader's test would pass on anything then.
    older_classifier, older_unet, older_combined : Path
        The same models in format 0.5.10, which every reader opens.
    """

    classifier: Path
    unet: Path
    combined: Path | None
    older_classifier: Path
    older_unet: Path
    older_combined: Path | None

    @property
    def paths(self) -> list[Path]:
        """Those that were written."""
        return [path for path in self if path is not None]


def export_packages(
    run: Path,
    out: Path,
    *,
    name: str | None = None,
    version: str = "0.1.0",
    author: str = "ArtSeg developers",
    maintainer: str | None = None,
    licence: str = "BSD-3-Clause",
) -> ExportedPackages:
    """Write the packages of a run, all or none.

    Every weight format is compared with the network at several image sizes, and the description is validated,
    before anything appears in `out`.

    Parameters
    ----------
    run : Path
        Run folder of `artseg train`.
    out : Path
        Folder for the packages; made where missing.
    name : str, optional
        Begins the files' names and ids; the run's name by default.
    version : str
        Version of the model.
    author : str
        Who trained the model.
    maintainer : str, optional
        GitHub user who answers questions; the Zoo asks for one.
    licence : str
        SPDX identifier.

    Returns
    -------
    ExportedPackages
        Their paths.

    Raises
    ------
    ArtSegError
        The run is unfinished or damaged, a weight format differs from its network, a field is not valid in the Zoo,
        or the files cannot be written. Packages that were there before are unchanged then.
    """
    trained = read_run(run)
    slug = _slug(name if name is not None else trained.result.name)
    formats = (newest_format(), OLDER_FORMAT)
    with tempfile.TemporaryDirectory(prefix="artseg-export-") as temporary:
        shared = _Shared(trained, slug, version=version, author=author, maintainer=maintainer, licence=licence)
        folders = {kind: Path(temporary) / kind for kind in _KINDS}
        for folder in folders.values():
            folder.mkdir()
        drafts = [
            _classifier(shared, folders["classifier"]),
            _unet(shared, folders["unet"], classifier_onnx=folders["classifier"] / "weights.onnx"),
        ]
        both = _combined(shared, folders["combined"])
        if both is not None:
            drafts.append(both)
        for draft in drafts:
            for format_version in formats:
                draft.describe(format_version)
                checked = check_description(draft.folder)
                if checked.outcome != "passed":
                    raise ArtSegError(
                        f"The {draft.kind}'s package would not be valid in the Model Zoo: {checked.detail}. Nothing "
                        "was written; check the options given to export."
                    )
        written = [(draft, format_version) for format_version in formats for draft in drafts]
        paths = [out / archive_name(slug, draft.kind, format_version) for draft, format_version in written]
        with whole_files(paths) as unfinished:
            for (draft, format_version), path in zip(written, unfinished, strict=True):
                draft.describe(format_version)
                _zip(draft.folder, path)
    for path in paths:
        logger.info("Wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    places = {(draft.kind, format_version): path for (draft, format_version), path in zip(written, paths, strict=True)}
    newest, older = formats
    return ExportedPackages(
        places["classifier", newest],
        places["unet", newest],
        places.get(("combined", newest)),
        places["classifier", older],
        places["unet", older],
        places.get(("combined", older)),
    )


def archive_name(slug: str, kind: str, format_version: str) -> str:
    """Name a package's file; only the older format stands in the name."""
    return f"{slug}-{kind}-{OLDER_FORMAT}.zip" if format_version == OLDER_FORMAT else f"{slug}-{kind}.zip"


def _slug(name: str) -> str:
    """Make an id of a name: the Zoo takes lower-case letters, digits and minus."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug:
        raise ArtSegError(f"'{name}' has no letter or digit to make a package's name of. Choose another with --name.")
    return slug


class _Shared:
    """What the packages of a run have in common."""

    def __init__(
        self, trained: TrainedRun, slug: str, *, version: str, author: str, maintainer: str | None, licence: str
    ) -> None:
        self.trained = trained
        self.slug = slug
        self.version = version
        self.author = author
        self.maintainer = maintainer
        self.licence = licence
        prefix = slug if slug.startswith("artseg") else f"artseg-{slug}"
        self.classifier_id = f"{prefix}-classifier"
        self.unet_id = f"{prefix}-unet"
        self.combined_id = f"{prefix}-combined"
        self.probability = _probability(trained.unet, trained.sample)
        self.test_image = _around_peak(
            trained.sample,
            self.probability,
            max(_TEST_SIDE, 48 * max(trained.result.unet.binning, trained.result.classifier.binning)),
        )

    def card_fields(self, *, model_name: str, minimum_side: int) -> dict[str, Any]:
        result = self.trained.result
        return {
            "name": model_name,
            "minimum_side": minimum_side,
            "tile_px": TILE_PX * result.unet.binning,
            "overlap_px": 128 * result.unet.binning,
            "pooling_px": minimum_side,
            "classifier": result.classifier,
            "unet": result.unet,
            "classifier_id": self.classifier_id,
            "unet_id": self.unet_id,
            "combined_id": self.combined_id,
            "cutoff": stated(result.cutoff, missing="0.5"),
            "smallest_artifact_px": result.smallest_artifact_px,
            "gate_threshold": stated(result.gate_threshold, missing="no gate"),
            "pixel_size_um": stated(result.pixel_size_um, missing="unknown"),
            "source": result.training.source,
            "counts_table": counts_table(result.training.counts),
            "epochs": epochs_text(result.training.epochs),
            "method": result.method,
            "scorecam_text": settings_text(result.scorecam, lead="Pseudo-labels by ScoreCAM"),
            "validation_table": metrics_table(result.validation),
            "tolerance": f"{TOLERANCE:g}",
            "licence": self.licence,
            "artseg_version": __version__,
        }


@dataclass(frozen=True)
class _Draft:
    """A package but for its description and card, which depend on the format.

    Attributes
    ----------
    kind : str
        'classifier', 'unet' or 'combined'.
    folder : Path
        Holds every other file.
    content : mapping
        The description without what depends on the format.
    card : Path
        Template of the card.
    card_fields : mapping
        What fills it, but for the files' names.
    slug : str
        Begins the files' names.
    """

    kind: str
    folder: Path
    content: Mapping[str, Any]
    card: Path
    card_fields: Mapping[str, Any]
    slug: str

    def describe(self, format_version: str) -> None:
        """Write card and rdf.yaml in a format."""
        archives = {f"{kind}_archive": archive_name(self.slug, kind, format_version) for kind in _KINDS}
        archive = archive_name(self.slug, self.kind, format_version)
        older = archive_name(self.slug, self.kind, OLDER_FORMAT)
        fields = {**self.card_fields, **archives, "archive": archive, "older_archive": older}
        card = fill_card(self.card, {**fields, "format_version": format_version})
        (self.folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
        content = in_format(
            self.content, format_version, documentation=self.folder / "README.md", cover=self.folder / "cover.png"
        )
        write_yaml(self.folder / "rdf.yaml", content)


def _normalised(pixels: NDArray[Any]) -> torch.Tensor:
    return torch.as_tensor(normalise(pixels)[None, None])


def _probability(network: nn.Module, pixels: NDArray[Any]) -> NDArray[np.float32]:
    with torch.no_grad():
        return network(_normalised(pixels))[0, 0].numpy()


def _around_peak(pixels: NDArray[Any], probability: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Cut the surroundings of the likeliest artifact, on odd sizes, so that tests see padding and a map not empty."""
    height, width = min(side + 5, pixels.shape[0]), min(side + 12, pixels.shape[1])
    peak_y, peak_x = np.unravel_index(int(probability.argmax()), probability.shape)
    top = int(np.clip(peak_y - height // 2, 0, pixels.shape[0] - height))
    left = int(np.clip(peak_x - width // 2, 0, pixels.shape[1] - width))
    return pixels[top : top + height, left : left + width].astype(np.float32)


def _shapes(binning: int) -> list[tuple[int, int]]:
    """Sizes (y, x) to compare weight formats at: the smallest, long and thin, odd, and multiples of 32."""
    smallest = 32 * binning
    return [
        (smallest, smallest),
        (9 * smallest + 3 * binning + 1, smallest + 13),
        (smallest + 1, 3 * smallest - 7),
        (2 * smallest, 3 * smallest),
    ]


def _classifier(shared: _Shared, folder: Path) -> _Draft:
    shape = shared.trained.result.classifier
    network = shared.trained.classifier
    weights = write_weights(
        network,
        folder,
        architecture=[Path(resnet.__file__)],
        arguments=shape.model_dump(),
        output="probabilities",
        output_axes=("batch", "channel"),
        shapes=_shapes(shape.binning),
    )
    with torch.no_grad():
        test_output = network(_normalised(shared.test_image)).numpy()
        sample_output = network(_normalised(shared.trained.sample)).numpy()
    return _draft(
        shared,
        folder,
        kind="classifier",
        identifier=shared.classifier_id,
        binning=shape.binning,
        network=network,
        weights=weights,
        test_image=shared.test_image,
        test_output=test_output,
        sample_output=sample_output,
        own={"gate_threshold": shared.trained.result.gate_threshold},
    )


def _unet(shared: _Shared, folder: Path, *, classifier_onnx: Path) -> _Draft:
    shape = shared.trained.result.unet
    network = shared.trained.unet
    weights = write_weights(
        network,
        folder,
        architecture=[Path(unet.__file__)],
        arguments=shape.model_dump(),
        output="probability",
        output_axes=("batch", "channel", "y", "x"),
        shapes=_shapes(shape.binning),
    )
    attachment = folder / "classifier.onnx"
    shutil.copyfile(classifier_onnx, attachment)
    digest = sha256(attachment)
    return _draft(
        shared,
        folder,
        kind="unet",
        identifier=shared.unet_id,
        binning=shape.binning,
        network=network,
        weights=weights,
        test_image=shared.test_image,
        test_output=_probability(network, shared.test_image)[None, None],
        sample_output=shared.probability,
        own={
            "cutoff": shared.trained.result.cutoff,
            "smallest_artifact_px": shared.trained.result.smallest_artifact_px,
            "gate_threshold": shared.trained.result.gate_threshold,
            "classifier": {"id": shared.classifier_id, "attachment": attachment.name, "sha256": digest},
        },
        attachments=[{"source": attachment.name, "sha256": digest}],
    )


def _combined(shared: _Shared, folder: Path) -> _Draft | None:
    """Put gate, U-Net and cutoff into one graph; None where it finds nothing in the sample, so cannot be tested."""
    result = shared.trained.result
    gate_threshold = 0.0 if result.gate_threshold is None else result.gate_threshold
    arguments: dict[str, Any] = {
        "classifier": result.classifier.model_dump(),
        "unet": result.unet.model_dump(),
        "cutoff": result.cutoff,
        "gate_threshold": gate_threshold,
    }
    network = combined.GatedUNet(**arguments).eval()
    network.classifier.load_state_dict(shared.trained.classifier.state_dict())
    network.unet.load_state_dict(shared.trained.unet.state_dict())

    def decided(image: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Say where the last digits of a probability cannot turn the mask."""
        given = torch.as_tensor(image)
        with torch.no_grad():
            gate = (network.classifier(given)[:, 1] - gate_threshold).abs() > TOLERANCE
            cut = (network.unet(given) - result.cutoff).abs() > TOLERANCE
        return (cut & gate[:, None, None, None]).numpy()

    def mask(image: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            return network(_normalised(image)).numpy()

    # the surroundings of the likeliest artifact, else the whole image: what the gate lets pass and is not at its edge
    candidates = [shared.test_image, shared.trained.sample.astype(np.float32)]
    test_image = next(
        (image for image in candidates if mask(image).any() and decided(normalise(image)[None, None]).mean() > 0.99),
        None,
    )
    if test_image is None:
        logger.warning(
            "No combined package is written: gate and cutoff leave no artifact in %s, so a reader's test would pass on "
            "anything. Choose an image with an artifact that the model finds, or train longer.",
            shared.trained.folder / "sample.tiff",
        )
        return None
    binning = max(result.unet.binning, result.classifier.binning)
    weights = write_weights(
        network,
        folder,
        architecture=[Path(str(module.__file__)) for module in (resnet, unet, combined)],
        arguments=arguments,
        output="mask",
        output_axes=("batch", "channel", "y", "x"),
        shapes=_shapes(binning),
        images=[normalise(test_image)[None, None]],
        decided=decided,
    )
    return _draft(
        shared,
        folder,
        kind="combined",
        identifier=shared.combined_id,
        binning=binning,
        network=network,
        weights=weights,
        test_image=test_image,
        test_output=mask(test_image),
        sample_output=mask(shared.trained.sample),
        own={
            # what is left to do with the mask; what was done to get it stands under `inside`
            "cutoff": 0.5,
            "smallest_artifact_px": result.smallest_artifact_px,
            "gate_threshold": None,
            "whole_images_only": True,
            "inside": {
                "cutoff": result.cutoff,
                "gate_threshold": result.gate_threshold,
                "classifier": shared.classifier_id,
                "unet": shared.unet_id,
            },
        },
    )


def _draft(
    shared: _Shared,
    folder: Path,
    *,
    kind: str,
    identifier: str,
    binning: int,
    network: nn.Module,
    weights: Mapping[str, WeightFile],
    test_image: NDArray[np.float32],
    test_output: NDArray[np.float32],
    sample_output: NDArray[np.float32],
    own: Mapping[str, Any],
    attachments: list[dict[str, str]] | None = None,
) -> _Draft:
    """Write tensors and cover beside the weights, and put the description together."""
    result = shared.trained.result
    peak = float(test_output.max())
    if not peak > 0:
        raise ArtSegError(
            f"The network of {identifier} gives nothing but 0 on {shared.trained.folder / 'sample.tiff'}, so that a "
            "reader's test would pass on anything. Choose an image with an artifact, or train longer."
        )
    _write_array(folder / "test_input.npy", test_image[None, None])
    _write_array(folder / "test_output.npy", test_output)
    tifffile.imwrite(folder / "sample_input.tif", shared.trained.sample, compression="zlib", metadata=None)
    # the Zoo's readers take no .npy here, so the classifier's two numbers are an image as well
    tifffile.imwrite(folder / "sample_output.tif", sample_output, compression="zlib", metadata=None)
    labels = artifact_objects(
        shared.probability, cutoff=result.cutoff, smallest_artifact_px=result.smallest_artifact_px
    )
    draw_cover(folder / "cover.png", shared.trained.sample, labels > 0)

    sources = cards_folder() / f"artseg-{kind}"
    content = load_yaml(sources / "rdf.yaml")
    model_name = f"{content['name']} ({shared.slug})"
    minimum_side = 32 * binning

    image, output = content["inputs"][0], content["outputs"][0]
    for axis in image["axes"]:
        if axis["type"] == "space":
            axis["size"] = {"min": minimum_side, "step": 1}
    image["test_tensor"] = _listed(folder / "test_input.npy")
    image["sample_tensor"] = _listed(folder / "sample_input.tif")
    output["test_tensor"] = _listed(folder / "test_output.npy")
    output["sample_tensor"] = _listed(folder / "sample_output.tif")
    config = content["config"]
    config["bioimageio"] |= {
        "model_parameter_count": sum(parameter.numel() for parameter in network.parameters()),
        "training": _training(shared, kind),
        # the Zoo allows at most a hundredth of the largest value
        "reproducibility_tolerance": [
            {"relative_tolerance": 1e-3, "absolute_tolerance": min(TOLERANCE, float(f"{0.005 * peak:.1g}"))}
        ],
    }
    config["artseg"] = {
        **own,
        "binning": binning,
        "pixel_size_um": result.pixel_size_um,
        "training": result.training.model_dump(),
        "scorecam": dict(result.scorecam),
        "validation": dict(result.validation),
        "artseg_version": __version__,
    }
    content |= {
        "name": model_name,
        "id": identifier,
        "version": shared.version,
        "authors": [{"name": shared.author}],
        "packaged_by": [{"name": shared.author}],
        "license": shared.licence,
        "attachments": attachments or [],
        "links": [other for other in (shared.classifier_id, shared.unet_id) if other != identifier],
        "timestamp": shared.trained.finished.isoformat(timespec="seconds"),
        "version_comment": f"Exported by artseg {__version__} from the run '{result.name}'.",
        "weights": {name: {**file.entry, "authors": [{"name": shared.author}]} for name, file in weights.items()},
    }
    if shared.maintainer is not None:
        content["maintainers"] = [{"github_user": shared.maintainer}]
    fields = shared.card_fields(model_name=model_name, minimum_side=minimum_side)
    return _Draft(kind, folder, content, sources / "card.md", fields, shared.slug)


_LOSSES = {"classifier": "torch.nn.CrossEntropyLoss", "unet": "torch.nn.BCEWithLogitsLoss"}


def _training(shared: _Shared, kind: str) -> dict[str, Any]:
    """Say how a network learned, in the Zoo's fields; of a combined one, how its U-Net did."""
    network = "classifier" if kind == "classifier" else "unet"
    learning = shared.trained.learning.get(network)
    if learning is None:
        return {}
    schedule = learning.schedule
    varied = ", ".join(f"{name} {value}" for name, value in learning.augmentation.items() if value)
    stated = f"Images binned and normalised each by its mean and standard deviation. Augmentation: {varied or 'none'}."
    if kind == "combined":
        stated = f"These are the figures of the U-Net; those of the gate stand in {shared.classifier_id}. {stated}"
    return {
        "training_preprocessing": stated,
        "training_epochs": schedule.epochs,
        "training_batch_size": schedule.batch,
        "initial_learning_rate": schedule.learning_rate,
        "learning_rate_schedule": schedule.decay,
        "loss_function": _LOSSES[network],
        "loss_function_kwargs": {},
        "optimizer": "torch.optim.Adam",
        "optimizer_kwargs": {"lr": schedule.learning_rate},
        "regularization": "Batch normalisation and augmentation.",
    }


def _write_array(path: Path, array: NDArray[Any]) -> None:
    np.save(path, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)


def _listed(path: Path) -> dict[str, str]:
    return {"source": path.name, "sha256": sha256(path)}


def _zip(folder: Path, path: Path) -> None:
    """Pack a folder; the same files give the same bytes.

    TorchScript numbers its modules through the life of a process, so only the first exports of two processes agree.
    """
    files = sorted(folder.iterdir(), key=lambda file: (file.name != "rdf.yaml", file.name))
    # weights hardly shrink, so the fastest level is as good as the best
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for file in files:
            member = zipfile.ZipInfo(file.name, (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            with open(file, "rb") as source, target.open(member, "w") as written:
                shutil.copyfileobj(source, written, 2**20)
