"""Runs in CellProfiler's own Python: the module on images made here. Prints its findings as JSON."""

import json
import os
import sys

import cellprofiler_core
import numpy
from cellprofiler_core.image import Image
from cellprofiler_core.pipeline import Pipeline
from cellprofiler_core.setting import ValidationError
from inside_common import columns_against_measurements, drawn, is_plain, load_plugins, message_of
from inside_common import run as run_on
from scipy.ndimage import binary_dilation

plugins, package, pipelines, brightfield, old = sys.argv[1:]
load_plugins(plugins)

from _artseg_client import check_installation, list_models, show_model  # noqa: E402


def new_module():
    from segmentartifacts import SegmentArtifacts

    module = SegmentArtifacts()
    module.set_module_num(1)
    module.x_name.value = "Brightfield"
    module.package_folder.value = "Elsewhere...|" + package.rpartition("/")[0]
    module.package_file.value = package.rpartition("/")[2]
    module.wants_probability.value = True
    return module


def run(module, image, **others):
    return run_on(module, {"Brightfield": image, **others})


def outputs(workspace):
    """Give artifact mask, clean mask, probability and labels."""
    images = [
        workspace.image_set.get_image(name).pixel_data for name in ("ArtifactMask", "CleanMask", "ArtifactProbability")
    ]
    return [*images, workspace.object_set.get_objects("Artifacts").segmented]


def image_measurement(workspace, feature):
    return workspace.measurements.get_current_image_measurement(f"ArtSeg_{feature}_Artifacts")


def dilated_with_disk(mask, radius):
    y, x = numpy.ogrid[-radius : radius + 1, -radius : radius + 1]
    return binary_dilation(mask, y * y + x * x <= radius * radius)


def without_artseg(function):
    """Ask as on a computer where nobody told where artseg is."""
    from _artseg_client import _find_python

    known = {name: os.environ.pop(name, "") for name in ("ARTSEG_PYTHON", "PATH")}
    noted, _find_python.INSTALLATION = _find_python.INSTALLATION, "/no/such/installation.json"
    try:
        return function()
    finally:
        os.environ.update(known)
        _find_python.INSTALLATION = noted


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
    "kinds": image_measurement(workspace, "Kinds"),
    "kind_numbers": [int(number) for number in measurements.get_current_measurement("Artifacts", "ArtSeg_KindNumber")],
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

module.cutoff_choice.value = "As the model says"
module.gate_choice.value = "Custom"
module.gate_threshold.value = 1.0
module.wants_flag.value = True
workspace = run(module, Image(pixels))
found["gated"] = {
    "count": int(workspace.object_set.get_objects("Artifacts").count),
    "threshold": float(image_measurement(workspace, "GateThreshold")),
    "flag": int(image_measurement(workspace, "Flag")),
}

module = new_module()
plain = run(module, Image(pixels))
artifact, _, probability, labels = outputs(plain)
objects = range(1, labels.max() + 1)
found["of_objects"] = {
    feature: [
        [float(value) for value in plain.measurements.get_current_measurement("Artifacts", f"ArtSeg_{feature}")],
        [float(summarise(probability[labels == number])) for number in objects],
    ]
    for feature, summarise in (("MeanProbability", numpy.mean), ("MaxProbability", numpy.max))
}
module.wants_flag.value = True
module.largest_fraction.value = 0.001
module.margin.value = 5
grown = run(module, Image(pixels, mask=mask))
dilated, clean, _, labels_grown = outputs(grown)
found["margin"] = {
    "is_dilation_with_disk": bool(
        (dilated == (dilated_with_disk(labels_grown > 0, 5) & mask)).all() and (dilated > (labels_grown > 0)).any()
    ),
    "clean_is_the_rest": bool((clean == (~dilated & mask)).all()),
    "flag": int(image_measurement(grown, "Flag")),
}
found["drawn"] = drawn(module, grown)
found["flag_columns"] = columns_against_measurements(module, grown, ("Image", "Artifacts"))

module = new_module()
module.wants_match.value = True
module.match_name.value = "DNA"
found["matched"] = {}
for name, shape in (
    ("half", (100, 120)),
    ("double", (400, 480)),
    ("two_thirds", (133, 160)),
    ("same", (200, 240)),
):
    workspace = run(module, Image(pixels, mask=mask), DNA=Image(numpy.ones(shape)))
    resized = outputs(workspace)
    labels = resized[3]
    expected = [
        array[
            numpy.ix_(
                *(
                    numpy.minimum(((numpy.arange(n) + 0.5) * m / n).astype(int), m - 1)
                    for n, m in zip(shape, (200, 240))  # noqa: B905 - Python 3.9
                )
            )
        ]
        for array in outputs(run(new_module(), Image(pixels, mask=mask)))
    ]
    found["matched"][name] = {
        "shapes": sorted({array.shape for array in resized}),
        "equal": [float((resized[i] == expected[i]).mean()) for i in range(3)],
        "labels": [int(label) for label in numpy.unique(labels)],
        "usable": [int(image_measurement(workspace, "UsableArea")), int(resized[1].sum())],
        "in_both": int((resized[0] & resized[1]).sum()),
        "displayed": sorted(
            {value.shape for value in workspace.display_data.__dict__.values() if hasattr(value, "shape")}
        ),
    }
found["no_ratio"] = message_of(lambda: run(module, Image(pixels), DNA=Image(numpy.ones((190, 240)))))
found["no_ratio_sides"] = message_of(lambda: run(module, Image(pixels), DNA=Image(numpy.ones((100, 240)))))

found["shown_model"] = show_model(package)
found["shown_missing_model"] = show_model(package + ".nowhere")
found["checked"] = check_installation(package)
found["checked_without_model"] = check_installation(package + ".nowhere")
found["checked_wrong_python"] = without_artseg(lambda: check_installation(package, python="/no/such/python"))
found["checked_without_artseg"] = without_artseg(lambda: check_installation(package))
found["doi"] = module.doi
found["help"] = module.get_help()
found["buttons"] = [setting.label for setting in module.visible_settings() if type(setting).__name__ == "DoSomething"]
found["saved_buttons"] = [setting.text for setting in module.settings() if type(setting).__name__ == "DoSomething"]

found["colour"] = message_of(run, new_module(), Image(numpy.dstack([pixels, pixels / 2, pixels])))
bad = pixels.copy()
bad[3, 4] = numpy.nan
found["nan"] = message_of(run, new_module(), Image(bad))
found["constant"] = message_of(run, new_module(), Image(numpy.full((64, 64), 0.5, numpy.float32)))
volume = Image(numpy.stack([pixels] * 3), dimensions=3)
found["volume"] = message_of(run, new_module(), volume)
found["one_pixel"] = message_of(run, new_module(), Image(pixels[:1, :1]))
found["all_masked"] = message_of(run, new_module(), Image(pixels, mask=numpy.zeros(pixels.shape, bool)))
under_mask = pixels.copy()
under_mask[~mask] = numpy.nan
found["nan_under_mask"] = message_of(run, new_module(), Image(under_mask, mask=mask))
expected_labels = outputs(plain)[3]
# 12 bits in 16 bits top out at 0.06, floats are as the file has them
for name, scaled in (("twelve_bit", pixels / 16), ("beyond_one", pixels * 65535), ("negative", pixels * 10 - 5)):
    found[name] = float((outputs(run(new_module(), Image(scaled)))[3] == expected_labels).mean())


def on_server(module):
    module.where.value = "Inference server"
    module.server.value = os.environ["ARTSEG_TEST_SERVER"]
    return module


def by_id(module, identifier):
    module.model_choice.value = "A model of the service"
    module.model_id.value = identifier
    return module


from segmentartifacts import choices_of  # noqa: E402

(offered,) = list_models(os.environ["ARTSEG_TEST_SERVER"])
module = without_artseg(lambda: by_id(on_server(new_module()), offered["id"]))
workspace = without_artseg(lambda: run(module, Image(pixels)))
found["server"] = {
    "equal": bool((outputs(workspace)[2] == outputs(plain)[2]).all()),
    "model": image_measurement(workspace, "ModelID"),
    "tiles": int(image_measurement(workspace, "Tiles")),
    "by_package": bool((outputs(run(on_server(new_module()), Image(pixels)))[3] == expected_labels).all()),
    "valid": message_of(module.validate_module, None),
    "unknown": message_of(run, by_id(on_server(new_module()), "nothing"), Image(pixels)),
    "no_id": message_of(by_id(on_server(new_module()), " ").validate_module, None),
    "no_id_headless": message_of(run, by_id(new_module(), " "), Image(pixels)),
    "shown": [setting.text for setting in module.visible_settings()],
    "here": [setting.text for setting in new_module().visible_settings()],
    "saved": len({id(setting) for setting in module.settings()}),
    "choices": choices_of(
        [{**offered, "version": version} for version in ("2", "2", "1")] + [{**offered, "id": "another"}]
    ),
}

module = new_module()
module.package_file.value = "missing.zip"
found["validated"] = message_of(module.validate_module, None)
found["missing"] = message_of(run, module, Image(pixels))
module.package_file.value = ""
found["blank"] = message_of(run, module, Image(pixels))


def old_pipelines():
    """Load pipelines that earlier revisions saved; gives their settings by text."""
    loaded = {}
    for name in sorted(name for name in os.listdir(old) if name.startswith("segmentartifacts_revision_")):
        pipeline = Pipeline()
        pipeline.load(os.path.join(old, name))
        (module,) = [known for known in pipeline.modules() if known.module_name == "SegmentArtifacts"]
        loaded[name] = {setting.text: setting.value_text for setting in module.settings()}
    return loaded


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
        found["old"] = old_pipelines()
    finally:
        stop_java()
else:
    found["pipelines"] = problems_of_examples()
    found["old"] = old_pipelines()

sys.stdout.write("FOUND" + json.dumps(found))
