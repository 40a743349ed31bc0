"""Runs in CellProfiler's own Python. Prints its findings as JSON.

`dump FILE` writes a pipeline with every module whose objects can get another name; `compare BEFORE AFTER ...` tells for
each pair what was measured before and is not after, and of what CellProfiler's window would complain.
"""

import json
import sys

from inside_common import load_plugins

plugins, task, *files = sys.argv[1:]
load_plugins(plugins)

import cellprofiler_core  # noqa: E402
from cellprofiler_core.pipeline import Pipeline  # noqa: E402
from cellprofiler_core.setting import ValidationError  # noqa: E402
from cellprofiler_core.utilities.core.modules import instantiate_module  # noqa: E402

#: module, objects that it makes, {text of a setting: value}
PRODUCERS = [
    ("IdentifyPrimaryObjects", "Basic", {"Select the input image": "DNA", "Use advanced settings?": "No"}),
    (
        "IdentifyPrimaryObjects",
        "Adaptive",
        {"Select the input image": "DNA", "Use advanced settings?": "Yes", "Threshold strategy": "Adaptive"},
    ),
    ("IdentifySecondaryObjects", "Cells", {"Select the input objects": "Basic", "Select the input image": "Signal"}),
    (
        "IdentifySecondaryObjects",
        "Rings",
        {
            "Select the input objects": "Basic",
            "Select the input image": "Signal",
            "Select the method to identify the secondary objects": "Distance - N",
            "Discard secondary objects touching the border of the image?": "Yes",
            "Discard the associated primary objects?": "Yes",
            "Name the new primary objects": "Inner",
        },
    ),
    ("FilterObjects", "Filtered", {"Select the objects to filter": "Basic"}),
    ("ExpandOrShrinkObjects", "Expanded", {"Select the input objects": "Basic"}),
    ("SplitOrMergeObjects", "Merged", {"Select the input objects": "Basic"}),
    ("MaskObjects", "Masked", {"Select objects to be masked": "Basic", "Select the masking object": "Adaptive"}),
    ("DilateObjects", "Dilated", {"Select the input object": "Basic"}),
    ("ErodeObjects", "Eroded", {"Select the input object": "Basic"}),
    ("FillObjects", "Filled", {"Select the input object": "Basic"}),
    ("Watershed", "Shed", {"Select the input image": "DNA"}),
    ("ConvertImageToObjects", "Converted", {"Select the input image": "DNA"}),
    ("IdentifyObjectsManually", "Drawn", {"Select the input image": "DNA"}),
]


def dump(start, target):
    pipeline = loaded(start)[0]
    for name, objects, values in PRODUCERS:
        module = instantiate_module(name)
        texts = []
        for setting in module.settings():
            if setting.text in values and setting.text not in texts:
                texts.append(setting.text)
                setting.value = values[setting.text]
        lacking = set(values) - set(texts)
        assert not lacking, (name, lacking, [setting.text for setting in module.settings()])
        naming = next(setting for setting in module.settings() if setting.text.startswith("Name"))
        naming.value = objects
        module.set_module_num(len(pipeline.modules()) + 1)
        pipeline.add_module(module)
    with open(target, "w", encoding="utf-8") as written:
        pipeline.dump(written, save_image_plane_details=False)
    return [[name, objects] for name, objects, _ in PRODUCERS]


def loaded(path):
    errors = []

    def listen(_, event):
        if type(event).__name__ == "LoadException":
            errors.append(str(event.error))

    pipeline = Pipeline()
    pipeline.add_listener(listen)
    pipeline.load(path)
    return pipeline, errors


def described(path):
    pipeline, errors = loaded(path)
    problems = []
    for module in pipeline.modules():
        try:
            module.test_valid(pipeline)
        except ValidationError as error:
            problems.append(f"{module.module_name}: {error}")
    columns = [
        f"{column[0]}.{column[1]}"
        for column in pipeline.get_measurement_columns()
        if not column[1].startswith(("ModuleError_", "ExecutionTime_"))
    ]
    return columns, len(pipeline.modules(False)), errors, problems


def compare():
    pairs = []
    for before, after in zip(files[::2], files[1::2]):  # noqa: B905 - Python 3.9
        had, modules_before, errors_before, problems_before = described(before)
        has, modules_after, errors, problems = described(after)
        pairs.append(
            {
                "columns": len(set(had)),
                "lost": sorted(set(had) - set(has)),
                "twice": sorted({name for name in has if has.count(name) > 1} - {n for n in had if had.count(n) > 1}),
                "modules": [modules_before, modules_after],
                "errors": [error for error in errors if error not in errors_before],
                "problems": [problem for problem in problems if problem not in problems_before],
            }
        )
    return pairs


def work():
    return dump(*files) if task == "dump" else compare()


if cellprofiler_core.__version__.startswith("4"):  # its own modules ask Java whether their settings are valid
    from cellprofiler_core.utilities.java import start_java, stop_java

    start_java()
    try:
        found = work()
    finally:
        stop_java()
else:
    found = work()

sys.stdout.write("FOUND" + json.dumps(found))
