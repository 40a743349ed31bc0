"""The Model Zoo's pre- and postprocessing operations, for a single image (y, x).

Meaning and defaults follow the model description format 0.5; statistics are taken over the whole image, since a
package that reads one channel has nothing else to take them over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from artseg_models.errors import ArtSegError
from artseg_models.images import NORMALISATION_EPSILON, normalise

#: the format adds this to a fixed standard deviation
_FIXED_EPS = 1e-6
_DTYPES = ("float32", "float64", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool")

Pixels = NDArray[np.floating[Any]]
Valid = NDArray[np.bool_]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Operation(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _ZeroMeanUnitVarianceOptions(_Strict):
    axes: tuple[str, ...] | None = None
    eps: float = 1e-6


class ZeroMeanUnitVariance(_Operation):
    """(image - mean) / (standard deviation + eps)."""

    id: Literal["zero_mean_unit_variance"]
    kwargs: _ZeroMeanUnitVarianceOptions = _ZeroMeanUnitVarianceOptions()


class _FixedZeroMeanUnitVarianceOptions(_Strict):
    mean: float | tuple[float]
    std: float | tuple[float]
    axis: str | None = None


class FixedZeroMeanUnitVariance(_Operation):
    """(image - mean) / standard deviation, both given."""

    id: Literal["fixed_zero_mean_unit_variance"]
    kwargs: _FixedZeroMeanUnitVarianceOptions


class _ScaleLinearOptions(_Strict):
    gain: float | tuple[float] = 1.0
    offset: float | tuple[float] = 0.0
    axis: str | None = None


class ScaleLinear(_Operation):
    """image * gain + offset."""

    id: Literal["scale_linear"]
    kwargs: _ScaleLinearOptions


class _ScaleRangeOptions(_Strict):
    axes: tuple[str, ...] | None = None
    min_percentile: float = 0.0
    max_percentile: float = 100.0
    eps: float = 1e-6
    reference_tensor: str | None = None


class ScaleRange(_Operation):
    """(image - low) / (high - low + eps), low and high being percentiles of the image."""

    id: Literal["scale_range"]
    kwargs: _ScaleRangeOptions = _ScaleRangeOptions()


class _ClipOptions(_Strict):
    min: float | None = None
    max: float | None = None
    min_percentile: float | None = None
    max_percentile: float | None = None
    axes: tuple[str, ...] | None = None


class Clip(_Operation):
    """Values below min become min, values above max become max; either may be a percentile of the image."""

    id: Literal["clip"]
    kwargs: _ClipOptions


class _BinarizeOptions(_Strict):
    threshold: float | tuple[float]
    axis: str | None = None


class Binarize(_Operation):
    """1 above the threshold, else 0."""

    id: Literal["binarize"]
    kwargs: _BinarizeOptions


class _EnsureDtypeOptions(_Strict):
    dtype: str


class EnsureDtype(_Operation):
    """Round towards zero where the type asks for whole numbers."""

    id: Literal["ensure_dtype"]
    kwargs: _EnsureDtypeOptions


class Sigmoid(_Operation):
    """1 / (1 + exp(-image))."""

    id: Literal["sigmoid"]


Operation = (
    ZeroMeanUnitVariance
    | FixedZeroMeanUnitVariance
    | ScaleLinear
    | ScaleRange
    | Clip
    | Binarize
    | EnsureDtype
    | Sigmoid
)
_READER: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="id")])
#: the names of the operations that ArtSeg can carry out
KNOWN_OPERATIONS = tuple(str(get_args(kind.model_fields["id"].annotation)[0]) for kind in get_args(Operation))


def _carry_out(operation: Operation, pixels: Pixels, valid: Valid | None) -> Pixels:
    match operation:
        case ZeroMeanUnitVariance(kwargs=options):
            if options.eps == NORMALISATION_EPSILON:
                return normalise(pixels, valid=valid)
            counted = _counted(pixels, valid)
            return (pixels - counted.mean()) / (counted.std() + options.eps)
        case FixedZeroMeanUnitVariance(kwargs=options):
            return (pixels - _number(options.mean)) / (_number(options.std) + _FIXED_EPS)
        case ScaleLinear(kwargs=options):
            return pixels * _number(options.gain) + _number(options.offset)
        case ScaleRange(kwargs=options):
            low = _percentile(pixels, valid, options.min_percentile)
            high = _percentile(pixels, valid, options.max_percentile)
            return (pixels - low) / (high - low + options.eps)
        case Clip(kwargs=options):
            low, high = options.min, options.max
            if options.min_percentile is not None:
                low = _percentile(pixels, valid, options.min_percentile)
            if options.max_percentile is not None:
                high = _percentile(pixels, valid, options.max_percentile)
            return np.clip(pixels, low, high)
        case Binarize(kwargs=options):
            return (pixels > _number(options.threshold)).astype(np.float64)
        case EnsureDtype(kwargs=options):
            return pixels.astype(options.dtype).astype(np.float64)
        case Sigmoid():
            # by the sign, so that exp never overflows
            small = np.exp(-np.abs(pixels))
            return np.where(pixels >= 0, 1.0, small) / (1.0 + small)


def _counted(pixels: Pixels, valid: Valid | None) -> Pixels:
    return pixels if valid is None else pixels[valid]


def _percentile(pixels: Pixels, valid: Valid | None, percent: float) -> float:
    return float(np.percentile(_counted(pixels, valid), percent))


def _number(value: float | tuple[float]) -> float:
    return value[0] if isinstance(value, tuple) else value


def read_operations(described: Sequence[Mapping[str, Any]], *, source: str) -> tuple[Operation, ...]:
    """Read the `preprocessing` or `postprocessing` list of a tensor.

    Parameters
    ----------
    described : sequence of mapping
        Entries with `id` and `kwargs` as in rdf.yaml.
    source : str
        What is read, for messages.

    Raises
    ------
    ArtSegError
        An operation is unknown, has wrong options, or works on part of the image (such as each row) only.
    """
    operations: list[Operation] = []
    for entry in described:
        name = entry.get("id")
        if name not in KNOWN_OPERATIONS:
            raise ArtSegError(
                f"{source} asks for the operation '{name}', which ArtSeg does not have. "
                f"It has: {', '.join(KNOWN_OPERATIONS)}. Use a package that needs no other."
            )
        try:
            operation = _READER.validate_python(entry)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"][1:])
            raise ArtSegError(
                f"{source}: the operation '{name}' has a wrong option {where}: {first['msg']}. "
                "Ask the package's author to correct rdf.yaml."
            ) from error
        axes = operation.kwargs.axes if isinstance(operation, ZeroMeanUnitVariance | ScaleRange | Clip) else None
        if axes is not None and not {"y", "x"} <= set(axes):
            raise ArtSegError(
                f"{source}: the operation '{name}' takes its statistics over {', '.join(axes) or 'no axis'}; "
                "ArtSeg takes them over the whole image (y, x) only. Use another package."
            )
        if isinstance(operation, ScaleRange) and operation.kwargs.reference_tensor is not None:
            raise ArtSegError(
                f"{source}: the operation 'scale_range' takes its percentiles from the other tensor "
                f"'{operation.kwargs.reference_tensor}', which ArtSeg does not do. Use another package."
            )
        if isinstance(operation, EnsureDtype) and operation.kwargs.dtype not in _DTYPES:
            raise ArtSegError(
                f"{source}: the operation 'ensure_dtype' names the type '{operation.kwargs.dtype}'; "
                f"expected one of {', '.join(_DTYPES)}."
            )
        operations.append(operation)
    return tuple(operations)


def apply_operations(
    operations: Sequence[Operation], pixels: NDArray[Any], *, valid: Valid | None = None
) -> NDArray[np.float32]:
    """Carry out operations on an image.

    Parameters
    ----------
    operations : sequence of Operation
        In order.
    pixels : NDArray
        (y, x), any number type.
    valid : NDArray of bool, optional
        (y, x); pixels outside do not count in any statistic and enter as the mean of those inside (which a
        zero-mean operation turns into 0).

    Returns
    -------
    NDArray of float32
        (y, x).
    """
    if not operations and valid is None:
        # a copy: what a network gave may lie in a large piece of memory that its library would like to have back
        return np.array(pixels, dtype=np.float32)
    values: Pixels = np.asarray(pixels, dtype=np.float64)
    if valid is not None and valid.all():
        valid = None
    if valid is not None:
        if not valid.any():
            raise ArtSegError("Every pixel of the image is masked; expected at least some that are not.")
        values = np.where(valid, values, values[valid].mean())
    for operation in operations:
        values = _carry_out(operation, values, valid)
    return np.asarray(values, dtype=np.float32)
