"""Which programs will open a package, and why not: rules taken from those programs, each with its source.

The rules look at the description and at the heads of the weight files; no program is started.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import onnx

from artseg_models.errors import ArtSegError
from artseg_models.packages.rdf import find_description, load_yaml
from artseg_models.packages.read import RUNNABLE_FORMATS, read_package

CORE_011 = "bioimageio.core 0.11"
CORE_010 = "bioimageio.core 0.10 (Model Zoo)"
CORE_09 = "bioimageio.core 0.9.6"
BIAPY = "BiaPy 3.7"
ILASTIK = "tiktorch 26.5 (ilastik)"
JDLL = "JDLL 0.6 (deepImageJ)"
ONNX_RUNTIME = "onnxruntime 1.13"
TORCH = "torch 2.0, TorchScript"
ARTSEG = "ArtSeg"

# what JDLL can carry out; ensure_dtype it skips
_JDLL_OPERATIONS = (
    "binarize",
    "clip",
    "ensure_dtype",
    "fixed_zero_mean_unit_variance",
    "scale_linear",
    "scale_range",
    "sigmoid",
    "zero_mean_unit_variance",
)
_JDLL_AXES = ("b", "batch", "c", "channel", "x", "y", "z")
_LARGEST_OPSET, _LARGEST_IR = 17, 8
_LARGEST_TORCHSCRIPT = 10
_CORE_FORMATS = ("pytorch_state_dict", "torchscript", "onnx", "keras_hdf5", "tensorflow_saved_model_bundle")

# what BiaPy makes of tags, of class names and files, and what it can carry out
_BIAPY_TAGS = (
    *("semantic-segmentation", "segmentation", "instance-segmentation", "detection", "denoising", "super-resolution"),
    *("superresolution", "self-supervision", "classification", "pix2pix", "image-reconstruction", "image-to-image"),
    "image-restoration",
)
_BIAPY_NETWORKS = (
    *("unet", "resunet", "resunet++", "seunet", "attention_unet", "resunet_se", "unetr", "multiresunet", "unext_v1"),
    *("unext_v2", "hrnet"),
)
_BIAPY_CLASSES = ("n_classes", "out_channels", "output_channels", "classes")
_BIAPY_OPERATIONS = (
    "clip",
    "ensure_dtype",
    "fixed_zero_mean_unit_variance",
    "scale_linear",
    "scale_range",
    "zero_mean_unit_variance",
)

_Head = TypeVar("_Head")
_onnx: Any = onnx  # its own types are incomplete


@dataclass(frozen=True)
class Verdict:
    """Whether one program opens a package.

    Attributes
    ----------
    consumer : str
        Which program.
    opens : bool
        Whether every rule is met.
    reasons : tuple of str
        What stands against it; for a program that opens it, what to know.
    sources : tuple of str
        Where the rules come from that gave the reasons.
    """

    consumer: str
    opens: bool
    reasons: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class OnnxHead:
    """What an ONNX file asks of its reader."""

    opset: int
    ir: int
    domains: tuple[str, ...]


@dataclass(frozen=True)
class ScriptHead:
    """What a TorchScript file asks of its reader."""

    format_version: int
    scripted_interpolate: bool


@dataclass(frozen=True)
class Facts:
    """What the rules look at: the description as it is, and the heads of its weight files."""

    content: Mapping[str, Any]
    onnx: OnnxHead | str | None = None
    torchscript: ScriptHead | str | None = None
    weights: tuple[str, ...] = field(default=())
    #: what the state dict's environment file lists
    dependencies: tuple[str, ...] = field(default=())

    def tensors(self, side: str) -> list[Mapping[str, Any]]:
        """Give the inputs or the outputs."""
        return [cast("Mapping[str, Any]", tensor) for tensor in _list(self.content.get(side))]

    def operations(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Name and options of every pre- and postprocessing step."""
        for side, steps in (("inputs", "preprocessing"), ("outputs", "postprocessing")):
            for tensor in self.tensors(side):
                for step in _list(tensor.get(steps)):
                    options = cast("Mapping[str, Any]", step.get("kwargs") or {})
                    yield str(step.get("id") or step.get("name")), options


Check = Callable[[Facts], Iterator[str]]


@dataclass(frozen=True)
class Rule:
    """One thing that keeps programs from opening a package.

    Attributes
    ----------
    consumers : tuple of str
        Programs that it applies to.
    source : str
        Where it comes from.
    broken : callable
        Gives what breaks it.
    """

    consumers: tuple[str, ...]
    source: str
    broken: Check


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _format_of_spec(facts: Facts) -> Iterator[str]:
    version = str(facts.content.get("format_version"))
    if not version.startswith(("0.4.", "0.5.")):
        yield f"format {version}; it reads 0.4 and 0.5"


def _mappings(facts: Facts) -> Iterator[str]:
    named = [name for name in ("documentation", "covers") if _has_mapping(facts.content.get(name))]
    if named:
        version = facts.content.get("format_version")
        yield f"{' and '.join(named)} as mappings (format {version}); it takes file names, as up to format 0.5.10"


def _has_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) or any(isinstance(entry, Mapping) for entry in _list(value))


def _any_weights(facts: Facts) -> Iterator[str]:
    if not set(facts.weights) & set(_CORE_FORMATS):
        yield f"only the weight formats {', '.join(facts.weights) or 'none'}"


def _one_tensor(facts: Facts) -> Iterator[str]:
    for side in ("inputs", "outputs"):
        if len(facts.tensors(side)) != 1:
            yield f"{len(facts.tensors(side))} {side}; it takes one"


def _maps_only(facts: Facts) -> Iterator[str]:
    for tensor in facts.tensors("outputs"):
        if len(_spatial(tensor)) < 2:
            yield f"the output '{tensor.get('id')}' has {len(_spatial(tensor))} spatial axes; it needs two"


def _spatial(tensor: Mapping[str, Any]) -> list[str]:
    axes = tensor.get("axes")
    if isinstance(axes, str):  # format 0.4
        return [axis for axis in axes if axis in "xyz"]
    return [str(axis.get("id")) for axis in _list(axes) if axis.get("type") == "space"]


def _no_id(facts: Facts) -> Iterator[str]:
    if not facts.content.get("id"):
        yield "no id"


def _jdll_operations(facts: Facts) -> Iterator[str]:
    for name, options in facts.operations():
        if name not in _JDLL_OPERATIONS:
            yield f"the operation {name}, which it does not have"
        elif name == "clip" and (options.get("min") is None or options.get("max") is None):
            yield "the operation clip with one bound; it needs min and max"
        elif name == "scale_range" and options.get("reference_tensor") is not None:
            yield "the operation scale_range with a reference tensor"


def _jdll_axes(facts: Facts) -> Iterator[str]:
    for tensor in (*facts.tensors("inputs"), *facts.tensors("outputs")):
        for axis in _list(tensor.get("axes")):
            name = str(axis.get("id") or axis.get("type"))
            if name not in _JDLL_AXES and axis.get("type") not in ("batch", "channel"):
                yield f"the axis {name} of '{tensor.get('id')}'"


def _halo_leaves_nothing(facts: Facts) -> Iterator[str]:
    sizes = {
        (tensor.get("id"), axis.get("id")): axis.get("size")
        for tensor in facts.tensors("inputs")
        for axis in _list(tensor.get("axes"))
    }
    for tensor in facts.tensors("outputs"):
        for axis in _list(tensor.get("axes")):
            size, halo = axis.get("size"), int(axis.get("halo") or 0)
            if not isinstance(size, Mapping) or not halo:
                continue
            reference = cast("Mapping[str, Any]", size)
            given = sizes.get((reference.get("tensor_id"), reference.get("axis_id")))
            smallest = cast("Mapping[str, Any]", given).get("min") if isinstance(given, Mapping) else given
            if isinstance(smallest, int) and smallest - 2 * halo < 1:
                yield f"a halo of {halo} along {axis.get('id')} leaves nothing of the smallest size {smallest}"


def _onnx_of_its_age(facts: Facts) -> Iterator[str]:
    head = facts.onnx
    if head is None:
        yield "no ONNX weights"
    elif isinstance(head, str):
        yield head
    else:
        if head.opset > _LARGEST_OPSET:
            yield f"opset {head.opset}; it reads up to {_LARGEST_OPSET}"
        if head.ir > _LARGEST_IR:
            yield f"IR {head.ir}; it reads up to {_LARGEST_IR}"
        if head.domains:
            yield f"operators of {', '.join(head.domains)}"


def _torchscript_of_its_age(facts: Facts) -> Iterator[str]:
    head = facts.torchscript
    if head is None:
        yield "no TorchScript weights"
    elif isinstance(head, str):
        yield head
    else:
        if head.format_version > _LARGEST_TORCHSCRIPT:
            yield f"TorchScript of file version {head.format_version}; it reads up to {_LARGEST_TORCHSCRIPT}"
        if head.scripted_interpolate:
            yield "TorchScript compiled with interpolate inside, which it cannot read; trace it instead"


def _jdll_weights(facts: Facts) -> Iterator[str]:
    """One weight format that its engines load is enough."""
    if {"tensorflow_saved_model_bundle", "keras_hdf5"} & set(facts.weights):
        return
    problems = [*_onnx_of_its_age(facts)], [*_torchscript_of_its_age(facts)]
    if all(problems):
        yield from (problem for of_format in problems for problem in of_format)


def _biapy_weights(facts: Facts) -> Iterator[str]:
    state_dict = _mapping(_mapping(facts.content.get("weights")).get("pytorch_state_dict"))
    if not state_dict:
        yield "no state dict, the one weight format that it takes"
        return
    built = _mapping(state_dict.get("architecture")) or state_dict  # beside it in format 0.4
    if "kwargs" not in built:
        yield "the state dict states no arguments (kwargs) of its network"
        return
    arguments = _mapping(built["kwargs"])
    tags = _list(facts.content.get("tags"))
    segments = "semantic-segmentation" in tags or ("segmentation" in tags and "instance-segmentation" not in tags)
    named = {str(built.get(name)).lower().removesuffix(".py") for name in ("callable", "source")}
    if segments and not named & set(_BIAPY_NETWORKS) and not set(_BIAPY_CLASSES) & set(arguments):
        yield f"it cannot tell how many classes come out: {built.get('callable')} is no network that it knows"


def _biapy_tags(facts: Facts) -> Iterator[str]:
    if not set(_list(facts.content.get("tags"))) & set(_BIAPY_TAGS):
        yield "no tag that names one of its workflows, such as semantic-segmentation or classification"


def _biapy_input(facts: Facts) -> Iterator[str]:
    inputs = facts.tensors("inputs")
    if len(inputs) != 1:
        yield f"{len(inputs)} inputs; it takes one"
        return
    axes = inputs[0].get("axes")
    order = axes if isinstance(axes, str) else "".join(_letter(axis) for axis in _list(axes))
    if order not in ("bcyx", "bczyx"):
        yield f"an input with the axes {order}; it takes bcyx and bczyx"
    for step in _list(inputs[0].get("preprocessing")):
        name = str(step.get("id") or step.get("name"))
        if name not in _BIAPY_OPERATIONS:
            yield f"the operation {name} before the network, which it does not have"


def _letter(axis: Mapping[str, Any]) -> str:
    return {"batch": "b", "channel": "c"}.get(str(axis.get("type")), str(axis.get("id")))


def _biapy_dependencies(facts: Facts) -> Iterator[str]:
    for named in facts.dependencies:
        compact = named.replace(" ", "")
        if re.match(r"python\b", compact) and not named.lower().startswith("python="):
            yield f"the state dict's environment asks for '{named}', which it tries to import; leave python out"


_SPEC = "bioimageio.spec, fields of generic descriptions since format 0.5.11; tried with core 0.9.6, 0.10.2 and 0.10.4"
_JDLL_SOURCE = "bioimage-io/JDLL, "
_BIAPY_SOURCE = "BiaPyX/BiaPy 3.7.1, biapy/models/__init__.py, "

RULES: tuple[Rule, ...] = (
    Rule((CORE_011, CORE_010, CORE_09, BIAPY, ILASTIK), "bioimageio.spec, model formats 0.4 and 0.5", _format_of_spec),
    Rule((JDLL,), _JDLL_SOURCE + "ModelDescriptorFactory.java, fromMap", _format_of_spec),
    Rule((CORE_010, CORE_09, BIAPY, ILASTIK), _SPEC, _mappings),
    Rule((JDLL,), _JDLL_SOURCE + "ModelDescriptorV05.java, which casts both to String", _mappings),
    Rule((CORE_011, CORE_010, CORE_09, ILASTIK), "bioimageio.core, backends", _any_weights),
    Rule((CORE_011, CORE_010, CORE_09, BIAPY), "bioimageio.spec, sizes of axes with halo", _halo_leaves_nothing),
    Rule((BIAPY,), _BIAPY_SOURCE + "check_bmz_model_compatibility", _biapy_weights),
    Rule((BIAPY,), _BIAPY_SOURCE + "check_bmz_model_compatibility", _biapy_tags),
    Rule((BIAPY,), _BIAPY_SOURCE + "check_bmz_model_compatibility", _biapy_input),
    Rule((BIAPY,), _BIAPY_SOURCE + "can_import_env_deps", _biapy_dependencies),
    Rule((ILASTIK,), "ilastik/ilastik pull request 2732: single input and output tensor", _one_tensor),
    Rule((ILASTIK,), "tried in ilastik's tiktorch server: outputs without two spatial axes are refused", _maps_only),
    Rule((JDLL,), "tried: JDLL 0.6.1 does not list a model without id", _no_id),
    Rule((JDLL,), _JDLL_SOURCE + "folder transformations", _jdll_operations),
    Rule((JDLL,), _JDLL_SOURCE + "ModelDescriptorV05.java, halo in the order XYCZB", _jdll_axes),
    Rule((JDLL,), "its engines: onnxruntime 1.13.1 and torch 2.0.0", _jdll_weights),
    Rule(
        (ONNX_RUNTIME,),
        "onnxruntime.ai/docs/reference/compatibility.html; microsoft/onnxruntime issue 15874",
        _onnx_of_its_age,
    ),
    Rule((TORCH,), "pytorch/pytorch, caffe2/serialize/versions.h; tried in torch 2.0.0", _torchscript_of_its_age),
)
#: in the order of the table
CONSUMERS = (CORE_011, CORE_010, CORE_09, BIAPY, ILASTIK, JDLL, ONNX_RUNTIME, TORCH)


def would_open(folder: Path, *, path: Path | None = None, cache: Path | None = None) -> list[Verdict]:
    """Say which programs open a package.

    Parameters
    ----------
    folder : Path
        The unpacked package.
    path : Path, optional
        The zip file it comes from, for messages and ArtSeg's own verdict.
    cache : Path, optional
        Where zips are unpacked, as in `read_package`.

    Returns
    -------
    list of Verdict
        One a program, ArtSeg last.

    Raises
    ------
    ArtSegError
        The description is missing or no YAML.
    """
    facts = read_facts(folder)
    verdicts: list[Verdict] = []
    for consumer in CONSUMERS:
        broken = [
            (reason, rule.source) for rule in RULES if consumer in rule.consumers for reason in rule.broken(facts)
        ]
        reasons = tuple(dict.fromkeys(reason for reason, _ in broken))
        verdicts.append(Verdict(consumer, not broken, reasons, tuple(dict.fromkeys(source for _, source in broken))))
    return [*verdicts, _artseg(path or folder, cache)]


def _artseg(path: Path, cache: Path | None) -> Verdict:
    try:
        package = read_package(path, cache=cache, any_kind=True)
    except ArtSegError as error:
        return Verdict(ARTSEG, False, (str(error),), ("its own reader, artseg_models/packages/read.py",))
    if not set(package.weights) & set(RUNNABLE_FORMATS):
        reason = f"only the weight formats {', '.join(package.weights)}; it runs {' and '.join(RUNNABLE_FORMATS)}"
        return Verdict(ARTSEG, False, (reason,), ("a state dict runs Python from the package",))
    notes = ("as a gate only: it classifies whole images",) if package.kind == "classification" else ()
    return Verdict(ARTSEG, True, notes)


def read_facts(folder: Path) -> Facts:
    """Read the description and the heads of the weight files.

    Raises
    ------
    ArtSegError
        The description is missing or no YAML.
    """
    content = load_yaml(find_description(folder))
    stated = content.get("weights")
    weights = cast("dict[str, Any]", stated) if isinstance(stated, dict) else {}
    there = {name: entry for name, entry in weights.items() if entry is not None}
    return Facts(
        content,
        onnx=_head(folder, there.get("onnx"), _onnx_head),
        torchscript=_head(folder, there.get("torchscript"), _script_head),
        weights=tuple(there),
        dependencies=_dependencies(folder, there.get("pytorch_state_dict")),
    )


def _dependencies(folder: Path, entry: Any) -> tuple[str, ...]:
    """List what a state dict's environment file asks for; nothing where there is none that can be read."""
    stated = cast("dict[str, Any]", entry).get("dependencies") if isinstance(entry, dict) else None
    source = cast("dict[str, Any]", stated).get("source") if isinstance(stated, dict) else None
    path = folder / str(source)
    if source is None or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        return ()
    try:
        return tuple(named for named in _list(load_yaml(path).get("dependencies")) if isinstance(named, str))
    except ArtSegError:
        return ()


def _head(folder: Path, entry: Any, read: Callable[[Path], _Head]) -> _Head | str | None:
    if entry is None:
        return None
    source = str(cast("dict[str, Any]", entry).get("source") if isinstance(entry, dict) else entry)
    path = folder / source
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        return f"the file {source} is not in the package"
    try:
        return read(path)
    # whatever a damaged file makes its reader raise
    except Exception as error:
        return f"{path.name} is damaged: {' '.join(str(error).split())[:200]}"


def _onnx_head(path: Path) -> OnnxHead:
    model = _onnx.load(str(path), load_external_data=False)
    if not model.graph.node:
        raise ValueError("it holds no graph")
    versions = {str(entry.domain): int(entry.version) for entry in model.opset_import}
    usual = ("", "ai.onnx", "ai.onnx.ml")
    return OnnxHead(
        opset=max((version for domain, version in versions.items() if domain in ("", "ai.onnx")), default=0),
        ir=int(model.ir_version),
        domains=tuple(domain for domain in versions if domain not in usual),
    )


def _script_head(path: Path) -> ScriptHead:
    with zipfile.ZipFile(path) as opened:
        names = opened.namelist()
        version = next((name for name in names if name.count("/") == 1 and name.endswith("/version")), None)
        if version is None:
            raise ValueError("it states no version")
        functions = [name for name in names if "/__torch__/torch/nn/functional" in name and name.endswith(".py")]
        # a trace holds operators alone; a compiled model brings the functions along
        compiled = any(re.search(rb"def \w*interpolate", opened.read(name)) for name in functions)
        return ScriptHead(format_version=int(opened.read(version)), scripted_interpolate=compiled)
