"""Runs in CellProfiler 5's own Python, started by screenshots.py: opens the window, drives it, takes pictures.

`WX PIPELINE IMAGES PICTURES STORY`: folder with wxPython, the pipeline, the folder of images, where pictures go, and
what is done: `tour`, or `without_artseg` where CellProfiler has the modules alone.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

wx_folder, pipeline_path, images, pictures, wanted = sys.argv[1:]
sys.path.append(wx_folder)

import wx  # noqa: E402


def taking_floats(method: Callable[..., object]) -> Callable[..., object]:
    """Let a function of wxPython take fractions of pixels, as it did before Python 3.10; CellProfiler gives them."""

    def whole(value: object) -> object:
        if isinstance(value, float):
            return round(value)
        return tuple(map(whole, value)) if type(value) is tuple else value

    @functools.wraps(method)
    def call(*arguments: object, **options: object) -> object:
        try:
            return method(*arguments, **options)
        except TypeError:
            return method(*map(whole, arguments), **{name: whole(value) for name, value in options.items()})

    return call


def let_wx_take_floats() -> None:
    """Wrap what places and draws things."""
    for kind in (wx.Point, wx.Size, wx.Rect):
        kind.__init__ = taking_floats(kind.__init__)
    kinds = (wx.DC, wx.Window, wx.ScrolledWindow, wx.StaticText, wx.SplitterWindow, wx.Gauge, wx.Slider, wx.Sizer)
    for kind in kinds:
        for name in dir(kind):  # vars() lacks what was never used yet
            if name.startswith(("Draw", "Set", "Scroll", "Wrap", "Move", "Split")):
                setattr(kind, name, taking_floats(getattr(kind, name)))


let_wx_take_floats()

from cellprofiler.gui.app import App  # noqa: E402
from cellprofiler.gui.plugins_dialog._plugins_dialog import PluginsDialog  # noqa: E402
from cellprofiler_core import preferences  # noqa: E402
from cellprofiler_core.reader import fill_readers  # noqa: E402

OURS = "SegmentArtifacts"
WAIT_SECONDS = 150


def set_preferences() -> None:
    """Set what a first start asks for, and no readers that fetch Java libraries; workers read this, too."""
    preferences.set_telemetry(False)
    preferences.set_telemetry_prompt(False)
    preferences.set_startup_blurb(False)
    preferences.set_max_workers(2)
    for reader in ("Bio-Formats", "Google Cloud Storage"):
        preferences.config_write_typed(f"Reader.{reader}.enabled", False, key_type=bool)
    preferences.config_write_typed("Reader.ImageIO.read_tif", True, key_type=bool)
    preferences.get_config().Flush()
    fill_readers(check_config=True)


def picture(name: str, window: wx.Window) -> None:
    """Take a picture of a window as it stands on the screen."""
    x, y, width, height = window.GetScreenRect()
    command = ["import", "-window", "root", "-crop", f"{width}x{height}+{max(x, 0)}+{max(y, 0)}", "+repage"]
    subprocess.run([*command, os.path.join(pictures, f"{name}.png")], check=True)


def named(start: str) -> wx.Window | None:
    """Find an open window by the start of its title."""
    return next((window for window in wx.GetTopLevelWindows() if window.GetTitle().startswith(start)), None)


def place(window: wx.Window, width: int, height: int, corner: int = 0) -> None:
    """Put a window where all of it is on the screen."""
    window.SetSize(wx.Size(width, height))
    window.SetPosition(wx.Point(corner, corner))


def splitters(window: wx.Window) -> Iterator[wx.SplitterWindow]:
    """Find the bars in a window that divide it."""
    for child in window.GetChildren():
        if isinstance(child, wx.SplitterWindow) and child.GetSplitMode() == wx.SPLIT_VERTICAL:
            yield child
        yield from splitters(child)


def open_module(app: App) -> Iterator[float]:
    """Load the pipeline and show the settings of our module."""
    frame = app.frame
    place(frame, 1300, 900)
    next(splitters(frame)).SetSashPosition(290)  # names of modules are cut otherwise
    frame.pipeline_controller.do_load_pipeline(pipeline_path)
    frame.pipeline_controller.add_paths_to_pathlist([images])
    yield 3
    frame.pipeline_list_view.select_one_module(our_module(app).module_num)
    yield 2


def our_module(app: App) -> Any:
    """Find our module in the pipeline of the window."""
    return next(module for module in app.frame.pipeline.modules() if module.module_name == OURS)


def without_artseg(app: App) -> Iterator[Callable[[], object] | float]:
    """Press 'Check installation' where nobody installed artseg."""
    yield from open_module(app)
    wx.CallAfter(our_module(app).on_check_installation)
    yield lambda: named("Installation of ArtSeg")
    yield 2
    dialog = named("Installation of ArtSeg")
    picture("check_installation", dialog)
    dialog.EndModal(wx.ID_OK)
    yield 1


def tour(app: App) -> Iterator[Callable[[], object] | float]:
    """Drive the window; what is yielded is waited for: seconds, or until a function gives something true."""
    yield from open_module(app)
    frame = app.frame
    controller = frame.pipeline_controller
    pipeline = frame.pipeline
    at = our_module(app).module_num
    picture("settings", frame)

    frame.do_help_modules([pipeline.modules()[at - 1]])
    yield 1
    help_window = named("Help for module")
    place(help_window, 760, 900)
    yield 2
    picture("help", help_window)
    help_window.Destroy()

    plugins = PluginsDialog(frame)
    plugins.Show()
    yield 1
    row = next(index for index, status in enumerate(plugins.rows) if status["name"] == OURS.lower())
    plugins.list_ctrl.Select(row)
    yield 1
    picture("plugins", plugins)
    plugins.Destroy()

    for module in pipeline.modules():
        module.show_window = module.module_name == OURS
    yield 1
    assert controller.start_debugging()
    yield 2
    while frame.pipeline_list_view.get_current_debug_module().module_num <= at:
        controller.on_debug_step(None)
        yield 1
    yield lambda: any(OURS in window.GetTitle() for window in wx.GetTopLevelWindows())
    figure = next(window for window in wx.GetTopLevelWindows() if OURS in window.GetTitle())
    place(figure, 1100, 800)
    figure.Raise()
    yield 3
    picture("test_mode", figure)
    figure.Close()
    controller.stop_debugging()
    yield 1

    for module in pipeline.modules():
        module.show_window = False
    frame.Raise()
    controller.do_analyze_images()
    yield lambda: named("Analysis complete")
    place(frame, 1300, 900)
    place(named("Analysis complete"), 480, 260, corner=300)
    yield 2
    picture("analysis", frame)
    named("Analysis complete").EndModal(wx.ID_OK)
    yield 1
    assert any(Path(preferences.get_default_output_directory()).glob("*.csv")), "the analysis wrote no tables"


def drive(app: App, steps: Iterator[Callable[[], object] | float], code: list[int]) -> None:
    """Go on with the story whenever what it waits for is there."""
    try:
        waits = next(steps)
    except BaseException as end:
        if not isinstance(end, StopIteration):
            traceback.print_exc()
        code.append(0 if isinstance(end, StopIteration) else 1)
        sys.stdout.flush()
        os._exit(code[0])  # CellProfiler's workers and threads, or a dialog, would hold it
    wait_for(app, steps, code, waits, time.monotonic() + WAIT_SECONDS)


def wait_for(
    app: App, steps: Iterator[Callable[[], object] | float], code: list[int], waits: object, until: float
) -> None:
    """Wait without holding the window up."""
    if not callable(waits):
        wx.CallLater(int(1000 * float(str(waits))), drive, app, steps, code)
    elif waits():
        drive(app, steps, code)
    elif time.monotonic() > until:
        picture("unfinished", app.frame)
        print("What was waited for did not come:", [window.GetTitle() for window in wx.GetTopLevelWindows()])
        os._exit(1)
    else:
        wx.CallLater(500, wait_for, app, steps, code, waits, until)


def main() -> None:
    """Open the window."""
    app = wx.App(False)
    set_preferences()
    del app
    window = App(0)
    code: list[int] = []
    steps = {"tour": tour, "without_artseg": without_artseg}[wanted](window)
    wx.CallLater(4000, drive, window, steps, code)
    window.MainLoop()


if __name__ == "__main__":
    main()
