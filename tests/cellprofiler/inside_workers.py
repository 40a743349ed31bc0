"""Runs in CellProfiler 5's own Python: a pipeline by worker processes, as Analyze in the window runs it, without one.

`PLUGINS PIPELINE IMAGES OUT WORKERS`. Prints its findings as JSON.
"""

import json
import logging
import pathlib
import queue
import re
import sys

from inside_common import load_plugins

plugins, pipeline_path, images, out, workers = sys.argv[1:]
load_plugins(plugins)

from cellprofiler_core.analysis._analysis import Analysis  # noqa: E402
from cellprofiler_core.analysis.event import Finished  # noqa: E402
from cellprofiler_core.analysis.reply import Ack  # noqa: E402
from cellprofiler_core.analysis.request import ExceptionReport  # noqa: E402
from cellprofiler_core.image import ImageSetList  # noqa: E402
from cellprofiler_core.measurement import Measurements  # noqa: E402
from cellprofiler_core.pipeline import Pipeline  # noqa: E402
from cellprofiler_core.preferences import (  # noqa: E402
    get_config,
    set_default_image_directory,
    set_default_output_directory,
)
from cellprofiler_core.reader import fill_readers  # noqa: E402
from cellprofiler_core.utilities.zmq import join_to_the_boundary  # noqa: E402
from cellprofiler_core.workspace import Workspace  # noqa: E402

set_default_image_directory(images)
set_default_output_directory(out)
get_config().WriteBool("Reader.Bio-Formats.enabled", False)  # it would fetch Java libraries
fill_readers(check_config=True)  # workers are told the settings of the readers that are known here

#: which worker process ran our module on which image set
ran = {}


class Listener(logging.Handler):
    def emit(self, record):
        said = re.search(r"\[Worker \d+ \((\d+)\)\].*Image # (\d+), module SegmentArtifacts", record.getMessage())
        if said:
            ran[said.group(2)] = int(said.group(1))


logging.root.addHandler(Listener())
logging.root.setLevel(logging.INFO)

pipeline = Pipeline()
pipeline.load(pipeline_path)
pipeline.add_pathnames_to_file_list([str(path) for path in sorted(pathlib.Path(images).iterdir())])
measurements = Measurements(mode="memory")
assert pipeline.prepare_run(Workspace(pipeline, None, None, None, measurements, ImageSetList()))

events = queue.Queue()
problems = []


def listen(event):
    if isinstance(event, ExceptionReport):
        problems.append(f"{event.exc_type}: {event.exc_message}")
        events.put(None)
    elif isinstance(event, Finished):
        events.put(event)
    elif hasattr(event, "reply"):
        event.reply(Ack())


analysis = Analysis(pipeline, measurements)
analysis.start(listen, num_workers=int(workers))
started = [worker.pid for worker in analysis.runner.workers]
try:
    events.get(timeout=240)
finally:
    analysis.cancel()
    join_to_the_boundary()

sys.stdout.write("FOUND" + json.dumps({"workers": started, "ran": ran, "problems": problems}))
