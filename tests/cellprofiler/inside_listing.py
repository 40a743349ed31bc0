"""Runs in CellProfiler's own Python: which of our modules it lists from a plugins folder. Prints findings as JSON."""

import inspect
import json
import sys

import cellprofiler_core
from inside_common import load_plugins

load_plugins(sys.argv[2])

from cellprofiler_core.utilities.core.modules import instantiate_module  # noqa: E402

found = {"version": cellprofiler_core.__version__, "modules": {}}
for name in ("SegmentArtifacts", "MeasureArtifactOverlap"):
    module = instantiate_module(name)
    module.settings()
    found["modules"][name] = inspect.getfile(type(module))

if not cellprofiler_core.__version__.startswith("4"):  # how the dialog File > Plugins lists them
    from cellprofiler_core.utilities.core.plugins import get_plugin_statuses

    found["statuses"] = {
        status["name"]: {**status, "appose_env_spec": str(status["appose_env_spec"] or "")}
        for status in get_plugin_statuses()
    }

sys.stdout.write("FOUND" + json.dumps(found))
