"""What scripts that run in CellProfiler's own Python share: the plugins loaded, and a module run on images."""

import sys

from cellprofiler_core.preferences import set_headless

set_headless()

import cellprofiler_core.utilities.core.modules  # noqa: E402
from cellprofiler_core.image import ImageSetList  # noqa: E402
from cellprofiler_core.measurement import Measurements  # noqa: E402
from cellprofiler_core.object import ObjectSet  # noqa: E402
from cellprofiler_core.pipeline import Pipeline  # noqa: E402
from cellprofiler_core.preferences import set_plugin_directory  # noqa: E402
from cellprofiler_core.workspace import Workspace  # noqa: E402


def load_plugins(plugins):
    sys.path.insert(0, plugins)
    set_plugin_directory(plugins, globally=False)
    cellprofiler_core.utilities.core.modules.fill_modules()


def run(module, images, objects=()):
    """Run one module on images and objects by name, as with its window open; gives the workspace."""
    pipeline = Pipeline()
    pipeline.add_module(module)
    image_set = ImageSetList().get_image_set(0)
    for name, image in dict(images).items():
        image_set.add(name, image)
    object_set = ObjectSet()
    for name, known in dict(objects).items():
        object_set.add_objects(known, name)
    workspace = Workspace(pipeline, module, image_set, object_set, Measurements(), None)
    module.show_window = True
    module.run(workspace)
    return workspace


def message_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def drawing_calls(module, workspace):
    """Draw a module's figure from its display data; gives name, arguments and options of each call."""
    calls = []

    class Figure:
        def __getattr__(self, name):
            return lambda *arguments, **options: calls.append((name, arguments, options))

    module.display(workspace, Figure())
    return calls


def drawn(module, workspace):
    """Draw a module's figure from its display data; gives titles and table rows in the order of the drawing."""
    calls = drawing_calls(module, workspace)
    titles = [options["title"] for name, _, options in calls if name.startswith("subplot_imshow")]
    ((rows, labels),) = [
        (arguments[2], options["row_labels"]) for name, arguments, options in calls if name == "subplot_table"
    ]
    return {"titles": titles, "table": {labels[i]: list(row) for i, row in enumerate(rows)}}


def columns_against_measurements(module, workspace, names):
    """Name what was measured but not declared, and what was declared but not measured."""
    measurements = workspace.measurements
    declared = [column[:2] for column in module.get_measurement_columns(workspace.pipeline)]
    return {
        "undeclared": sorted(
            f"{name}.{feature}"
            for name in measurements.get_object_names()
            for feature in measurements.get_feature_names(name)
            if (name, feature) not in declared
            and name in names
            and not feature.startswith(("Group_", "ModuleError", "ExecutionTime"))
            and feature != "ImageNumber"
        ),
        "unmeasured": sorted(
            f"{name}.{feature}" for name, feature in declared if not measurements.has_feature(name, feature)
        ),
    }


def is_plain(display_data):
    """Whether what travels to the window's process is arrays, numbers, texts and lists of them only."""
    import numpy

    def plain(value):
        if isinstance(value, (list, tuple)):
            return all(plain(item) for item in value)
        return isinstance(value, (numpy.ndarray, str, int, float))

    return all(plain(value) for value in display_data.__dict__.values())
