"""What travels between the CellProfiler module's client and the service.

A request's body is one .npy array, the image, optionally followed by a second one, the valid pixels; its options are
JSON in a header. The answer is three .npy arrays, one after the other: the result as JSON in bytes, the probability and
the labels. No array ever holds Python objects, so that reading one runs nobody's code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from artseg_models.errors import ArtSegError

#: grows whenever an older client or service would misunderstand the other
PROTOCOL_VERSION = 4

PROTOCOL_HEADER = "X-ArtSeg-Protocol"
OPTIONS_HEADER = "X-ArtSeg-Options"

#: largest request taken, in bytes: an image of 16k x 16k pixels in float32
LARGEST_REQUEST = 2**30 + 2**20


class SegmentOptions(BaseModel):
    """How one image is to be segmented; None means as the model says.

    Exactly one of `package`, `model` and `sha256` names the model.

    Attributes
    ----------
    package : str or None
        Absolute path of the model package on the service's machine.
    model : str or None
        Id of a model that the service offers, the newest version of it; or ID@VERSION.
    sha256 : str or None
        Of a package that the service offers.
    cutoff : float or None
        Probability from which on a pixel counts as artifact, 0..1.
    smallest_artifact_px : int or None
        Objects with fewer pixels are dropped.
    gate : bool
        Whether the model's classifier may call the whole image clean.
    gate_threshold : float or None
        Image probability from which on the classifier sees an artifact, 0..1.
    cpu_allowed : bool
        Whether the CPU may take an image for which the device's memory does not suffice.
    run : int or None
        Process on the service's machine without which the service is not needed any more.
    source : str
        Names the image in errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: str | None = None
    model: str | None = None
    sha256: str | None = None
    cutoff: float | None = Field(default=None, ge=0, le=1)
    smallest_artifact_px: int | None = Field(default=None, ge=0)
    gate: bool = True
    gate_threshold: float | None = Field(default=None, ge=0, le=1)
    cpu_allowed: bool = False
    run: int | None = Field(default=None, gt=0)
    source: str = "image"

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if sum(named is not None for named in (self.package, self.model, self.sha256)) != 1:
            raise ValueError("exactly one of package, model and sha256 must name the model")
        return self


def read_options(header: str | None) -> SegmentOptions:
    """Read the options from their header.

    Raises
    ------
    ArtSegError
        The header is missing, no JSON, or holds an option or value that the service does not know.
    """
    try:
        return SegmentOptions.model_validate_json(header or "")
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors())
        raise ArtSegError(f"Expected the options of a request as JSON in {OPTIONS_HEADER}, but: {problems}.") from error


def read_arrays(body: bytes | bytearray) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Read the image and, where present, the valid pixels.

    Parameters
    ----------
    body : bytes
        One or two .npy arrays, one after the other.

    Returns
    -------
    image : ndarray
        (y, x), any real dtype; a view of `body`.
    valid : ndarray or None
        (y, x) bool, False on pixels that are masked in CellProfiler.

    Raises
    ------
    ArtSegError
        The body is something else.
    """
    image, end = _read_npy(body, 0)
    valid = _read_npy(body, end)[0] if end < len(body) else None
    if image.ndim != 2 or image.dtype.kind not in "uif":
        raise ArtSegError(f"Expected a grey image (y, x), got an array of shape {image.shape} and type {image.dtype}.")
    if valid is not None and (valid.dtype != np.bool_ or valid.shape != image.shape):
        raise ArtSegError(f"Expected the mask of valid pixels as bool {image.shape}, got {valid.dtype} {valid.shape}.")
    return image, valid


def write_answer(probability: NDArray[np.float32], labels: NDArray[np.int32], result: Mapping[str, Any]) -> list[bytes]:
    """Pack the answer to a request.

    Parameters
    ----------
    probability : ndarray
        (y, x) float32, 0..1.
    labels : ndarray
        (y, x) int32, 1..N on artifacts; they travel in the smallest unsigned type that holds N.
    result : mapping
        Numbers and texts, as JSON.

    Returns
    -------
    list of bytes
        The pieces, one after the other: headers and contents of three .npy arrays.
    """
    text = np.frombuffer(json.dumps(result, allow_nan=False).encode(), dtype=np.uint8)
    smallest = labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
    pieces: list[bytes] = []
    for array in (text, probability, smallest):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        pieces += [header.getvalue(), array.tobytes("F" if array.flags.fnc else "C")]
    return pieces


def _read_npy(body: bytes | bytearray, start: int) -> tuple[NDArray[Any], int]:
    """Read one array from `start` on; its declared size is held against what came before any memory is taken."""
    stream = io.BytesIO(memoryview(body)[start : start + 2**16])  # no header is as long
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except ValueError as error:
        raise ArtSegError(f"Expected an image as .npy, but it could not be read: {error}.") from error
    if dtype.hasobject:
        raise ArtSegError(f"Expected numbers, got an array of {dtype}.")
    count = 1
    for side in shape:
        count *= int(side)
    begin = start + stream.tell()
    end = begin + count * dtype.itemsize
    if end > len(body):
        raise ArtSegError(
            f"Expected {count * dtype.itemsize} bytes for an array of shape {shape}, got {len(body) - begin}."
        )
    array = np.frombuffer(body, dtype=dtype, count=count, offset=begin).reshape(shape, order="F" if fortran else "C")
    return cast(NDArray[Any], array), end
