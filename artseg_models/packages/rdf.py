"""The part of a model description (rdf.yaml, format 0.5) that running the model needs, typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import ruyaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from artseg_models.errors import ArtSegError

#: a description is text; the largest in the Zoo have some 20 kB
_LARGEST_DESCRIPTION = 2 * 2**20


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Size(_Part):
    """Sizes an axis may have: min + n * step, or that of another axis times scale plus offset."""

    min: int | None = None
    step: int | None = None
    tensor_id: str | None = None
    axis_id: str | None = None
    offset: int = 0


class Axis(_Part):
    """One axis of a tensor: `type` is batch, channel, space, time or index."""

    type: str
    id: str = ""
    size: int | Size | None = None
    channel_names: tuple[str, ...] | None = None
    scale: float = 1.0
    halo: int = 0

    @property
    def name(self) -> str:
        """The id, which batch and channel axes may leave out."""
        return self.id or self.type


class Tensor(_Part):
    """An input or output."""

    id: str
    axes: tuple[Axis, ...]
    data: Mapping[str, Any] | tuple[Mapping[str, Any], ...] = Field(default_factory=dict)
    preprocessing: tuple[Mapping[str, Any], ...] = ()
    postprocessing: tuple[Mapping[str, Any], ...] = ()


class File(_Part):
    """A file of the package and its SHA-256."""

    source: str
    sha256: str | None = None


class Architecture(_Part):
    """The class behind a state dict: in a file of the package (`source`) or in an installed library (`import_from`)."""

    callable: str
    source: str | None = None
    sha256: str | None = None
    import_from: str | None = None
    kwargs: Mapping[str, Any] = Field(default_factory=dict)


class Weights(File):
    """One weight format."""

    opset_version: int | None = None
    pytorch_version: str | None = None
    architecture: Architecture | None = None


class Author(_Part):
    """An author."""

    name: str
    affiliation: str | None = None


class Citation(_Part):
    """What to cite."""

    text: str
    doi: str | None = None


class ArtSegClassifier(_Part):
    """The classifier whose decision is the gate."""

    id: str
    sha256: str | None = None
    attachment: str | None = None


class ArtSegConfig(_Part):
    """`config.artseg`: what ArtSeg needs beyond the format."""

    # what the map shows, as `artseg segment` names its files by
    target: str = Field(default="artifacts", pattern="^[a-z]+$")
    cutoff: float = Field(default=0.5, ge=0.0, le=1.0)
    smallest_artifact_px: int = Field(default=0, ge=0)
    gate_threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    pixel_size_um: float | None = Field(default=None, gt=0.0)
    binning: int = Field(default=1, ge=1)
    whole_images_only: bool = False
    classifier: ArtSegClassifier | None = None
    training: Mapping[str, Any] = Field(default_factory=dict)
    scorecam: Mapping[str, Any] = Field(default_factory=dict)
    validation: Mapping[str, Any] = Field(default_factory=dict)
    # mean and standard deviation over training images, see `artseg_models.likeness`
    image_features: Mapping[str, tuple[float, float]] = Field(default_factory=dict)
    # what the further channels of map and classifier show, in their order
    kinds: tuple[str, ...] = ()
    iou_cost: Mapping[str, float] = Field(default_factory=dict)
    # OpenVINO's file of the network in int8, an attachment
    int8: str | None = None
    artseg_version: str | None = None


class Description(_Part):
    """A model description."""

    type: str
    format_version: str
    name: str
    id: str | None = None
    version: str | None = None
    description: str = ""
    license: str | None = None
    authors: tuple[Author, ...] = ()
    cite: tuple[Citation, ...] = ()
    tags: tuple[str, ...] = ()
    documentation: str | None = None
    covers: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: Mapping[str, Weights | None]
    config: Mapping[str, Any] = Field(default_factory=dict)

    @field_validator("version", mode="before")
    @classmethod
    def _version_as_text(cls, value: Any) -> Any:
        return None if value is None else str(value)

    @field_validator("documentation", mode="before")
    @classmethod
    def _documentation_source(cls, value: Any) -> Any:
        return _source(value)

    @field_validator("covers", mode="before")
    @classmethod
    def _cover_sources(cls, value: Any) -> Any:
        return tuple(_source(cover) for cover in cast("list[Any]", value)) if isinstance(value, list) else value


def _source(value: Any) -> Any:
    """Give a file's name, which stands by itself up to format 0.5.10 and in a mapping since 0.5.11."""
    return cast("Mapping[str, Any]", value).get("source") if isinstance(value, Mapping) else value


_DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml")


def has_description(folder: Path) -> bool:
    """Whether a folder is that of a package."""
    return any((folder / name).is_file() for name in _DESCRIPTIONS)


def find_description(folder: Path) -> Path:
    """Find the description in a package's folder: rdf.yaml, or bioimageio.yaml where there is none.

    Raises
    ------
    ArtSegError
        Neither is there.
    """
    for name in _DESCRIPTIONS:
        if (folder / name).is_file():
            return folder / name
    raise ArtSegError(
        f"Expected a Model Zoo package with a file rdf.yaml at {folder}, but there is none. "
        "Choose the package's zip file or the folder that holds rdf.yaml."
    )


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    ArtSegError
        It is unreadable, no YAML 1.2, or no mapping.
    """
    try:
        if path.stat().st_size > _LARGEST_DESCRIPTION:
            raise ArtSegError(f"{path.name} has more than {_LARGEST_DESCRIPTION} bytes; a description is short.")
        reader: Any = ruyaml.YAML(typ="safe")
        content: Any = reader.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ruyaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ArtSegError(f"Expected YAML in {path.name} of the package, but it is damaged: {reason[:300]}.") from error
    if not isinstance(content, dict):
        raise ArtSegError(f"Expected a mapping of fields in {path.name} of the package, but it holds something else.")
    return cast("dict[str, Any]", content)


class _Representer(ruyaml.RoundTripRepresenter):
    """Writes 1e-06 as 1.0e-06, which YAML 1.1 (deepImageJ, older Python readers) takes for a text otherwise."""

    def represent_float(self, data: float) -> Any:
        """Represent a number."""
        text = repr(data)
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")
        representer: Any = self
        return representer.represent_scalar("tag:yaml.org,2002:float", text)


cast("Any", _Representer).add_representer(float, _Representer.represent_float)


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write fields as YAML that readers of version 1.1 and 1.2 understand alike, in the order given."""
    writer: Any = ruyaml.YAML()
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.width = 120
    with open(path, "w", encoding="utf-8", newline="\n") as opened:
        writer.dump(content, opened)


def read_description(content: Mapping[str, Any], *, source: str) -> Description:
    """Read the fields that running the model needs.

    Parameters
    ----------
    content : mapping
        What `load_yaml` gave.
    source : str
        What is read, for messages.

    Raises
    ------
    ArtSegError
        It describes no model, is of another format than 0.5, or a field is missing or of the wrong kind.
    """
    if content.get("type") != "model":
        raise ArtSegError(f"{source} describes a '{content.get('type')}'; expected a model. Choose a model's package.")
    version = str(content.get("format_version"))
    if not version.startswith("0.5."):
        raise ArtSegError(
            f"{source} has the format {version}; ArtSeg reads 0.5. "
            "Bring it up to date with `bioimageio update-format`, or download the model again from the Zoo."
        )
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        raise field_error(error, source) from error


def read_config(description: Description, *, source: str) -> ArtSegConfig | None:
    """Read `config.artseg`; None where the package has none, as packages of others.

    Raises
    ------
    ArtSegError
        A value is out of its range or of the wrong kind.
    """
    content = description.config.get("artseg")
    if content is None:
        return None
    try:
        return ArtSegConfig.model_validate(content)
    except ValidationError as error:
        raise field_error(error, f"{source}, config.artseg") from error


def field_error(error: ValidationError, source: str) -> ArtSegError:
    """Say which field of a description is wrong, and how."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ArtSegError(f"{source}: the field {where} of rdf.yaml is wrong: {first['msg']}. Use a valid package.")


def listed_files(content: Any) -> list[File]:
    """List every file that a description names together with a SHA-256, anywhere in it."""
    files: list[File] = []
    seen: set[int] = set()
    waiting: list[Any] = [content]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:  # an alias, which might even point at what contains it
            continue
        seen.add(id(part))
        if isinstance(part, Mapping):
            mapping = cast("Mapping[str, Any]", part)
            source, digest = mapping.get("source"), mapping.get("sha256")
            if isinstance(source, str) and isinstance(digest, str):
                files.append(File(source=source, sha256=digest))
            waiting.extend(mapping.values())
        elif isinstance(part, list):
            waiting.extend(cast("list[Any]", part))
    return files
