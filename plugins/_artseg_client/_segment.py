"""One image to its segmentation."""

import collections
import io
import json
import os

import numpy

from ._ask import GoneError, ask, error_message
from ._errors import ServiceError
from ._place import log_path
from ._start import find_or_start, last_log_lines

#: images wait in one queue behind those of the other workers, and a large one may run on the CPU
ANSWER_SECONDS = 1800.0

#: probability (y, x) float32 0..1; labels (y, x) int32 1..N on artifacts; result: numbers and texts by name
Segmentation = collections.namedtuple("Segmentation", ["probability", "labels", "result"])


def segment(
    pixels,
    package,
    valid=None,
    cutoff=None,
    smallest_artifact_px=None,
    gate=True,
    gate_threshold=None,
    device="auto",
    python="",
    source="image",
):
    """Find the artifacts in one image.

    Parameters
    ----------
    pixels : ndarray
        (y, x), any real type and range.
    package : str
        Path of a model package, .zip or folder.
    valid : ndarray, optional
        (y, x) bool, False on masked pixels.
    cutoff : float, optional
        Probability from which on a pixel counts as artifact; None: as the model says.
    smallest_artifact_px : int, optional
        Objects with fewer pixels are dropped; None: as the model says.
    gate : bool
        Whether the model's classifier may call the whole image clean.
    gate_threshold : float, optional
        Image probability from which on the classifier sees an artifact; None: as the model says.
    device : str
        "auto", "cuda", "mps" or "cpu".
    python : str
        Path of the Python that has artseg; blank to find it.
    source : str
        Names the image in errors.

    Returns
    -------
    Segmentation
        `result` holds model_id, model_name, model_version, model_sha256, image_probability (None without
        classifier), gate_open, gate_threshold (None where no gate was used), cutoff, smallest_artifact_px, device,
        seconds, artseg.

    Raises
    ------
    ServiceError
        It was not possible; the message says what to do.
    """
    package = os.path.abspath(package)
    if not os.path.exists(package):
        raise ServiceError(
            f"Expected a model package (.zip or folder) at {package}, but there is none. "
            "Choose it again in SegmentArtifacts, or make one: artseg export RUN"
        )
    options = {
        "package": package,
        "cutoff": cutoff,
        "smallest_artifact_px": smallest_artifact_px,
        "gate": bool(gate),
        "gate_threshold": gate_threshold,
        "source": source,
    }
    body = _body(pixels, valid)
    place = find_or_start(device, python)
    try:
        status, answer = ask(place, "POST", "/segment", body, options, ANSWER_SECONDS)
    except GoneError:
        # it may have ended for idleness just now, or was killed: one more service, one more try
        place = find_or_start(device, python)
        try:
            status, answer = ask(place, "POST", "/segment", body, options, ANSWER_SECONDS)
        except GoneError as error:
            raise ServiceError(
                f"artseg's service broke off twice while it worked on {source} ({error}); the memory may not suffice. "
                f"Its log is {log_path(device)} and ends with:\n{last_log_lines(device)}"
            ) from error
    if status != 200:
        raise ServiceError(error_message(status, answer))
    with numpy.load(io.BytesIO(answer), allow_pickle=False) as arrays:
        result = json.loads(arrays["result"].tobytes().decode("utf-8"))
        return Segmentation(arrays["probability"], arrays["labels"], result)


def _body(pixels, valid):
    stream = io.BytesIO()
    image = numpy.asarray(pixels)
    if image.dtype.kind == "b" or image.dtype == numpy.float64:
        image = image.astype(numpy.float32)  # half the bytes; the network computes in float32
    numpy.lib.format.write_array(stream, numpy.ascontiguousarray(image), allow_pickle=False)
    if valid is not None:
        numpy.lib.format.write_array(stream, numpy.ascontiguousarray(valid, dtype=bool), allow_pickle=False)
    return stream.getvalue()
