"""Runs in CellProfiler's own Python: a pipeline without window through one fault after the other.

`PLUGINS PACKAGE DAMAGED STATE_DICT BRIGHTFIELD FOLDER`. Prints, for each fault, the errors in CellProfiler's log and
the area that is usable, as JSON.
"""

import contextlib
import http.server
import json
import logging
import os
import signal
import sys
import threading

import numpy
from inside_common import load_plugins

plugins, package, damaged, state_dict, brightfield, folder = sys.argv[1:]
load_plugins(plugins)

from _artseg_client import _ask, _segment, _start  # noqa: E402
from _artseg_client._place import read_rendezvous, rendezvous_path  # noqa: E402
from cellprofiler_core.modules.injectimage import InjectImage  # noqa: E402
from cellprofiler_core.pipeline import Pipeline  # noqa: E402
from cellprofiler_core.pipeline.event import RunException  # noqa: E402
from segmentartifacts import SegmentArtifacts  # noqa: E402

errors = []


class Errors(logging.Handler):
    """Keeps what CellProfiler logs as an error, with the exception's message."""

    def emit(self, record):
        cause = record.exc_info[1] if record.exc_info else ""
        errors.append(f"{record.getMessage()}: {cause}")


logging.root.addHandler(Errors(level=logging.ERROR))


def run(pixels=None, package=package, **settings):
    """Run a pipeline of two modules as `cellprofiler -c -r` does; gives the errors, and the usable area if any."""
    pipeline = Pipeline()
    module = SegmentArtifacts()
    module.x_name.value = "Brightfield"
    module.package_folder.value = "Elsewhere...|" + os.path.dirname(package)
    module.package_file.value = os.path.basename(package)
    for name, value in settings.items():
        getattr(module, name).value = value
    modules = (InjectImage("Brightfield", numpy.load(brightfield) if pixels is None else pixels), module)
    for number, each in enumerate(modules, start=1):
        each.set_module_num(number)
        pipeline.add_module(each)

    def listen(_, event):
        if isinstance(event, RunException):
            event.cancel_run = True

    pipeline.add_listener(listen)
    del errors[:]
    measurements = pipeline.run()
    name = module.measurement_name("UsableArea")
    usable = measurements["Image", name, 1] if measurements and measurements.has_feature("Image", name) else None
    return {"errors": list(errors), "usable": None if usable is None else int(usable)}


@contextlib.contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield before
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def variables(**values):
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def killed(times):
    """Run while the service is killed in the middle of its first so many requests."""
    left = [times]

    def frozen(place, *arguments):
        if left[0]:
            left[0] -= 1
            os.kill(place["pid"], signal.SIGSTOP)  # it takes the request and never answers
            threading.Timer(0.5, os.kill, (place["pid"], signal.SIGKILL)).start()
        return asked(place, *arguments)

    with replaced(_segment, "ask", frozen) as asked:
        return run()


class Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def note(**values):
    """Change the rendezvous file; gives what it was."""
    path = rendezvous_path("auto")
    with open(path, encoding="utf-8") as opened:
        before = json.load(opened)
    with open(path, "w", encoding="utf-8") as written:
        json.dump(dict(before, **values), written)
    return before


found = {"first": run()}
found["killed"] = killed(1)
found["killed twice"] = killed(2)

# its file is still there, and names the port of another program
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
threading.Thread(target=server.serve_forever, daemon=True).start()
note(port=server.server_address[1])
found["stale file, port of another program"] = run()
server.shutdown()
server.server_close()

before = note(token="guessed")
found["wrong token"] = run()
note(**before)

with replaced(_ask, "PROTOCOL_VERSION", 1), replaced(_start, "PROTOCOL_VERSION", 1):
    found["older client"] = run()

found["package missing"] = run(package=os.path.join(folder, "gone.zip"))
found["package damaged"] = run(package=damaged)
found["state dict alone"] = run(package=state_dict)

with variables(ARTSEG_STATE_DIR=os.path.join(folder, "python-gone"), ARTSEG_PYTHON="/no/such/python"):
    found["python gone"] = run()
with variables(ARTSEG_STATE_DIR=os.path.join(folder, "without-artseg"), ARTSEG_PYTHON=sys.executable):
    found["python without artseg"] = run()
with open(os.path.join(folder, "file"), "w"):
    pass
with variables(ARTSEG_STATE_DIR=os.path.join(folder, "file", "state")):
    found["state folder unusable"] = run()

pixels = numpy.load(brightfield)
found["rgb"] = run(numpy.dstack([pixels, pixels / 2, pixels]))
found["one pixel"] = run(pixels[:1, :1])
found["nan"] = run(numpy.where(pixels == pixels.max(), numpy.nan, pixels).astype(numpy.float32))
found["beyond one"] = run(pixels * 700)
found["twelve bit"] = run(pixels / 16)

found["afterwards"] = run()
found["service"] = read_rendezvous("auto")["pid"]
sys.stdout.write("FOUND" + json.dumps(found))
