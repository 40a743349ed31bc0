"""Inserting SegmentArtifacts into a pipeline so that every measurement keeps its name.

The raw image or objects get a new name (`DNA` becomes `DNA_unmasked`), the masked ones take the old. Images are copied
to their new name after they are made, so that what the module that makes them measures stays. Objects cannot be made
twice in CellProfiler: the module that makes them gives them the new name, and what it measured under the old one is
measured again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file
from artseg_models.pipelines import blocks
from artseg_models.pipelines.names import (
    Name,
    counts,
    first_after_inputs,
    images_asked_for,
    loads_data,
    mentions,
    names_made,
    selects,
)
from artseg_models.pipelines.text import Module, PipelineText

DEFAULT_OVERLAP = 0.5

_TOO_OLD = ("LoadImages", "LoadSingleImage")

#: modules whose objects can get another name: the settings that hold the objects from which they are made
_RENAMABLE: dict[str, tuple[int, ...]] = {
    "ConvertImageToObjects": (),
    "DilateObjects": (0,),
    "ErodeObjects": (0,),
    "ExpandOrShrinkObjects": (0,),
    "FillObjects": (0,),
    "FilterObjects": (0,),
    "IdentifyObjectsManually": (),
    "IdentifyPrimaryObjects": (),
    "IdentifySecondaryObjects": (0,),
    "MaskObjects": (0,),
    "RunCellpose": (),
    "RunStarDist": (),
    "SplitOrMergeObjects": (0,),
    "Watershed": (),
}
_OLDEST_REVISION = {"IdentifyPrimaryObjects": 10, "IdentifySecondaryObjects": 9}  # which CellProfiler 4 upgrades


@dataclass
class Plan:
    """What will change in a pipeline.

    Attributes
    ----------
    pipeline : PipelineText
        As it is.
    added : dict of int to list of (Module, str)
        New modules before the module of that index, each with what it is for.
    changed : dict of (int, int) to str
        New values of settings, by index of module and setting.
    notes : list of str
        What the user should know.
    """

    pipeline: PipelineText
    added: dict[int, list[tuple[Module, str]]] = field(default_factory=dict[int, list[tuple[Module, str]]])
    changed: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    notes: list[str] = field(default_factory=list[str])

    def add(self, before: int, module: Module, why: str) -> None:
        """Add a module before the one of that index, after those that were added there already."""
        self.added.setdefault(before, []).append((module, why))

    def apply(self) -> PipelineText:
        """Give the changed pipeline; modules that are not listed keep every byte but their number."""
        return self.pipeline.with_modules([module for module, _ in self._steps()])

    def _steps(self) -> list[tuple[Module, str]]:
        steps: list[tuple[Module, str]] = []
        for index in range(len(self.pipeline.modules) + 1):
            steps += self.added.get(index, [])
            if index == len(self.pipeline.modules):
                break
            module = self.pipeline.modules[index]
            for (of, setting), value in self.changed.items():
                if of == index:
                    module = module.with_setting(setting, value)
            steps.append((module, ""))
        return steps

    def lines(self) -> list[str]:
        """Give the list that is shown before anything is written.

        Returns
        -------
        list of str
            One line a change, with the module's number in the new pipeline.
        """
        listed: list[str] = []
        old = 0
        for number, (module, why) in enumerate(self._steps(), start=1):
            if why:
                listed.append(f"+ {number:>3} {module.name}: {why}")
                continue
            before = self.pipeline.modules[old]
            listed += [
                f"~ {number:>3} {module.name}: '{was.text}' was {was.value or 'empty'}, becomes {now.value}"
                for was, now in zip(before.settings, module.settings, strict=True)
                if was != now
            ]
            old += 1
        return listed


def plan_insertion(
    pipeline: PipelineText,
    *,
    brightfield: str,
    mask_images: Sequence[str] = (),
    objects: Sequence[str] = (),
    package: Path | None = None,
    overlap: float | None = None,
    cut_objects: bool = False,
) -> Plan:
    """Find what must change so that artifacts are kept out and measurements keep their names.

    Parameters
    ----------
    pipeline : PipelineText
    brightfield : str
        The image in which to look for artifacts.
    mask_images : sequence of str
        Images in which artifacts are blanked for all later modules.
    objects : sequence of str
        Objects of which those under artifacts are dropped for all later modules.
    package : Path, optional
        Model package for SegmentArtifacts.
    overlap : float, optional
        Whole objects are dropped of which more than this share, 0 to 1, lies under artifacts; by default
        `DEFAULT_OVERLAP`. Objects that are found in a masked image end at the artifacts, so there every object that
        an artifact touches is dropped instead.
    cut_objects : bool
        Cut off what lies under artifacts instead of dropping whole objects.

    Returns
    -------
    Plan

    Raises
    ------
    ArtSegError
        There is no such image or objects, the brightfield image is made too late, the pipeline has SegmentArtifacts
        already, or is too old.
    """
    _check(pipeline, package)
    plan = Plan(pipeline)
    names = names_made(pipeline)
    taken = _words(pipeline)
    end = pipeline.line_end
    mask_images, objects = list(dict.fromkeys(mask_images)), list(dict.fromkeys(objects))

    seen = _image(pipeline, names, brightfield, plan, must_be_used=False)
    start = _available(pipeline, seen)
    artifacts, artifact_mask, clean_mask = (_free(name, taken) for name in ("Artifacts", "ArtifactMask", "CleanMask"))
    segment = blocks.segment_artifacts(
        brightfield,
        objects=artifacts,
        artifact_mask=artifact_mask,
        clean_mask=clean_mask,
        package=package,
        line_end=end,
    )
    plan.add(start, segment, f"finds artifacts in {brightfield}; makes {artifact_mask}, {clean_mask}, {artifacts}")
    if package is None:
        plan.notes.append("No model package was given: choose it in SegmentArtifacts, or run with --model.")

    masked_from: dict[str, int] = {}
    for image in mask_images:
        made = _image(pipeline, names, image, plan, must_be_used=True)
        at = _place(pipeline, image, _available(pipeline, made), start, brightfield)
        masked_from[image] = at
        raw = _free(f"{image}_unmasked", taken)
        plan.add(
            at,
            blocks.copy_image(image, raw, note=f"The raw image gets the name {raw}.", line_end=end),
            f"the raw image {image} gets the name {raw}",
        )
        plan.add(
            at,
            blocks.mask_image(raw, image, clean_mask=clean_mask, line_end=end),
            f"the masked image takes the name {image}",
        )

    cut = _found_in_masked(pipeline, names, masked_from, objects)
    for name in sorted(objects, key=lambda name: _producer(pipeline, names, name).module):
        producer = _producer(pipeline, names, name)
        module = pipeline.modules[producer.module]
        at = _place(pipeline, name, producer.module + 1, start, brightfield)
        raw = _free(f"{name}_unmasked", taken)
        plan.changed[producer.module, producer.setting] = raw
        _keep_thresholds(plan, names, producer, module, taken)
        whole = raw
        if cut_objects:
            raw = _free(f"{name}_cut", taken)
            plan.add(
                at,
                blocks.cut_objects(whole, raw, clean_mask=clean_mask, line_end=end),
                f"cuts off what lies under artifacts; what remains of {whole} is {raw}",
            )
        touched = name in cut and not cut_objects
        # MaskObjects does not declare all that its objects measure; FilterObjects does, and here keeps all
        limit = 1.0 if cut_objects else 0.0 if touched else DEFAULT_OVERLAP if overlap is None else overlap
        feature = "TouchesArtifact" if touched else "OverlapFraction"
        which = "that artifacts touch" if touched else f"with more than {limit:g} under artifacts"
        plan.add(
            at,
            blocks.measure_overlap(raw, artifact_mask=artifact_mask, line_end=end),
            f"measures how much of {raw} lies under artifacts",
        )
        plan.add(
            at,
            blocks.keep_objects(
                raw, name, measurement=f"ArtSeg_{feature}_{artifact_mask}", maximum=limit, line_end=end
            ),
            f"gives {raw} the name {name}"
            if cut_objects
            else f"drops whole {raw} {which}; the kept ones take the name {name}",
        )
        if touched and overlap is not None:
            plan.notes.append(
                f"{name} are found in a masked image and end at its artifacts: those that an artifact touches are "
                "dropped, whatever --overlap says. Leave the image out of --mask-images to drop by overlap."
            )
        for parent in _parents(module):
            plan.add(
                at,
                blocks.relate_objects(parent, name, line_end=end),
                f"keeps Parent_{parent} of {name} and Children_{name}_Count of {parent}",
            )
    _keep_table_rows(plan, names)
    plan.notes += _remarks(plan, mask_images, objects)
    return plan


def write_pipeline(pipeline: PipelineText, path: Path) -> None:
    """Write a pipeline, whole or not at all.

    Raises
    ------
    ArtSegError
        There is a file of that name, which may be somebody's pipeline, or it cannot be written.
    """
    if path.exists():
        raise ArtSegError(f"There is a file {path} already. Choose another name, or remove it first.")
    with whole_file(path) as temporary:
        temporary.write_bytes(pipeline.to_bytes())


def _check(pipeline: PipelineText, package: Path | None) -> None:
    kinds = [module.name for module in pipeline.modules]
    if blocks.SEGMENT_ARTIFACTS in kinds:
        number = kinds.index(blocks.SEGMENT_ARTIFACTS) + 1
        raise ArtSegError(
            f"The pipeline has {blocks.SEGMENT_ARTIFACTS} already (module {number}). Insert into the pipeline without "
            "it, or change that module's settings in CellProfiler."
        )
    old = [kind for kind in kinds if kind in _TOO_OLD]
    if old:
        raise ArtSegError(
            f"The pipeline reads its images with {old[0]}, a module of CellProfiler 2, which is too old. Let a current "
            "CellProfiler convert it to Images and NamesAndTypes, export the pipeline, and insert again."
        )
    if package is not None and not package.exists():
        raise ArtSegError(f"Expected a model package (.zip or folder) at {package}, but there is none.")


def _words(pipeline: PipelineText) -> set[str]:
    """All that new names must differ from."""
    return {
        word for module in pipeline.modules for setting in module.settings for word in re.findall(r"\w+", setting.value)
    }


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name}{number}", number + 1
    taken.add(free)
    return free


def _image(pipeline: PipelineText, names: Sequence[Name], image: str, plan: Plan, *, must_be_used: bool) -> Name | None:
    """Find what makes an image; None for one that LoadData must read."""
    made = [name for name in names if name.kind == "image" and name.name == image]
    if made:
        return made[-1]
    asked = images_asked_for(pipeline)
    if loads_data(pipeline) and (image in asked or not must_be_used):
        column = f"Image_FileName_{image}"
        plan.notes.append(f"{image} must be read by LoadData: its table needs the column {column}.")
        return None
    known = dict.fromkeys([name.name for name in names if name.kind == "image"])
    if loads_data(pipeline):
        known |= dict.fromkeys(asked)
    raise ArtSegError(
        f"Expected an image of the pipeline, got '{image}'. Its images are: {', '.join(known) or 'none'}. "
        "An image that is only on disk must first get a name in NamesAndTypes."
    )


def _available(pipeline: PipelineText, made: Name | None) -> int:
    """Index of the first module that can use an image."""
    inputs = first_after_inputs(pipeline)
    return inputs if made is None or made.from_file else max(inputs, made.module + 1)


def _place(pipeline: PipelineText, name: str, available: int, start: int, brightfield: str) -> int:
    """Where an image or objects can be masked: after they and the artifacts are there, before they are used."""
    for index in range(available, start):
        module = pipeline.modules[index]
        if module.enabled and mentions(module, name):
            raise ArtSegError(
                f"{name} is used by {module.name} (module {index + 1}), but the brightfield image {brightfield} is "
                f"there only after module {start}. In CellProfiler move what makes {brightfield} up, before module "
                f"{index + 1}, or choose an image that is read from files."
            )
    return max(available, start)


def _producer(pipeline: PipelineText, names: Sequence[Name], objects: str) -> Name:
    made = [name for name in names if name.kind == "objects" and name.name == objects]
    if not made:
        known = dict.fromkeys(name.name for name in names if name.kind == "objects")
        raise ArtSegError(
            f"Expected objects of the pipeline, got '{objects}'. Its objects are: {', '.join(known) or 'none'}."
        )
    producer = made[0]
    module = pipeline.modules[producer.module]
    where = f"{module.name} (module {producer.module + 1})"
    follow = "Choose the objects from which they are made: what is made of dropped ones is gone, too"
    if producer.from_file:
        raise ArtSegError(
            f"{objects} are read from files, and measurements bear their name from there. {follow}, or use MaskObjects."
        )
    if module.name == "IdentifyTertiaryObjects":
        raise ArtSegError(
            f"{objects} are what remains between {module.settings[0].value} and {module.settings[1].value}. {follow}."
        )
    naming = [i for i, setting in enumerate(module.settings) if setting.text.startswith("Name")]
    if module.name not in _RENAMABLE or producer.setting != naming[0]:
        raise ArtSegError(
            f"{objects} are made by {where}, whose measurements would not all keep their names. {follow}. "
            f"Possible are the objects of: {', '.join(_RENAMABLE)}."
        )
    if module.revision < _OLDEST_REVISION.get(module.name, 0):
        raise ArtSegError(
            f"{where} was saved by a version of CellProfiler that is too old: today's do not upgrade its settings. "
            "Set it up anew in CellProfiler 4, export the pipeline and insert again."
        )
    if module.value("Use advanced settings?", "Yes") == "No" and module.value("Threshold strategy") == "Adaptive":
        raise ArtSegError(
            f"{where} hides an adaptive threshold behind basic settings. In CellProfiler show its advanced settings, "
            "set the threshold strategy to Global, hide them again, export the pipeline and insert again."
        )
    return producer


def _parents(module: Module) -> list[str]:
    """Objects to which the module relates those that it makes."""
    parents = [module.settings[index].value for index in _RENAMABLE[module.name]]
    second = "Name the new primary objects"
    if module.name == "IdentifySecondaryObjects" and counts(module, second):
        parents.append(module.value(second))
    return parents


def _keep_thresholds(plan: Plan, names: Sequence[Name], producer: Name, module: Module, taken: set[str]) -> None:
    """Measure again what thresholding inside a module measured under its objects' name."""
    if module.name == "IdentifyPrimaryObjects":
        image = module.settings[0].value
    elif module.name == "IdentifySecondaryObjects" and not module.settings[2].value.startswith("Distance - N"):
        image = module.settings[3].value
    else:
        return
    pipeline, end, at = plan.pipeline, plan.pipeline.line_end, producer.module + 1
    name = producer.name
    earlier = [made.name for made in names if made.kind == "image" and made.module < producer.module]
    shared = name in earlier or (loads_data(pipeline) and name in images_asked_for(pipeline))
    kept = _free(f"{name}_image", taken) if shared else ""
    if shared:  # an image may bear the name of objects
        plan.add(
            at,
            blocks.copy_image(name, kept, note=f"Keep the image {name} while a mask has its name.", line_end=end),
            f"keeps the image {name}, whose name the next module needs",
        )
    plan.add(
        at,
        blocks.threshold_as(module, image=image, name=name, line_end=end),
        f"keeps the measurements Threshold_..._{name} that {module.name} made",
    )
    if shared:
        plan.add(
            at,
            blocks.copy_image(kept, name, note=f"Give the image {name} its name back.", line_end=end),
            f"gives the image {name} its name back",
        )


def _found_in_masked(
    pipeline: PipelineText, names: Sequence[Name], masked_from: dict[str, int], dropped: Sequence[str]
) -> set[str]:
    """Objects that are found in a masked image, or in one that was computed from it."""
    masked: set[str] = set()
    cut: set[str] = set()
    for index, module in enumerate(pipeline.modules):
        masked |= {image for image, at in masked_from.items() if at == index}
        if not module.enabled or not selects(module, masked | (cut - set(dropped))):
            continue
        for name in names:
            if name.module == index:
                (masked if name.kind == "image" else cut).add(name.name)
    return cut


def _keep_table_rows(plan: Plan, names: Sequence[Name]) -> None:
    """Keep ExportToDatabase from joining the new objects into a table of all objects, whose rows they would change."""
    choice, listed = "Export measurements for all objects to the database?", "Select the objects"
    kind = "Create one table per object, a single object table or a single object view?"
    before = dict.fromkeys(name.name for name in names if name.kind == "objects")
    for index, module in enumerate(plan.pipeline.modules):
        joined = module.value(kind, "One table per object type") != "One table per object type"
        if module.name != "ExportToDatabase" or not joined or module.value(choice) != "All" or not before:
            continue
        if loads_data(plan.pipeline):
            plan.notes.append(
                f"ExportToDatabase joins all objects in one table. Set '{choice}' to Select... and choose those that "
                "you had, so that the new ones do not change its rows."
            )
            continue
        for at, setting in enumerate(module.settings):
            if setting.text == choice:
                plan.changed[index, at] = "Select..."
            elif setting.text == listed:
                plan.changed[index, at] = ", ".join(before)


def _remarks(plan: Plan, mask_images: Sequence[str], objects: Sequence[str]) -> list[str]:
    remarks = [
        "All measurements keep their names but ModuleError_NN... and ExecutionTime_NN..., in which CellProfiler counts "
        "modules."
    ]
    if not mask_images and not objects:
        remarks.append(
            "Nothing is masked: artifacts are only measured. --mask-images and --objects keep them out of measurements."
        )
    sizes = {"Crop", "Resize", "Tile", "Align", "FlipAndRotate"}
    found = {module.name for module in plan.pipeline.modules if module.enabled} & sizes
    if found:
        remarks.append(
            f"The pipeline has {', '.join(sorted(found))}: what is masked must have the brightfield image's size."
        )
    return remarks
