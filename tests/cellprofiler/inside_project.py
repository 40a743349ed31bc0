"""Runs in CellProfiler's own Python: saves a pipeline and images as a project. `PLUGINS PIPELINE IMAGES PROJECT`."""

import pathlib
import sys

from inside_common import load_plugins

plugins, pipeline_path, images, project = sys.argv[1:]
load_plugins(plugins)

import cellprofiler_core  # noqa: E402
from cellprofiler_core.image import ImageSetList  # noqa: E402
from cellprofiler_core.pipeline import Pipeline  # noqa: E402
from cellprofiler_core.workspace import Workspace  # noqa: E402


def save():
    pipeline = Pipeline()
    workspace = Workspace(pipeline, None, None, None, None, ImageSetList())
    workspace.create()
    pipeline.load(pipeline_path)
    urls = [path.as_uri() for path in sorted(pathlib.Path(images).iterdir())]
    workspace.file_list.add_files_to_filelist(urls)
    workspace.save_pipeline_to_measurements()
    workspace.save(project)
    return len(pipeline.modules())


if cellprofiler_core.__version__.startswith("4"):
    from cellprofiler_core.utilities.java import start_java, stop_java

    start_java()
    try:
        count = save()
    finally:
        stop_java()
else:
    count = save()

sys.stdout.write("FOUND" + str(count))
