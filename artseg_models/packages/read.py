"""Reading a Model Zoo package, ours or any other with one image in and one probability map out."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from artseg_models.errors import ArtSegError
from artseg_models.files import sha256
from artseg_models.packages.operations import EnsureDtype, Operation, apply_operations, read_operations
from artseg_models.packages.rdf import (
    Axis,
    Citation,
    Description,
    Size,
    Tensor,
    find_description,
    has_description,
    listed_files,
    load_yaml,
    read_config,
    read_description,
)
from artseg_models.packages.unpack import unpack

logger = logging.getLogger(__name__)

Kind = Literal["segmentation", "classification"]
#: weight formats that run without their author's Python, in the order in which they are tried
RUNNABLE_FORMATS = ("onnx", "torchscript")


@dataclass(frozen=True)
class SpatialAxis:
    """What the input allows along y or x, in pixels.

    Attributes
    ----------
    minimum : int
        The smallest size.
    step : int
        Sizes are minimum + n * step; 0: the minimum is the only size.
    halo : int
        Pixels at each border of the output that a tiled reader should drop.
    """

    minimum: int
    step: int
    halo: int

    def fitting(self, size: int) -> int:
        """Give the smallest allowed size that is at least `size`; the minimum where only that is allowed."""
        if self.step == 0 or size <= self.minimum:
            return self.minimum
        return self.minimum + -(-(size - self.minimum) // self.step) * self.step


@dataclass(frozen=True)
class Architecture:
    """The Python that a state dict needs, of which nothing runs while a package is read.

    Attributes
    ----------
    file : Path or None
        In the package; None where an installed library has the class.
    library : str or None
        Module of that library.
    class_name : str
        What makes the network.
    arguments : mapping
        What it is made with.
    """

    file: Path | None
    library: str | None
    class_name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Package:
    """A model that was read and verified.

    Attributes
    ----------
    path : Path
        What was asked for: a zip file or a folder.
    folder : Path
        Where its files lie: an unpacked copy in the cache, or the folder itself.
    kind : {'segmentation', 'classification'}
        Whether an image gives a map (y, x) or class probabilities.
    id, name, version : str
        From the description; a package without id is known by its name, one without version as '0'.
    sha256 : str
        Of the zip file; of a folder, over its files' names and hashes in sorted order.
    target : str
        What the map shows: 'artifacts', or 'nuclei' or 'cells' for those packages of ArtSeg.
    cutoff : float
        Probability from which a pixel counts as artifact.
    smallest_artifact_px : int
        Artifacts with fewer pixels are dropped; 0 keeps all.
    gate_threshold : float or None
        Probability of the classifier from which an image counts as holding an artifact; None: no gate.
    pixel_size_um : float or None
        Pixel size of the training images.
    whole_images_only : bool
        The model decides on the image as a whole, so it may not be run in tiles.
    classifier : Path or None
        ONNX file of the classifier, which takes what the segmentation takes and gives (batch, 2 + kinds): clean,
        artifact, and each kind.
    kinds : tuple of str
        Kinds of artifact that the model tells apart: what the channels of its map after the first one show.
    stated : bool
        Whether the package itself states cutoff, smallest artifact and gate; if not, they are 0.5, 0 and none.
    weights : mapping of str to Path
        Weight files by format: 'onnx', 'torchscript', 'pytorch_state_dict', ...
    architecture : Architecture or None
        What the state dict needs, where there is one.
    input_axes, output_axes : tuple of str
        Types of the tensors' axes in order: 'batch', 'channel', 'y', 'x', or another of size 1.
    y, x : SpatialAxis
        Sizes that the input allows.
    input_dtype : str
        Number type that the network takes.
    preprocessing, postprocessing : tuple of Operation
        What happens before and after the network.
    description, licence, authors, cite, tags, documentation, covers
        For showing the model; documentation is Markdown.
    iou_cost : mapping of str to float
        By precision ('bf16', 'int8'), at most how much IoU it costs on validation images against fp32; empty where not
        stated.
    int8 : Path or None
        OpenVINO's description of the network in int8.
    training, scorecam, validation : mapping
        What ArtSeg stated about how the model came to be; empty in packages of others.
    image_features : mapping
        What its training images look like, see `artseg_models.likeness`; empty where the package does not say.
    """

    path: Path
    folder: Path
    kind: Kind
    id: str
    name: str
    version: str
    format_version: str
    sha256: str
    target: str
    cutoff: float
    smallest_artifact_px: int
    gate_threshold: float | None
    pixel_size_um: float | None
    binning: int
    whole_images_only: bool
    classifier: Path | None
    kinds: tuple[str, ...]
    stated: bool
    weights: Mapping[str, Path]
    architecture: Architecture | None
    input_axes: tuple[str, ...]
    output_axes: tuple[str, ...]
    y: SpatialAxis
    x: SpatialAxis
    input_dtype: str
    preprocessing: tuple[Operation, ...]
    postprocessing: tuple[Operation, ...]
    description: str
    licence: str
    authors: tuple[str, ...]
    cite: tuple[Citation, ...]
    tags: tuple[str, ...]
    documentation: str
    covers: tuple[Path, ...]
    iou_cost: Mapping[str, float]
    int8: Path | None
    training: Mapping[str, Any]
    scorecam: Mapping[str, Any]
    validation: Mapping[str, Any]
    image_features: Mapping[str, tuple[float, float]]

    @property
    def trained_on(self) -> str:
        """Names the model's labels and how many images of each split they are."""
        counts: Mapping[str, Mapping[str, int]] = self.training.get("counts") or {}
        images = [
            f"{split}: {', '.join(f'{number} {label}' for label, number in of_split.items())}"
            for split, of_split in counts.items()
        ]
        source = str(self.training.get("source") or "not stated")
        return "; ".join([f"{source} (simulated images)" if self.training.get("simulated") else source, *images])

    def fitting_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Give the smallest allowed (y, x) that holds an image of `shape`; smaller where only one size is allowed."""
        return self.y.fitting(shape[0]), self.x.fitting(shape[1])

    def preprocess(self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Turn an image (y, x), in any number type, into what the network takes, float32 (y, x).

        Pixels outside `valid` count in no statistic and enter as the mean of the others.
        """
        return apply_operations(self.preprocessing, pixels, valid=valid)

    def postprocess(self, output: NDArray[Any]) -> NDArray[np.float32]:
        """Turn the network's output (y, x) into probabilities, float32 (y, x)."""
        return apply_operations(self.postprocessing, output)

    def network_input(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        """Give a preprocessed image (y, x) the axes and the number type of the network's input."""
        upright = pixels if self.input_axes.index("y") < self.input_axes.index("x") else pixels.T
        shape = [pixels.shape["yx".index(axis)] if axis in ("y", "x") else 1 for axis in self.input_axes]
        return np.ascontiguousarray(upright.reshape(shape), dtype=self.input_dtype)

    def output_map(self, output: NDArray[Any]) -> NDArray[np.float32]:
        """Take the map (y, x) out of the network's output for one image; see `output_maps`."""
        return self.output_maps(output)[0]

    def output_maps(self, output: NDArray[Any]) -> NDArray[np.float32]:
        """Take the map, and after it that of each kind, (1 + kinds, y, x) out of the network's output for one image.

        Raises
        ------
        ArtSegError
            The output has other axes than the package states.
        """
        sizes = dict(zip(self.output_axes, output.shape, strict=False))
        channels = 1 + len(self.kinds)
        if output.ndim != len(self.output_axes) or any(
            size != (channels if axis == "channel" else 1) for axis, size in sizes.items() if axis not in ("y", "x")
        ):
            raise ArtSegError(
                f"The model {self.id} gave an output of shape {output.shape}; its description promises the axes "
                f"{', '.join(self.output_axes)} with one image and {channels} channel(s). Use another package."
            )
        order = [self.output_axes.index(axis) for axis in ("y", "x")]
        if "channel" in self.output_axes:
            order.insert(0, self.output_axes.index("channel"))
        rest = [axis for axis in range(output.ndim) if axis not in order]
        moved = np.transpose(np.asarray(output, dtype=np.float32), [*rest, *order])
        return np.ascontiguousarray(moved).reshape(channels, sizes["y"], sizes["x"])


def read_package(path: Path, *, cache: Path | None = None, any_kind: bool = False) -> Package:
    """Read a package and verify every file whose SHA-256 it states.

    Parameters
    ----------
    path : Path
        Zip file, folder, or the rdf.yaml inside a folder.
    cache : Path, optional
        Where zips are unpacked, in a folder named by their SHA-256. By default the environment variable
        ARTSEG_CACHE or, without it, the user's cache folder.
    any_kind : bool
        Also accept a classification model, which cannot segment.

    Returns
    -------
    Package
        Cutoff 0.5, no smallest artifact and no gate where the package states none.

    Raises
    ------
    ArtSegError
        It is missing, damaged or unsafe to unpack, a SHA-256 differs, or ArtSeg cannot run such a model.
    """
    path, folder, digest = open_package(path, cache=cache)
    return _package(path, folder, digest, any_kind=any_kind)


def open_package(path: Path, *, cache: Path | None = None) -> tuple[Path, Path, str]:
    """Unpack a package and verify every file whose SHA-256 it states, whatever model it holds.

    Parameters
    ----------
    path, cache
        As in `read_package`.

    Returns
    -------
    path : Path
        The zip file or folder.
    folder : Path
        Where its files lie.
    digest : str
        SHA-256 of the zip file; of a folder, over its files' names and hashes in sorted order.

    Raises
    ------
    ArtSegError
        It is missing, damaged or unsafe to unpack, or a SHA-256 differs.
    """
    path = Path(path)
    if path.name in ("rdf.yaml", "bioimageio.yaml") and path.is_file():
        path = path.parent
    if (path / "configuration.json").is_file() and not has_description(path):
        raise ArtSegError(_about_run(path))
    if path.is_dir():
        folder = path
        _verify(folder, source=str(path))  # first, so that a folder that is no package is not read through
        digest = _folder_digest(path)
    elif path.is_file():
        try:
            digest = sha256(path)
        except OSError as error:
            raise ArtSegError(f"Could not read the package {path}: {error.strerror or error}.") from error
        folder = _unpacked(path, digest, cache or default_cache())
    else:
        raise ArtSegError(f"Expected a Model Zoo package (a zip file or a folder) at {path}, but nothing is there.")
    return path, folder, digest


def _about_run(run: Path) -> str:
    """Say that a folder is that of a training, and which packages it has."""
    said = f"Expected a Model Zoo package (a zip file or a folder), but {run} is the run folder of a training. "
    # the model that segments, in the current format, is most likely meant
    packages = sorted(
        (run / "packages").glob("*.zip"),
        key=lambda path: (path.stem.endswith("-0.5.10"), not path.stem.endswith("-unet"), path.name),
    )
    if not packages:
        return said + f"It has no package yet: `artseg export {run}` writes one where the training has ended."
    beside = ", ".join(path.name for path in packages[1:])
    return said + f"Give its package {packages[0]}" + (f" (or one of those beside it: {beside})." if beside else ".")


def default_cache() -> Path:
    """Choose the folder for unpacked packages: ARTSEG_CACHE, else the user's cache folder."""
    chosen = os.environ.get("ARTSEG_CACHE")
    return Path(chosen) if chosen else user_cache_path("artseg", appauthor=False)


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*"), key=lambda found: found.relative_to(folder).as_posix()):
        relative = file.relative_to(folder)
        # what a file browser hides there, or Python when it runs the architecture file, does not change the model
        if file.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
            digest.update(f"{relative.as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def _unpacked(archive: Path, digest: str, cache: Path) -> Path:
    packages = cache / "packages"
    target = packages / digest
    if target.is_dir():
        try:
            _verify(target, source=str(archive))
            return target
        except ArtSegError as error:
            logger.warning("The unpacked copy of %s was changed (%s); unpacking it again.", archive.name, error)
            shutil.rmtree(target, ignore_errors=True)
    try:
        packages.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=packages))
    except OSError as error:
        raise ArtSegError(
            f"Could not write into the cache folder {packages}: {error.strerror or error}. "
            "Set the environment variable ARTSEG_CACHE to a folder that can be written."
        ) from error
    try:
        unpack(archive, temporary)
        _verify(temporary, source=str(archive))
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster and has the same files
                raise
    except OSError as error:
        raise ArtSegError(f"Could not unpack {archive} into {packages}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _verify(folder: Path, *, source: str) -> None:
    """Compare every file whose SHA-256 is stated."""
    for file in listed_files(load_yaml(find_description(folder))):
        if _is_web_address(file.source):
            continue
        found = sha256(_inside(folder, file.source, source=source))
        if found != file.sha256:
            raise ArtSegError(
                f"The file {file.source} of {source} is not the one its author packed: expected SHA-256 "
                f"{file.sha256}, got {found}. Download or export the package again."
            )


def _is_web_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _inside(folder: Path, name: str, *, source: str) -> Path:
    """Find the file `name` of a package, which must lie in its folder and be no link out of it."""
    if _is_web_address(name):
        raise ArtSegError(
            f"{source} does not hold the file {name} but only its address. Download the model's complete zip."
        )
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtSegError(f"{source} names a file '{name}' outside its own folder. Not read.")
    if not path.is_file():
        raise ArtSegError(f"{source} names a file '{name}' that it does not hold. Download or export it again.")
    return path


def _package(path: Path, folder: Path, digest: str, *, any_kind: bool) -> Package:
    source = str(path)
    described = read_description(load_yaml(find_description(folder)), source=source)
    image, result = _only_tensors(described, source=source)
    y, x = (_spatial(image, result, name, source=source) for name in ("y", "x"))
    config = read_config(described, source=source)
    kinds = config.kinds if config else ()
    kind = _kind(result, 1 + len(kinds), source=source)
    if kind == "classification" and not any_kind:
        raise ArtSegError(
            f"{source} ({described.name}) classifies whole images; expected a model that gives a map of the image. "
            "Choose the package that ends in -unet.zip."
        )
    preprocessing = read_operations(image.preprocessing, source=f"{source}, input '{image.id}'")
    postprocessing = (
        read_operations(result.postprocessing, source=f"{source}, output '{result.id}'")
        if kind == "segmentation"
        else ()
    )
    classifier = None
    if config is not None and config.classifier is not None and config.classifier.attachment is not None:
        classifier = _inside(folder, config.classifier.attachment, source=source)
        if config.classifier.sha256 is not None and sha256(classifier) != config.classifier.sha256:
            raise ArtSegError(
                f"The classifier {config.classifier.attachment} of {source} is not the one that config.artseg names. "
                "Export the package again."
            )
    int8 = _inside(folder, config.int8, source=source) if config is not None and config.int8 is not None else None
    weights = {
        name: _inside(folder, entry.source, source=source)
        for name, entry in described.weights.items()
        if entry is not None and not _is_web_address(entry.source)
    }
    if not weights:
        raise ArtSegError(f"{source} holds no weights, only their address. Download the model's complete zip.")
    return Package(
        path=path,
        folder=folder,
        kind=kind,
        id=described.id or described.name,
        name=described.name,
        version=described.version or "0",
        format_version=described.format_version,
        sha256=digest,
        target=config.target if config else "artifacts",
        cutoff=config.cutoff if config else 0.5,
        smallest_artifact_px=config.smallest_artifact_px if config else 0,
        gate_threshold=config.gate_threshold if config and classifier else None,
        pixel_size_um=config.pixel_size_um if config else None,
        binning=config.binning if config else 1,
        whole_images_only=config.whole_images_only if config else False,
        classifier=classifier,
        kinds=kinds,
        stated=config is not None,
        weights=MappingProxyType(weights),
        architecture=_architecture(folder, described, source=source),
        input_axes=_axis_types(image),
        output_axes=_axis_types(result),
        y=y,
        x=x,
        input_dtype=_input_dtype(image, preprocessing),
        preprocessing=preprocessing,
        postprocessing=postprocessing,
        description=described.description,
        licence=described.license or "",
        authors=tuple(author.name for author in described.authors),
        cite=described.cite,
        tags=described.tags,
        documentation=_documentation(folder, described, source=source),
        covers=tuple(_inside(folder, cover, source=source) for cover in described.covers if not _is_web_address(cover)),
        iou_cost=config.iou_cost if config else {},
        int8=int8,
        training=config.training if config else {},
        scorecam=config.scorecam if config else {},
        validation=config.validation if config else {},
        image_features=config.image_features if config else {},
    )


def _architecture(folder: Path, described: Description, *, source: str) -> Architecture | None:
    entry = described.weights.get("pytorch_state_dict")
    stated = None if entry is None else entry.architecture
    if stated is None:
        return None
    file = None if stated.source is None else _inside(folder, stated.source, source=source)
    return Architecture(file, stated.import_from, stated.callable, stated.kwargs)


def _only_tensors(described: Description, *, source: str) -> tuple[Tensor, Tensor]:
    if len(described.inputs) != 1 or len(described.outputs) != 1:
        raise ArtSegError(
            f"{source} takes {len(described.inputs)} inputs and gives {len(described.outputs)} outputs; "
            "expected one image and one map. Use another package."
        )
    image, result = described.inputs[0], described.outputs[0]
    for axis in image.axes:
        if axis.type == "channel" and axis.channel_names is not None and len(axis.channel_names) != 1:
            raise ArtSegError(
                f"{source} takes images of {len(axis.channel_names)} channels "
                f"({', '.join(axis.channel_names)}); expected one (brightfield). A grey image is not copied into "
                "several channels, since the model never learned from such images. Use another package."
            )
        if axis.type not in ("batch", "channel") and axis.name not in ("y", "x") and axis.size != 1:
            raise ArtSegError(
                f"{source} takes images with the axis '{axis.name}'; expected y and x only. Use another package."
            )
    if not {"y", "x"} <= {axis.name for axis in image.axes}:
        raise ArtSegError(f"{source} takes no image: its input has no axes y and x. Use another package.")
    return image, result


def _kind(result: Tensor, expected: int, *, source: str) -> Kind:
    names = {axis.name for axis in result.axes}
    channels = [axis for axis in result.axes if axis.type == "channel"]
    if not {"y", "x"} & names:
        return "classification"
    count = len(channels[0].channel_names or ()) if channels else 1
    others = [
        axis.name
        for axis in result.axes
        if axis.type not in ("batch", "channel") and axis.name not in ("y", "x") and axis.size != 1
    ]
    if count != expected or others or not {"y", "x"} <= names:
        maps = "one map" if expected == 1 else f"{expected} maps, of artifacts and of each kind that it names,"
        raise ArtSegError(
            f"{source} gives {count} channels over the axes {', '.join(sorted(names))}; expected {maps} over y and x. "
            "Use another package."
        )
    return "segmentation"


def _spatial(image: Tensor, result: Tensor, name: str, *, source: str) -> SpatialAxis:
    axis = next(axis for axis in image.axes if axis.name == name)
    if isinstance(axis.size, int):
        minimum, step = axis.size, 0
    elif isinstance(axis.size, Size) and axis.size.min is not None and axis.size.step is not None:
        minimum, step = axis.size.min, axis.size.step
    else:
        raise ArtSegError(
            f"{source} ties the image's size along {name} to another tensor; expected min and step, or one size. "
            "Use another package."
        )
    output = next((axis for axis in result.axes if axis.name == name), None)
    if output is None:
        return SpatialAxis(minimum, step, 0)
    if output.scale != axis.scale or (isinstance(output.size, Size) and output.size.offset != 0):
        raise ArtSegError(
            f"{source} gives a map of another size than the image along {name}; expected the same. Use another package."
        )
    return SpatialAxis(minimum, step, output.halo)


def _axis_types(tensor: Tensor) -> tuple[str, ...]:
    def of(axis: Axis) -> str:
        return axis.name if axis.name in ("y", "x") else axis.type

    return tuple(of(axis) for axis in tensor.axes)


def _input_dtype(image: Tensor, preprocessing: tuple[Operation, ...]) -> str:
    """Choose the type that the last ensure_dtype asks for; else that of the data, or float32 once it was scaled."""
    for operation in reversed(preprocessing):
        if isinstance(operation, EnsureDtype):
            return operation.kwargs.dtype
    if preprocessing or isinstance(image.data, tuple):
        return "float32"
    return str(image.data.get("type", "float32"))


def _documentation(folder: Path, described: Description, *, source: str) -> str:
    if described.documentation is None or _is_web_address(described.documentation):
        return ""
    return _inside(folder, described.documentation, source=source).read_text(encoding="utf-8", errors="replace")
