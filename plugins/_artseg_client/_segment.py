"""One image to its segmentation."""

import collections
import io
import json
import logging
import os
import time

import numpy

from ._ask import AwayError, GoneError, LateError, ask, error_message, said_error
from ._errors import ServiceError
from ._place import log_path, read_rendezvous
from ._remote import identity, remote_place
from ._start import find_or_start, last_log_lines, this_run
from ._token import address, token_of

logger = logging.getLogger(__name__)

#: longer than the service's own limits on waiting and on working: it says what was slow, this only holds
ANSWER_SECONDS = 2 * 1800.0 + 60.0

#: places where a service gave this process its last answer, and so need not be asked for its health before each image
_answered = []

#: probability (y, x) float32 0..1; labels (y, x) 1..N on artifacts, in the smallest unsigned type that holds N; result:
#: numbers and texts by name
Segmentation = collections.namedtuple("Segmentation", ["probability", "labels", "result"])


def segment(
    pixels,
    package="",
    valid=None,
    cutoff=None,
    smallest_artifact_px=None,
    gate=True,
    gate_threshold=None,
    device="auto",
    python="",
    source="image",
    model="",
    server="",
    cpu_allowed=False,
    end_with_run=False,
):
    """Find the artifacts in one image.

    Parameters
    ----------
    pixels : ndarray
        (y, x), any real type and range.
    package : str
        Path of a model package on this computer, .zip or folder; a server elsewhere must offer the same one.
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
        "auto", "cuda", "mps" or "cpu", for a service on this computer.
    python : str
        Path of the Python that has artseg; blank to find it.
    source : str
        Names the image in errors.
    model : str
        Id of a model that the service offers, or ID@VERSION; instead of a package.
    server : str
        Address of an inference server; blank for this computer.
    cpu_allowed : bool
        Whether the processor may take an image for which the device's memory does not suffice.
    end_with_run : bool
        Whether a service that is started for this image ends with this run of CellProfiler, and the others that said
        so; one that runs already stays.

    Returns
    -------
    Segmentation
        `result` holds model_id, model_name, model_version, model_sha256, image_probability (None without
        classifier), gate_open, gate_threshold (None where no gate was used), cutoff, smallest_artifact_px, device,
        engine, tiles, note (None where there is nothing to tell), unlike (distance from the model's training images,
        None where it is not known), kinds (names of the kinds of artifact that the model tells apart; empty for a
        model that tells none, and so are the next two), object_kinds (the kind of objects 1..N as its place among the
        names, counted from 1), image_kinds (the classifier's probability of each kind by its name), seconds, artseg.

    Raises
    ------
    ServiceError
        It was not possible; the message says what to do.
    """
    options = {
        "cutoff": cutoff,
        "smallest_artifact_px": smallest_artifact_px,
        "gate": bool(gate),
        "gate_threshold": gate_threshold,
        "cpu_allowed": bool(cpu_allowed),
        "source": source,
    }
    options.update(_named(package, model, server))
    run = None if server else this_run(end_with_run)
    if run is not None:
        options["run"] = run
    body = _body(pixels, valid)

    def known():
        place = {"url": address(server), "token": token_of(server)} if server else read_rendezvous(device)
        place = place if server or place is None else dict(place, device=device)
        return place if place in _answered else None

    def find():
        return remote_place(server) if server else find_or_start(device, python, run=run)

    answer = _answer(body, options, known, find)
    probability, labels, result = _unpacked(answer)
    if result["note"]:
        logger.warning("SegmentArtifacts: %s: %s", source, result["note"])
    return Segmentation(probability, labels, result)


def _named(package, model, server):
    """Say which model, in the words of the service."""
    if model:
        return {"model": model.strip()}
    package = os.path.abspath(package)
    if server:
        return {"sha256": identity(package)}
    if not os.path.exists(package):
        raise ServiceError(
            f"Expected a model package (.zip or folder) at {package}, but there is none. "
            "Choose it again in SegmentArtifacts, or make one: artseg export RUN"
        )
    return {"package": package}


def _answer(body, options, known, find):
    """Ask until there is an answer; gives its body.

    Parameters
    ----------
    known, find : callable
        Give the place of a service that answered last time, or None; and of one that says that it is well.
    """
    source = options["source"]
    until = time.monotonic() + ANSWER_SECONDS
    broken = 0
    while True:
        place = known()
        unasked = place is not None
        if place is None:
            place = find()
        _answered[:] = [other for other in _answered if other != place]  # until it answers again
        try:
            status, answer = ask(place, "POST", "/segment", body, options, ANSWER_SECONDS)
        except LateError as error:
            raise ServiceError(
                f"The service gave no answer on {source} within {ANSWER_SECONDS / 60:.0f} minutes. "
                f"End it (artseg serve --stop) and try again, with a smaller image or fewer workers.{_log_of(place)}"
            ) from error
        except GoneError as error:
            # it may have ended for idleness just now, or was killed: one more service, one more try
            broken += not (unasked and isinstance(error, AwayError))
            if broken > 1:
                raise ServiceError(
                    f"artseg's service broke off twice while it worked on {source} ({error}); the memory may not "
                    f"suffice.{_log_of(place)}"
                ) from error
            continue
        if status == 503 and time.monotonic() < until:
            time.sleep(2.0)  # others fill its queue
            continue
        if status in (200, 422):  # 422: what is wrong with this image or model
            _answered.append(place)
        elif unasked and (status in (401, 426) or said_error(answer) is None):
            continue  # another service, or another program, has its port by now: look closer
        if status != 200:
            raise ServiceError(error_message(status, answer))
        return answer


def _log_of(place):
    if "url" in place:
        return f" The log of the server {place['url']} says more."
    return f" Its log is {log_path(place['device'])} and ends with:\n{last_log_lines(place['device'])}"


def _unpacked(answer):
    """Read the three arrays of an answer, which they stay a part of; gives probability, labels and result."""
    at = 0
    arrays = []
    try:
        for _ in range(3):
            header = io.BytesIO(memoryview(answer)[at : at + 4096])  # the service's are shorter
            numpy.lib.format.read_magic(header)
            shape, fortran, dtype = numpy.lib.format.read_array_header_1_0(header)
            at += header.tell()
            count = int(numpy.prod(shape, dtype=numpy.int64))
            flat = numpy.frombuffer(answer, dtype=dtype, count=count, offset=at)
            arrays.append(flat.reshape(shape, order="F" if fortran else "C"))
            at += flat.nbytes
        text, probability, labels = arrays
        return probability, labels, json.loads(text.tobytes().decode("utf-8"))
    except ValueError as error:
        raise ServiceError(
            f"Expected a segmentation from artseg's service, got something else ({error}). Another program may have "
            "its port: try again, and see artseg serve --status."
        ) from error


def _body(pixels, valid):
    """Give the pieces of a request: header and contents of one or two .npy arrays."""
    image = numpy.asarray(pixels)
    if image.dtype.kind == "b" or image.dtype == numpy.float64:
        image = image.astype(numpy.float32)  # half the bytes; the network computes in float32
    arrays = [numpy.ascontiguousarray(image)]
    if valid is not None:
        arrays.append(numpy.ascontiguousarray(valid, dtype=bool))
    pieces = []
    for array in arrays:
        header = io.BytesIO()
        numpy.lib.format.write_array_header_1_0(header, numpy.lib.format.header_data_from_array_1_0(array))
        pieces += [header.getvalue(), memoryview(array.reshape(-1).view(numpy.uint8))]
    return pieces
