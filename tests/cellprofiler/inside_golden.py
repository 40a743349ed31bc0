"""Runs in CellProfiler's own Python: the module on one image with several packages; writes what it gives, as .npz."""

import sys

import numpy
from cellprofiler_core.image import Image
from inside_common import load_plugins, run

plugins, image, out, *packages = sys.argv[1:]
load_plugins(plugins)

given = {}
for package in packages:
    from segmentartifacts import SegmentArtifacts

    folder, _, file = package.rpartition("/")
    module = SegmentArtifacts()
    module.set_module_num(1)
    module.x_name.value = "Brightfield"
    module.package_folder.value = "Elsewhere...|" + folder
    module.package_file.value = file
    module.wants_probability.value = True
    module.smallest_choice.value = "Custom"
    module.smallest.value = 0
    workspace = run(module, {"Brightfield": Image(numpy.load(image))})
    for name, kind in (("ArtifactProbability", "probability"), ("ArtifactMask", "mask"), ("CleanMask", "clean")):
        given[file + ":" + kind] = workspace.image_set.get_image(name).pixel_data
numpy.savez(out, **given)
sys.stdout.write("FOUND{}")
