"""Which module of a pipeline makes which image and objects, and which ones mention a name, as far as its text tells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from artseg_models.pipelines.text import Module, PipelineText

Kind = Literal["image", "objects"]

#: modules that only say which images there are; they come first
INPUT_MODULES = ("Images", "Metadata", "NamesAndTypes", "Groups", "LoadData")

_NO_NAME = ("", "None", "Do not use")
_IMAGE_NAME = re.compile(r"^Name\b.*\bimages?\b|^(Enter the )?[Ii]mage name$|^Output$|call the loaded image")
_OBJECTS_NAME = re.compile(r"^Name\b.*\b(objects?|object set)\b")

#: names that count only if another setting says so: module, setting that names: settings and what they must be
_ONLY_IF = {
    ("IdentifySecondaryObjects", "Name the new primary objects"): (
        ("Discard secondary objects touching the border of the image?", "Yes"),
        ("Discard the associated primary objects?", "Yes"),
    ),
    ("FilterObjects", "Name the objects removed by the filter"): (("Keep removed objects as a separate set?", "Yes"),),
    ("RelateObjects", "Name the output object"): (
        ("Do you want to save the children with parents as a new object set?", "Yes"),
    ),
}


@dataclass(frozen=True)
class Name:
    """An image or objects that a module makes.

    Attributes
    ----------
    kind : 'image' or 'objects'
    name : str
    module : int
        Index of the module that makes it.
    setting : int
        Index of its setting that holds the name.
    from_file : bool
        Whether it is read rather than computed.
    """

    kind: Kind
    name: str
    module: int
    setting: int
    from_file: bool


def names_made(pipeline: PipelineText) -> list[Name]:
    """List all images and objects that enabled modules make, in the pipeline's order.

    Images and objects that LoadData reads are named in its table, not in the pipeline, and are missing here.
    """
    found: list[Name] = []
    for index, module in enumerate(pipeline.modules):
        if module.enabled:
            found += _read(module, index) if module.name == "NamesAndTypes" else _made(module, index)
    return found


def counts(module: Module, text: str) -> bool:
    """Whether a setting that names something is used, given the module's other settings."""
    return all(module.value(other) == value for other, value in _ONLY_IF.get((module.name, text), ()))


def _made(module: Module, index: int) -> Iterator[Name]:
    for at, setting in enumerate(module.settings):
        if setting.value in _NO_NAME:
            continue
        kind: Kind
        if _OBJECTS_NAME.search(setting.text):
            kind = "objects"
        elif _IMAGE_NAME.search(setting.text):
            kind = "image"
        else:
            continue
        if counts(module, setting.text):
            yield Name(kind, setting.value, index, at, from_file=False)


def _read(module: Module, index: int) -> Iterator[Name]:
    """Take NamesAndTypes apart: each assignment names images and objects, and its type says which of them counts."""
    if module.value("Assign a name to") == "All images":
        at = next((i for i, setting in enumerate(module.settings) if setting.text.startswith("Name to assign")), None)
        if at is not None:
            yield Name("image", module.settings[at].value, index, at, from_file=True)
        return
    image: int | None = None
    objects: int | None = None
    inside = False  # before the first rule stands what counts for "All images"
    for at, setting in enumerate(module.settings):
        if setting.text in ("Select the rule criteria", "Single image location"):
            inside = True
            image = objects = None
        elif setting.text == "Name to assign these images" and inside:
            image = at
        elif setting.text == "Name to assign these objects" and inside:
            objects = at
        elif setting.text == "Select the image type" and image is not None:
            if setting.value != "Objects":
                yield Name("image", module.settings[image].value, index, image, from_file=True)
            elif objects is not None:
                yield Name("objects", module.settings[objects].value, index, objects, from_file=True)
            image = None


def loads_data(pipeline: PipelineText) -> bool:
    """Whether a LoadData reads images, whose names the pipeline does not tell."""
    return any(
        module.enabled and module.name == "LoadData" and module.value("Load images based on this data?", "Yes") == "Yes"
        for module in pipeline.modules
    )


def first_after_inputs(pipeline: PipelineText) -> int:
    """Index of the first module that has all images which are read."""
    return max((i for i, module in enumerate(pipeline.modules) if module.name in INPUT_MODULES), default=-1) + 1


def images_asked_for(pipeline: PipelineText) -> list[str]:
    """Names that settings of enabled modules select as images, each once."""
    asked: list[str] = []
    for module in pipeline.modules:
        for setting in module.settings:
            if module.enabled and re.search(r"\b[Ss]elect\b.*\bimages?\b", setting.text):
                asked += [name for name in selected(setting.value) if re.fullmatch(r"[A-Za-z]\w*", name)]
    return [name for name in dict.fromkeys(asked) if name not in _NO_NAME]


def selected(value: str) -> list[str]:
    """Names in a setting that selects one or several."""
    return [name.strip() for name in re.split(r"[,|]", value)]


def selects(module: Module, names: Sequence[str] | set[str]) -> bool:
    """Whether a setting of the module is, or lists, one of the names; settings that give names do not count."""
    return any(
        name in names
        for setting in module.settings
        if not (_OBJECTS_NAME.search(setting.text) or _IMAGE_NAME.search(setting.text))
        for name in selected(setting.value)
    )


def mentions(module: Module, name: str) -> bool:
    """Whether the module's settings hold the name, also as a part of a measurement's name."""
    whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
    return any(whole.search(setting.value) for setting in module.settings)
