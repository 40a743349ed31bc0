"""The application that every verb registers with, and what verbs share: terminal, common options."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer
from rich.console import Console

app = typer.Typer(
    name="artseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",  # without it, lines of a docstring are not joined to the terminal's width
    help="""Find dust, fibres, bubbles and dead cells in brightfield images, and mask them.

You sort whole images into clean and artifact; nobody draws outlines. In this order:

1. `artseg label IMAGES` sorts images in your browser; `artseg labels check LABELS` looks through the result.

2. `artseg train LABELS --out runs/NAME` learns a model from them.

3. `artseg segment IMAGES --model runs/NAME/packages/NAME-unet.zip --out masks` writes the masks; in CellProfiler the
module SegmentArtifacts does so, after `artseg cellprofiler install`.

`artseg demo` shows all of it on simulated images.""",
)
console = Console()


def reason_of(path: Path, reason: str) -> str:
    """Give a reason that names the file that it is about, once."""
    return reason if str(path) in reason else f"{path}: {reason}"


Device = Literal["auto", "cuda", "mps", "cpu"]
DEVICE_HELP = (
    "Where the network runs: auto takes a graphics card where there is one, cuda is an NVIDIA card, mps an Apple one, "
    "cpu the processor."
)

Engine = Literal["auto", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8", "torch"]
ENGINE_HELP = (
    "What computes the network on the processor. auto measures once, in a few seconds, which is fastest here, and "
    "remembers it; a lower precision is taken only where the package states that it costs at most 0.005 of IoU. "
    "Default: the environment variable ARTSEG_ENGINE, else auto."
)

LABELS_HELP = (
    "A folder with the subfolders clean and artifact; or a table labels.csv with the columns image and label, and if "
    "wanted split, group and mask; or a folder in the layout of ArtSeg-CHO-M4R."
)
