"""Runs in CellProfiler's own Python: SegmentArtifacts with a model that tells kinds of artifact apart."""

import json
import sys

import numpy
from cellprofiler_core.image import Image
from inside_common import columns_against_measurements, drawing_calls, drawn, is_plain, load_plugins, run

plugins, package, brightfield = sys.argv[1:]
load_plugins(plugins)

import segmentartifacts  # noqa: E402
from _artseg_client import Segmentation, show_model  # noqa: E402
from cellprofiler.modules.filterobjects import FilterObjects  # noqa: E402
from cellprofiler.modules.maskimage import MaskImage  # noqa: E402


def new_module():
    module = segmentartifacts.SegmentArtifacts()
    module.set_module_num(1)
    module.x_name.value = "Brightfield"
    module.package_folder.value = "Elsewhere...|" + package.rpartition("/")[0]
    module.package_file.value = package.rpartition("/")[2]
    return module


def said(workspace):
    """Give the image's text and the number of each object."""
    numbers = workspace.measurements.get_current_measurement("Artifacts", "ArtSeg_KindNumber")
    return [
        workspace.measurements.get_current_image_measurement("ArtSeg_Kinds_Artifacts"),
        [int(number) for number in numbers],
    ]


def outlined(module, workspace):
    """Give name, colour, and the numbers of the outlined objects, of what is drawn on the image."""
    (entries,) = [options["cplabels"] for _, _, options in drawing_calls(module, workspace) if "cplabels" in options]
    return [
        [entry["name"], entry.get("outline_color"), numpy.unique(entry["labels"][0]).tolist()[1:]] for entry in entries
    ]


def standing_in(labels, kinds, object_kinds):
    """Segment without a service: these objects are what it finds."""
    result = {
        "kinds": kinds,
        "object_kinds": object_kinds,
        "image_probability": None,
        "cutoff": 0.5,
        "smallest_artifact_px": 0,
        "gate_threshold": None,
        "model_id": "stand-in",
        "model_version": "1",
        "model_sha256": "0" * 64,
        "device": "cpu",
        "engine": "none",
        "tiles": 1,
        "seconds": 0.0,
        "artseg": "0",
    }
    found = Segmentation((labels > 0).astype(numpy.float32), labels, result)
    return lambda *arguments, **options: found


def filtered(workspace, number):
    """Let CellProfiler's own modules keep one kind of artifact, and blank it in the image."""
    keep = FilterObjects()
    keep.set_module_num(2)
    keep.x_name.value, keep.y_name.value = "Artifacts", "OneKind"
    keep.mode.value, keep.filter_choice.value = "Measurements", "Limits"
    (limit,) = keep.measurements
    limit.measurement.value = "ArtSeg_KindNumber"
    limit.min_limit.value = limit.max_limit.value = number
    workspace.pipeline.add_module(keep)
    keep.show_window = False
    keep.run(workspace)
    mask = MaskImage()
    mask.set_module_num(3)
    mask.image_name.value, mask.masked_image_name.value = "Brightfield", "Blanked"
    mask.source_choice.value, mask.object_name.value = "Objects", "OneKind"
    mask.invert_mask.value = True
    mask.show_window = False
    mask.run(workspace)
    return (
        workspace.object_set.get_objects("OneKind").segmented > 0,
        ~workspace.image_set.get_image("Blanked").mask,
    )


found = {}
pixels = numpy.load(brightfield)
module = new_module()
workspace = run(module, {"Brightfield": Image(pixels)})
found["said"] = said(workspace)
found["columns"] = columns_against_measurements(module, workspace, ("Image", "Artifacts"))
found["by_category"] = [module.get_measurements(None, name, "ArtSeg") for name in ("Image", "Artifacts")]
found["plain"] = is_plain(workspace.display_data)
found["shown_model"] = show_model(package)
found["help"] = module.get_help()
found["table"] = drawn(module, workspace)["table"]
found["outlined"] = outlined(module, workspace)
found["colours"] = [colour for _, colour in segmentartifacts.KIND_COLOURS]
labels = workspace.object_set.get_objects("Artifacts").segmented
kind_map = numpy.array([0, *found["said"][1]])[labels]
kept, blanked = filtered(workspace, 2)
found["filtered"] = [bool((kept == (kind_map == 2)).all()), bool((blanked == kept).all()), int(kept.sum())]
module.cutoff_choice.value, module.cutoff.value = "Custom", 1.0
workspace = run(module, {"Brightfield": Image(pixels)})
found["nothing"] = [said(workspace), outlined(module, workspace), drawn(module, workspace)["table"]["Kinds"]]

# halving takes every second column: the object in an even one, between two others, is gone
labels = numpy.zeros((40, 60), numpy.uint8)
labels[10:20, 3:9], labels[5:30, 30], labels[10:20, 40:50] = 1, 2, 3
module = new_module()
module.wants_match.value = True
module.match_name.value = "DNA"
images = {"Brightfield": Image(numpy.ones(labels.shape)), "DNA": Image(numpy.ones((20, 30)))}
names = ["bubble", "dust", "fibre"]
segmentartifacts.segment = standing_in(labels, names, [3, 1, 2])
workspace = run(module, images)
found["halved"] = {
    "said": said(workspace),
    "left_of": workspace.measurements.get_current_measurement("Artifacts", "Location_Center_X").tolist(),
    "outlined": outlined(module, workspace),
}
segmentartifacts.segment = standing_in(labels, names, [3, 1, 3])
found["whole"] = said(run(new_module(), images))
segmentartifacts.segment = standing_in(labels, [], [])
workspace = run(module, images)
found["without"] = [said(workspace), outlined(module, workspace), list(drawn(module, workspace)["table"])]
found["ninth"] = segmentartifacts.colour_of_kind(9) == segmentartifacts.KIND_COLOURS[1]

sys.stdout.write("FOUND" + json.dumps(found))
