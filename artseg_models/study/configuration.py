"""STUDY.yaml: what a study compares, on which images, for how long; with errors that say what to write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruyaml import YAML
from ruyaml.error import YAMLError

from artseg_models.errors import ArtSegError
from artseg_models.labels import Split
from artseg_models.study import paper

Family = Literal["seven-lines", "cho-m4r", "lncap"]
MethodName = Literal["unet", "scorecam-unet", "scorecam", "autoencoder", "padim", "patch-svdd"]

_FOLDER = Path(__file__).parent / "files"
_EXAMPLE = """A small one:
  name: Fibres
  datasets:
    fibres:
      labels: umid_fibre/labels.csv
      longest_side: 160
`artseg study --list` shows studies that come with ArtSeg."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pairs(_Part):
    """Images and masks in two folders; a mask belongs to every image whose name begins with the mask's first part."""

    images: str = Field(description="Folder of images.")
    masks: str = Field(description="Folder of masks, white = artifact.")
    key: Literal["name", "prefix"] = Field(
        default="name",
        description="name: mask and image have one name. prefix: they agree up to the first underscore.",
    )
    only: str = Field(default="*", description="Pattern of image names that take part.")


class Simulated(_Part):
    """Images that `artseg simulate` makes."""

    family: Literal["training", "seven-lines", "lncap", "cho-m4r"] = "training"
    fields: int = Field(default=240, ge=12, description="How many fields of view.")
    side: int = Field(default=256, ge=64, description="Width and height in pixels; family training alone.")
    scale: float = Field(default=0.25, gt=0, le=1, description="Size against the paper's; not for family training.")
    artifact_fraction: float | None = Field(
        default=0.5, gt=0, lt=1, description="Share of fields with artifacts; null: as in the paper, families alone."
    )
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _share_is_known(self) -> Self:
        if self.family == "training" and self.artifact_fraction is None:
            raise ValueError("artifact_fraction: the family training has no share of its own, give a number")
        return self

    @property
    def of_full_size(self) -> float:
        """Side of the simulated images against the paper's."""
        return 1.0 if self.family == "training" else self.scale


class Dataset(_Part):
    """One set of images, and how it is made ready."""

    title: str = ""
    masks_are: Literal["drawn", "derived", "simulated"] = Field(
        default="drawn", description="Where the true masks come from; said in every table."
    )
    labels: str | None = Field(default=None, description="labels.csv or a folder of labelled images.")
    mask_polarity: Literal["auto", "artifact-high", "artifact-low"] = "auto"
    pairs: Pairs | None = None
    simulate: Simulated | None = None
    ignore: str | None = Field(default=None, description="Image that is white where pixels are not scored.")
    nuclei: str | None = Field(default=None, description="Folder of label maps of nuclei, for Supp. Figure 2.")
    tiles: int | None = Field(
        default=None, ge=32, description="Cut images into tiles of this side; clean where the mask is empty."
    )
    tile_offset: Literal["none", "random"] = Field(
        default="none",
        description="random: the grid of tiles is shifted by chance in each image, so that artifacts which always lie "
        "at the same place do not always lie at the same place of a tile.",
    )
    longest_side: int | None = Field(
        default=None, ge=32, description="Bin images by whole numbers until their longer side is at most this."
    )
    at_most: dict[Split, Annotated[int, Field(ge=2)]] = Field(
        default_factory=dict[Split, int], description="Fewer images of a split, drawn by group, for small machines."
    )
    twins: tuple[Split, ...] = Field(
        default=(), description="Splits whose clean images are replaced by filled twins of the artifact images."
    )
    family: Family | None = Field(default=None, description="Which of the paper's data sets it stands for.")
    smallest_object: Literal["validation", "published"] | int = Field(
        default="validation", description="Smallest object in pixels of the full image, one for all methods."
    )
    transfer_from: str | None = Field(
        default=None, description="Not trained on: scored with the models and cutoffs of this other data set."
    )
    tested_images: Literal["all", "test"] = Field(
        default="all",
        description="With transfer_from: all images, or the test split alone, where the models have seen the others.",
    )
    pixel_size_um: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("labels", "pairs", "simulate") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"expected one of labels, pairs and simulate to say where the images are, got {found}")
        sizes = (0, *paper.SIZES)
        if isinstance(self.smallest_object, int) and self.smallest_object not in sizes:
            raise ValueError(
                f"smallest_object is validation, published, or one of {', '.join(map(str, sizes))} pixels; "
                f"got {self.smallest_object}"
            )
        if self.smallest_object == "published" and self.family is None:
            raise ValueError("smallest_object: published needs family, one of seven-lines, cho-m4r, lncap")
        return self


class Study(_Part):
    """A whole study."""

    name: str = Field(min_length=1)
    about: str = ""
    preset: Literal["quick", "paper"] = Field(
        default="quick",
        description="How methods are trained. paper: the parameters of their papers, the published cutoffs and sizes.",
    )
    methods: tuple[MethodName, ...] = cast("tuple[MethodName, ...]", paper.METHODS)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    more_seeds: dict[MethodName, tuple[int, ...]] = Field(
        default_factory=dict[MethodName, tuple[int, ...]], description="Other seeds for single methods."
    )
    cutoffs: Literal["validation", "published"] | None = Field(
        default=None, description="By default: published with the preset paper, else chosen on validation."
    )
    settings: dict[MethodName, dict[str, Any]] = Field(
        default_factory=dict[MethodName, dict[str, Any]], description="As --set of artseg train, for each method."
    )
    datasets: dict[str, Dataset] = Field(min_length=1)

    @field_validator("methods", "seeds")
    @classmethod
    def _no_twice(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{', '.join(map(str, value))}: something stands there twice")
        return value

    @model_validator(mode="after")
    def _sources_exist(self) -> Self:
        for name, dataset in self.datasets.items():
            if not name.replace("-", "_").isidentifier():
                raise ValueError(f"data sets are named by letters, digits, - and _, got {name!r}")
            source = dataset.transfer_from
            if source is not None and (source not in self.datasets or self.datasets[source].transfer_from):
                raise ValueError(
                    f"{name}: transfer_from names the data set whose models are used, one that is trained on "
                    f"itself: {', '.join(n for n, d in self.datasets.items() if not d.transfer_from)}; got {source!r}"
                )
        return self

    @property
    def cutoffs_from(self) -> Literal["validation", "published"]:
        """Where cutoffs come from."""
        return self.cutoffs or ("published" if self.preset == "paper" else "validation")

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """Give the seeds of a method."""
        return {str(name): seeds for name, seeds in self.more_seeds.items()}.get(method, self.seeds)

    def settings_of(self, method: str) -> Mapping[str, Any]:
        """Give the changes of a method's settings."""
        return {str(name): settings for name, settings in self.settings.items()}.get(method, {})


def shipped() -> dict[str, Path]:
    """Give the studies that come with ArtSeg, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def read_study(source: str) -> tuple[Study, Path]:
    """Read a study.

    Parameters
    ----------
    source : str
        A YAML file, or the name of a study that comes with ArtSeg.

    Returns
    -------
    tuple
        The study and its file.

    Raises
    ------
    ArtSegError
        There is no such file or name, it is no YAML, or something in it is not as it should be.
    """
    path = Path(source)
    if not path.is_file():
        known = shipped()
        if source not in known:
            raise ArtSegError(
                f"Expected a STUDY.yaml or the name of a study that comes with ArtSeg ({', '.join(known)}), "
                f"got {source}."
            )
        path = known[source]
    try:
        content: Any = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ArtSegError(f"{path} could not be read as YAML: {' '.join(str(error).split())}. {_EXAMPLE}") from error
    if not isinstance(content, dict):
        raise ArtSegError(f"{path}: expected names and values, got {type(content).__name__}. {_EXAMPLE}")
    try:
        return Study.model_validate(content), path
    except ValidationError as error:
        problems = "\n".join(f"  {_told(cast('Mapping[str, Any]', problem))}" for problem in error.errors())
        raise ArtSegError(f"{path} is not a study yet:\n{problems}\n{_EXAMPLE}") from error


def _told(problem: Mapping[str, Any]) -> str:
    """Say one problem in the words of the file: where, what, and what is possible there."""
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    kind, message = problem["type"], str(problem["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        part: type[_Part] = Study
        if problem["loc"][0] == "datasets":
            part = {"pairs": Pairs, "simulate": Simulated}.get(str(problem["loc"][2]), Dataset)
        return f"{place}: there is no such setting; there are {', '.join(part.model_fields)}."
    if kind == "missing":
        return f"{place}: missing."
    return f"{place}: {message} (got {problem['input']!r})." if kind != "value_error" else f"{place}: {message}."
