"""Runs in CellProfiler's own Python: MeasureArtifactOverlap on masks and objects made here. Prints findings as JSON."""

import json
import sys

import numpy
from cellprofiler_core.image import Image
from cellprofiler_core.object import Objects
from inside_common import columns_against_measurements, drawn, is_plain, load_plugins, message_of, run

load_plugins(sys.argv[1])

SHAPE = (60, 80)


def objects_of(labels):
    objects = Objects()
    objects.segmented = labels
    return objects


def module_for(*names):
    from measureartifactoverlap import MeasureArtifactOverlap

    module = MeasureArtifactOverlap()
    module.set_module_num(1)
    module.mask_name.value = "ArtifactMask"
    module.objects_list.value = ", ".join(names)
    return module


def measured(workspace, name):
    return {
        feature: [
            float(value)
            for value in workspace.measurements.get_current_measurement(name, f"ArtSeg_{feature}_ArtifactMask")
        ]
        for feature in ("OverlapFraction", "ArtifactDistance", "TouchesArtifact")
    }


mask = numpy.zeros(SHAPE, bool)
mask[20:30, 20:40] = True
nuclei = numpy.zeros(SHAPE, int)
nuclei[20:24, 20:24] = 1  # inside
nuclei[16:24, 30:35] = 2  # half inside
nuclei[30:34, 40:44] = 3  # meets it at a corner
nuclei[20:24, 41:45] = 4  # one pixel between
nuclei[33:37, 43:47] = 5  # 4 down, 4 right of the corner
cells = numpy.zeros(SHAPE, int)
cells[50:, :] = 1
crossing = Objects()  # label 1 and 2 share pixels
crossing.set_ijv(
    numpy.array([(y, x, 1) for y in range(18, 22) for x in range(20, 24)] + [(21, x, 2) for x in range(22, 60)]), SHAPE
)
sets = {
    "Nuclei": objects_of(nuclei),
    "Cells": objects_of(cells),
    "None": objects_of(numpy.zeros(SHAPE, int)),
    "Worms": crossing,
}

found = {}
module = module_for(*sets)
workspace = run(module, {"ArtifactMask": Image(mask)}, sets)
found["measured"] = {name: measured(workspace, name) for name in sets}
found["columns"] = columns_against_measurements(module, workspace, tuple(sets))
found["plain"] = is_plain(workspace.display_data)
found["drawn"] = drawn(module, workspace)
found["chosen"] = [
    "_".join((category, feature, image))
    for category in module.get_categories(None, "Nuclei")
    for feature in module.get_measurements(None, "Nuclei", category)
    for image in module.get_measurement_images(None, "Nuclei", category, feature)
]
found["chosen_elsewhere"] = module.get_categories(None, "Other") + module.get_categories(None, "Image")

workspace = run(module_for("Nuclei"), {"ArtifactMask": Image(numpy.zeros(SHAPE, bool))}, sets)
found["no_artifact"] = measured(workspace, "Nuclei")
seen = numpy.ones(SHAPE, bool)
seen[:, 30:] = False
workspace = run(module_for("Nuclei"), {"ArtifactMask": Image(mask, mask=seen)}, sets)
found["masked"] = measured(workspace, "Nuclei")

found["size"] = message_of(run, module_for("Nuclei"), {"ArtifactMask": Image(mask[:30])}, sets)
found["grey"] = message_of(run, module_for("Nuclei"), {"ArtifactMask": Image(mask * 0.3 + 0.1)}, sets)
found["colour"] = message_of(run, module_for("Nuclei"), {"ArtifactMask": Image(numpy.dstack([mask] * 3) * 1.0)}, sets)
found["unset"] = message_of(run, module_for(), {"ArtifactMask": Image(mask)}, sets)
found["unset_in_window"] = message_of(module_for().validate_module, None)
found["help"] = module.get_help()

sys.stdout.write("FOUND" + json.dumps(found))
