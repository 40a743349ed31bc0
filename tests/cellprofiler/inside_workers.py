"""Runs in CellProfiler 5's own Python: a pipeline by worker processes, as Analyze in the window runs it, without one.

`PLUGINS PIPELINE IMAGES OUT WORKERS [cancel]`: with the last, the analysis is cancelled while the service has an image
of a worker in its queue. Prints its findings as JSON.
"""

import json
import logging
import os
import pathlib
import queue
import re
import signal
import sys
import threading
import time

from inside_common import load_plugins

plugins, pipeline_path, images, out, workers, *cancel = sys.argv[1:]
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


def alive(processes):
    """Give those that have not ended after some time."""
    until = time.time() + 60
    while processes and time.time() < until:
        processes = [process for process in processes if pathlib.Path(f"/proc/{process}").exists()]
        time.sleep(0.1)
    return processes


def in_queue_at_last(enough):
    """Wait until a test on the number of images in the service's queue holds; gives that number."""
    from _artseg_client._ask import ask

    until = time.time() + 120
    while True:
        number = json.loads(ask(service, "GET", "/health", timeout=60)[1].decode("utf-8"))["under_way"]
        if enough(number) or time.time() > until:
            return number
        time.sleep(0.02)


def freeze_with_images():
    """Keep the service busy, and stop it when an image of a worker waits; gives how many do."""
    import numpy
    from _artseg_client import segment

    package = next(module for module in pipeline.modules() if module.module_name == "SegmentArtifacts").package_path()
    noise = numpy.random.default_rng(0).normal(1, 0.1, (1500, 1500)).astype("float32")
    done = threading.Event()

    def keep_busy():
        while not done.is_set():
            segment(noise, package)

    busy = threading.Thread(target=keep_busy, daemon=True)
    busy.start()
    number = in_queue_at_last(lambda number: number > 1)
    done.set()
    os.kill(service["pid"], signal.SIGSTOP)
    return number - 1


if cancel:
    from _artseg_client._start import find_or_start

    service = find_or_start("auto")

analysis = Analysis(pipeline, measurements)
analysis.start(listen, num_workers=int(workers))
started = [worker.pid for worker in analysis.runner.workers]
waiting, left = 0, []
try:
    if cancel:
        waiting = freeze_with_images()
    else:
        events.get(timeout=240)
finally:
    analysis.cancel()
    if cancel:
        left = alive(started)
        os.kill(service["pid"], signal.SIGCONT)
        in_queue_at_last(lambda number: number == 0)
    join_to_the_boundary()

found = {"workers": started, "ran": ran, "problems": problems, "waiting": waiting, "left": left}
sys.stdout.write("FOUND" + json.dumps(found))
