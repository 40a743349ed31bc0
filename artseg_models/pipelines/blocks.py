"""The modules that `insert` writes, each in a fixed revision of its settings.

CellProfiler upgrades a revision that it knows to its own when it loads the pipeline. The revisions here are those of
CellProfiler 4.2 and of the first SegmentArtifacts, so that a new revision of a module needs no change here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from artseg_models.pipelines.text import Module, Setting

SEGMENT_ARTIFACTS = "SegmentArtifacts"


def make_module(
    name: str, revision: int, settings: Sequence[tuple[str, str]], *, note: str, line_end: str = "\n"
) -> Module:
    """Make a module.

    Parameters
    ----------
    name : str
        The module's kind.
    revision : int
        Revision of its settings.
    settings : sequence of (str, str)
        Texts and values, in CellProfiler's order.
    note : str
        Shown in CellProfiler's window above the settings; without quotes, brackets, bars and backslashes.
    line_end : str
        As in the pipeline that takes the module.
    """
    header = (
        f"{name}:[module_num:0|svn_version:'Unknown'|variable_revision_number:{revision}|show_window:False|"
        f"notes:['{note}']|batch_state:array([], dtype=uint8)|enabled:True|wants_pause:False]{line_end}"
    )
    lines = tuple(Setting(f"    {text}:{value}{line_end}") for text, value in settings)
    return Module(header, lines, line_end)


def segment_artifacts(
    brightfield: str, *, objects: str, artifact_mask: str, clean_mask: str, package: Path | None, line_end: str
) -> Module:
    """Make SegmentArtifacts, all else as the model says."""
    folder, file = ("Default Input Folder|", "artseg-unet.zip")
    if package is not None:
        package = package.resolve()
        folder, file = f"Elsewhere...|{package.parent.as_posix()}", package.name
    return make_module(
        SEGMENT_ARTIFACTS,
        1,
        (
            ("Select the brightfield image", brightfield),
            ("Name the artifact objects", objects),
            ("Name the artifact mask", artifact_mask),
            ("Name the clean mask", clean_mask),
            ("Keep the probability image?", "No"),
            ("Name the probability image", "ArtifactProbability"),
            ("Folder of the model package", folder),
            ("Model package", file),
            ("Probability cutoff", "As the model says"),
            ("Cutoff", "0.5"),
            ("Smallest artifact", "As the model says"),
            ("Smallest artifact, in pixels", "100"),
            ("Let the classifier pass clean images?", "Yes"),
            ("Device", "auto"),
            ("Python that has artseg", ""),
        ),
        note=f"Find artifacts in {brightfield}.",
        line_end=line_end,
    )


def copy_image(source: str, name: str, *, note: str, line_end: str) -> Module:
    """Make an ImageMath that gives an image a second name."""
    operand = ("Multiply the image by", "1.0")
    return make_module(
        "ImageMath",
        5,
        (
            ("Operation", "None"),
            ("Raise the power of the result by", "1.0"),
            ("Multiply the result by", "1.0"),
            ("Add to result", "0.0"),
            ("Set values less than 0 equal to 0?", "No"),
            ("Set values greater than 1 equal to 1?", "No"),
            ("Replace invalid values with 0?", "No"),
            ("Ignore the image masks?", "No"),
            ("Name the output image", name),
            ("Image or measurement?", "Image"),
            ("Select the image", source),
            operand,
            ("Measurement", ""),
            ("Image or measurement?", "Image"),
            ("Select the image", "None"),
            operand,
            ("Measurement", ""),
        ),
        note=note,
        line_end=line_end,
    )


def mask_image(source: str, name: str, *, clean_mask: str, line_end: str) -> Module:
    """Make a MaskImage that blanks artifacts."""
    return make_module(
        "MaskImage",
        3,
        (
            ("Select the input image", source),
            ("Name the output image", name),
            ("Use objects or an image as a mask?", "Image"),
            ("Select object for mask", "None"),
            ("Select image for mask", clean_mask),
            ("Invert the mask?", "No"),
        ),
        note=f"Blank artifacts; the masked image keeps the name {name}.",
        line_end=line_end,
    )


def measure_overlap(objects: str, *, artifact_mask: str, line_end: str) -> Module:
    """Make a MeasureArtifactOverlap."""
    return make_module(
        "MeasureArtifactOverlap",
        1,
        (("Select the artifact mask", artifact_mask), ("Select objects to measure", objects)),
        note="How much of each object lies under artifacts, and how far the nearest one is.",
        line_end=line_end,
    )


def keep_objects(source: str, name: str, *, measurement: str, maximum: float, line_end: str) -> Module:
    """Make a FilterObjects that keeps whole objects whose measurement is at most `maximum`."""
    return make_module(
        "FilterObjects",
        10,
        (
            ("Select the objects to filter", source),
            ("Name the output objects", name),
            ("Select the filtering mode", "Measurements"),
            ("Select the filtering method", "Limits"),
            ("Select the objects that contain the filtered objects", "None"),
            ("Select the location of the rules or classifier file", "Elsewhere...|"),
            ("Rules or classifier file name", "rules.txt"),
            ("Class number", "1"),
            ("Measurement count", "1"),
            ("Additional object count", "0"),
            ("Assign overlapping child to", "Both parents"),
            ("Keep removed objects as a separate set?", "No"),
            ("Name the objects removed by the filter", "RemovedObjects"),
            ("Select the measurement to filter by", measurement),
            ("Filter using a minimum measurement value?", "No"),
            ("Minimum value", "0.0"),
            ("Filter using a maximum measurement value?", "Yes"),
            ("Maximum value", f"{maximum:g}"),
            ("Allow fuzzy feature matching?", "No"),
        ),
        note=f"Artifacts are left out; what is kept has the name {name}.",
        line_end=line_end,
    )


def cut_objects(source: str, name: str, *, clean_mask: str, line_end: str) -> Module:
    """Make a MaskObjects that cuts what lies under artifacts off objects."""
    return make_module(
        "MaskObjects",
        3,
        (
            ("Select objects to be masked", source),
            ("Name the masked objects", name),
            ("Mask using a region defined by other objects or by binary image?", "Image"),
            ("Select the masking object", "None"),
            ("Select the masking image", clean_mask),
            ("Handling of objects that are partially masked", "Keep overlapping region"),
            ("Fraction of object that must overlap", "0.5"),
            ("Numbering of resulting objects", "Renumber"),
            ("Invert the mask?", "No"),
        ),
        note="Cut off what lies under artifacts.",
        line_end=line_end,
    )


def relate_objects(parent: str, child: str, *, line_end: str) -> Module:
    """Make a RelateObjects."""
    return make_module(
        "RelateObjects",
        5,
        (
            ("Parent objects", parent),
            ("Child objects", child),
            ("Calculate child-parent distances?", "None"),
            ("Calculate per-parent means for all child measurements?", "No"),
            ("Calculate distances to other parents?", "No"),
            ("Do you want to save the children with parents as a new object set?", "No"),
            ("Name the output object", "RelateObjects"),
            ("Parent name", "None"),
        ),
        note=f"Keep the measurements Parent_{parent} and Children_{child}_Count.",
        line_end=line_end,
    )


#: texts of settings of IdentifyPrimaryObjects that its basic mode overrides
_STRATEGY, _METHOD, _SMOOTHING, _LOG = (
    "Threshold strategy",
    "Thresholding method",
    "Threshold smoothing scale",
    "Log transform before thresholding?",
)
_BY_VALUE = ("Manual", "Measurement")


def threshold_as(producer: Module, *, image: str, name: str, line_end: str) -> Module:
    """Make a Threshold that measures what the thresholding inside another module measured.

    CellProfiler 4 gives the same values to the last digit. CellProfiler 5 takes the weighted variance and the sum of
    entropies inside IdentifyPrimaryObjects after filling holes, so that these two differ by some percent there.

    Parameters
    ----------
    producer : Module
        An IdentifyPrimaryObjects or IdentifySecondaryObjects.
    image : str
        The image that it thresholds.
    name : str
        Name of the binary image, which the measurements bear: the objects' name before.

    Returns
    -------
    Module
        In the revision of the thresholding settings inside the producer.
    """
    at = next(i for i, setting in enumerate(producer.settings) if setting.text == "Threshold setting version")
    version = int(producer.settings[at].value)
    settings = list(producer.settings[at + 1 :])
    if version < 4:
        # CellProfiler upgrades these from a revision of Threshold that had four settings before the version
        placeholder = [Setting(f"    Unused:0{line_end}")] * 4
        settings, version = [*placeholder, *producer.settings[at:]], 7
    elif producer.value("Use advanced settings?", "Yes") == "No":
        settings = _basic(settings)
    made = make_module(
        "Threshold",
        version,
        (("Select the input image", image), ("Name the output image", name)),
        note=f"Keep the measurements Threshold_..._{name}.",
        line_end=line_end,
    )
    ended = [setting if setting.line.endswith("\n") else Setting(setting.line + line_end) for setting in settings]
    return Module(made.header, (*made.settings, *ended), made.gap)


def _basic(settings: Sequence[Setting]) -> list[Setting]:
    """Give the settings that count without advanced settings, whatever the hidden ones say."""
    forced = {_STRATEGY: "Global", _METHOD: "Minimum Cross-Entropy", _SMOOTHING: "1.3488", _LOG: "No"}
    written: list[Setting] = []
    for setting in settings:
        # the second method, for the adaptive strategy, stays
        value = forced.pop(setting.text, None)
        by_value = setting.text == _METHOD and setting.value in _BY_VALUE
        written.append(setting if value is None or by_value else setting.with_value(value))
    return written
