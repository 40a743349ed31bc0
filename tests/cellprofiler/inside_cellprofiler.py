"""Runs in CellProfiler's own Python: the module on images made here. Prints its findings as JSON."""

import json
import sys

import cellprofiler_core
import numpy
from cellprofiler_core.image import Image
from cellprofiler_core.pipeline import Pipeline
from cellprofiler_core.setting import ValidationError
from inside_common import columns_against_measurements, is_plain, load_plugins, message_of
from inside_common import run as run_on

plugins, package, pipelines, brightfield = sys.argv[1:]
load_plugins(plugins)


def new_module():
    from segmentartifacts import SegmentArtifacts

    module = SegmentArtifacts()
    module.set_module_num(1)
    module.x_name.value = "Brightfield"
    module.package_folder.value = "Elsewhere...|" + package.rpartition("/")[0]
    module.package_file.value = package.rpartition("/")[2]
    module.wants_probability.value = True
    return module


def run(module, image):
    return run_on(module, {"Brightfield": image})


found = {}
pixels = numpy.load(brightfield)
mask = numpy.ones(pixels.shape, bool)
mask[:, 100:160] = False

module = new_module()
workspace = run(module, Image(pixels, mask=mask))
artifact, clean, probability = (
    workspace.image_set.get_image(name).pixel_data for name in ("ArtifactMask", "CleanMask", "ArtifactProbability")
)
objects = workspace.object_set.get_objects("Artifacts")
measurements = workspace.measurements
found["masked"] = {
    "dtypes": [str(array.dtype) for array in (artifact, clean, probability, objects.segmented)],
    "in_both": int((artifact & clean).sum()),
    "in_neither_are_masked": bool(((~artifact & ~clean) == ~mask).all()),
    "artifact_pixels": int(artifact.sum()),
    "objects": [int(label) for label in numpy.unique(objects.segmented)],
    "usable": int(measurements.get_current_image_measurement("ArtSeg_UsableArea_Artifacts")),
    "clean": int(clean.sum()),
    "fraction": float(measurements.get_current_image_measurement("ArtSeg_AreaFraction_Artifacts")),
    "displayed": sorted(workspace.display_data.__dict__),
    "plain": is_plain(workspace.display_data),
}
found.update(columns_against_measurements(module, workspace, ("Image", "Artifacts")))
found["chosen_by_category"] = [
    "_".join((category, feature, of))
    for category in module.get_categories(None, "Image")
    for feature in module.get_measurements(None, "Image", category)
    for of in module.get_measurement_objects(None, "Image", category, feature)
]

module = new_module()
module.cutoff_choice.value = "Custom"
module.cutoff.value = 1.0
workspace = run(module, Image(pixels))
found["nothing_found"] = {
    "count": int(workspace.object_set.get_objects("Artifacts").count),
    "centres": len(workspace.measurements.get_current_measurement("Artifacts", "Location_Center_X")),
    "clean": bool(workspace.image_set.get_image("CleanMask").pixel_data.all()),
    "cutoff": float(workspace.measurements.get_current_image_measurement("ArtSeg_Cutoff_Artifacts")),
}

found["colour"] = message_of(run, new_module(), Image(numpy.dstack([pixels, pixels / 2, pixels])))
bad = pixels.copy()
bad[3, 4] = numpy.nan
found["nan"] = message_of(run, new_module(), Image(bad))
found["constant"] = message_of(run, new_module(), Image(numpy.full((64, 64), 0.5, numpy.float32)))
module = new_module()
module.package_file.value = "missing.zip"
found["validated"] = message_of(module.validate_module, None)
found["missing"] = message_of(run, module, Image(pixels))
module.package_file.value = ""
found["blank"] = message_of(run, module, Image(pixels))


def problems_of_examples():
    """Give the modules of each example and what CellProfiler's window would complain of."""
    examples = {}
    for name in ("artifacts_masked", "artifacts_filtered", "image_quality", "no_masking"):
        pipeline = Pipeline()
        pipeline.load(pipelines + "/" + name + ".cppipe")
        problems = []
        for loaded in pipeline.modules():
            if loaded.module_name == "SegmentArtifacts":
                loaded.package_folder.value = "Elsewhere...|" + package.rpartition("/")[0]
                loaded.package_file.value = package.rpartition("/")[2]
            try:
                loaded.test_valid(pipeline)
            except ValidationError as error:
                problems.append(f"{loaded.module_name}: {error}")
        examples[name] = [[loaded.module_name for loaded in pipeline.modules()], problems]
    return examples


if cellprofiler_core.__version__.startswith("4"):  # its own modules ask Java whether their settings are valid
    from cellprofiler_core.utilities.java import start_java, stop_java

    start_java()
    try:
        found["pipelines"] = problems_of_examples()
    finally:
        stop_java()
else:
    found["pipelines"] = problems_of_examples()

sys.stdout.write("FOUND" + json.dumps(found))
