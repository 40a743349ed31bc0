"""What the inference service costs: the detour through it, its start, its memory and its throughput."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from artseg_models.bundle import plugins_folder
from artseg_models.errors import ArtSegError
from artseg_models.packages.read import Package, read_package
from artseg_models.predict import Predictor, resolve_device
from artseg_models.service.rendezvous import read_rendezvous
from artseg_models.simulate import simulate_field

#: clients at a time
CROWDS = (1, 2, 4)
_FIELDS = 4
_ROUNDS = 3
#: images of each client in the largest crowd, in each round; as many in all for every crowd
_IMAGES_EACH = 3
#: threads of the process that just predicted wait for more at full speed for a while
_REST_SECONDS = 0.1

# asks as many times as each line on its stdin says, with CellProfiler's own client
_CLIENT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy
from _artseg_client import segment
images = numpy.load(sys.argv[2])
print("ready", flush=True)
asked = 0
for line in sys.stdin:
    answers = []
    for _ in range(int(line)):
        started, busy = time.perf_counter(), time.process_time()
        answer = segment(images[asked % len(images)], sys.argv[3], device=sys.argv[4])
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        answers.append([seconds, busy, answer.result["seconds"], int((answer.labels > 0).sum())])
        asked += 1
    print(json.dumps(answers), flush=True)
"""


@dataclass(frozen=True)
class Crowd:
    """Several clients at a time.

    Attributes
    ----------
    clients : int
        Processes that asked at the same time.
    images_per_second : float
        Of all of them together, median over the rounds.
    relative : float
        That over one client's, median over the rounds, each by its own round's.
    resident_mib : float
        Most resident memory of the service's process.
    """

    clients: int
    images_per_second: float
    relative: float
    resident_mib: float


@dataclass(frozen=True)
class ServiceBenchmark:
    """What was measured; seconds are medians.

    Attributes
    ----------
    model, sha256, device, shape, images
        What it was measured with; shape is (y, x).
    first_seconds : float
        From the first call, when no service runs, until the first image's answer.
    inside_seconds : float
        A prediction in the own process, model loaded.
    client_seconds : float
        The same image through client and service, model loaded.
    network_seconds : float
        Part of that in which the service predicted.
    ratio : float
        Median over the images of client over own process.
    processor_ratio : float
        Processor time of client and service over that of the own process, all images together. Where other work keeps
        the machine busy, times by the clock tell who got a processor when; this does not.
    crowds : tuple of Crowd
    """

    model: str
    sha256: str
    device: str
    shape: tuple[int, int]
    images: int
    first_seconds: float
    inside_seconds: float
    client_seconds: float
    network_seconds: float
    ratio: float
    processor_ratio: float
    crowds: tuple[Crowd, ...]

    def fields(self) -> dict[str, Any]:
        """All of it by name, for a file."""
        return asdict(self)


def benchmark_service(
    package: Path,
    *,
    device: str = "auto",
    images: int = 20,
    shape: tuple[int, int] = (1080, 1080),
    clients: Sequence[int] = CROWDS,
    seed: int = 0,
) -> ServiceBenchmark:
    """Measure the service with a model on simulated fields of view.

    Parameters
    ----------
    package : Path
        A model package.
    device : {"auto", "cuda", "mps", "cpu"}
        Where both sides run.
    images : int
        How many times each side of the detour is timed.
    shape : tuple of int
        (y, x) in pixels.
    clients : sequence of int
        Sizes of the crowds; the first must be 1, which the others are compared with.
    seed : int
        Of the simulated fields.

    Returns
    -------
    ServiceBenchmark

    Raises
    ------
    ArtSegError
        The package cannot be used, a client fails, or both sides do not find the same artifacts.
    """
    if not clients or clients[0] != 1:
        raise ArtSegError(f"Expected crowds of clients that begin with 1, got {', '.join(map(str, clients))}.")
    read = read_package(package)
    fields = np.stack(
        [
            (simulate_field(seed=seed + n, shape=shape, artifact=True).brightfield / 65535).astype(np.float32)
            for n in range(_FIELDS)
        ]
    )
    # the service's folder is deleted in the end: what a client may still write into must be gone by then
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        state = Path(folder) / "state"
        np.save(Path(folder) / "images.npy", fields)
        arguments = [str(plugins_folder()), str(Path(folder) / "images.npy"), str(package.resolve()), device]
        environment = os.environ | {"ARTSEG_STATE_DIR": str(state), "ARTSEG_PYTHON": sys.executable}
        with _clients(max(clients), arguments, environment) as asked, no_service_left(state):
            first = asked[0](1)[0]
            service = _service_of(state)
            turns = _detour(read, device, fields, asked[0], service, images)
            crowds = _crowds(service, asked, clients, max(clients) * _IMAGES_EACH)
    return ServiceBenchmark(
        model=read.id,
        sha256=read.sha256,
        device=resolve_device(device),
        shape=shape,
        images=images,
        first_seconds=first.seconds,
        inside_seconds=statistics.median(turn.seconds for turn in turns),
        client_seconds=statistics.median(turn.answer.seconds for turn in turns),
        network_seconds=statistics.median(turn.answer.network_seconds for turn in turns),
        ratio=statistics.median(turn.answer.seconds / turn.seconds for turn in turns),
        processor_ratio=sum(turn.answer.busy + turn.service_busy for turn in turns) / sum(turn.busy for turn in turns),
        crowds=crowds,
    )


class _Answer(NamedTuple):
    """Of one image, as the client measured it: seconds, its processor's, the network's, and artifact pixels."""

    seconds: float
    busy: float
    network_seconds: float
    artifact_px: int


#: asks a client process for so many images
_Client = Callable[[int], list[_Answer]]


class _Turn(NamedTuple):
    """One image in this process, then through the service; `busy` is processor time in seconds."""

    seconds: float
    busy: float
    answer: _Answer
    service_busy: float


def _service_of(state: Path) -> psutil.Process:
    """Find the process of the one service of a state folder."""
    (path,) = state.glob("service-*.json")
    rendezvous = read_rendezvous(path)
    if rendezvous is None:
        raise ArtSegError("The service ended during the benchmark. Try again.")
    return psutil.Process(rendezvous.pid)


def _busy(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@contextlib.contextmanager
def _clients(count: int, arguments: Sequence[str], environment: dict[str, str]) -> Generator[list[_Client]]:
    with contextlib.ExitStack() as processes:
        started = [
            processes.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _CLIENT, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
            for _ in range(count)
        ]
        try:
            for process in started:
                _line(process)
            yield [_asker(process) for process in started]
        finally:
            for process in started:
                process.kill()


def _asker(process: subprocess.Popen[str]) -> _Client:
    def ask(images: int) -> list[_Answer]:
        assert process.stdin is not None
        process.stdin.write(f"{images}\n")
        process.stdin.flush()
        return [_Answer(*answer) for answer in json.loads(_line(process))]

    return ask


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    if not line:
        last = process.stderr.read().strip().splitlines() or ["it said nothing"]
        raise ArtSegError(f"A client of the benchmark failed: {last[-1]}")
    return line


@contextlib.contextmanager
def no_service_left(state: Path) -> Generator[None]:
    """End the services of a state folder afterwards."""
    try:
        yield
    finally:
        for path in state.glob("service-*.json"):
            rendezvous = read_rendezvous(path)
            if rendezvous is not None and psutil.pid_exists(rendezvous.pid):
                psutil.Process(rendezvous.pid).terminate()
                # its process stays a zombie as long as the client that started it lives
                until = time.monotonic() + 30
                while path.exists() and time.monotonic() < until:
                    time.sleep(0.05)


def _detour(
    package: Package,
    device: str,
    fields: NDArray[np.float32],
    client: _Client,
    service: psutil.Process,
    images: int,
) -> list[_Turn]:
    """Predict in this process and through the client by turns."""
    predictor = Predictor(package, device=device)
    # the client has asked for the first field already; both sides warm up with the next
    expected = [int(predictor.predict(field).mask.sum()) for field in fields]
    client(1)
    turns: list[_Turn] = []
    for n in range(images):
        field = (n + 2) % len(fields)
        time.sleep(_REST_SECONDS)
        started, busy = time.perf_counter(), time.process_time()
        predictor.predict(fields[field])
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        time.sleep(_REST_SECONDS)
        service_busy = _busy(service)
        answer = client(1)[0]
        if answer.artifact_px != expected[field]:
            raise ArtSegError(
                f"The service found {answer.artifact_px} artifact pixels where this process found {expected[field]}: "
                "another version of artseg answers. End it (artseg serve --stop) and try again."
            )
        turns.append(_Turn(seconds, busy, answer, _busy(service) - service_busy))
    return turns


def _crowds(
    service: psutil.Process, asked: Sequence[_Client], clients: Sequence[int], images: int
) -> tuple[Crowd, ...]:
    speeds: dict[int, list[float]] = {count: [] for count in clients}
    memory: dict[int, float] = dict.fromkeys(clients, 0.0)
    for _ in range(_ROUNDS):
        for count in clients:
            shares = [images // count + (n < images % count) for n in range(count)]
            threads = [
                threading.Thread(target=ask, args=(share,))
                for ask, share in zip(asked[:count], shares, strict=True)
                if share
            ]
            started = time.perf_counter()
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                memory[count] = max(memory[count], service.memory_info().rss / 2**20)
                time.sleep(0.02)
            speeds[count].append(images / (time.perf_counter() - started))
    alone = speeds[clients[0]]
    return tuple(
        Crowd(
            clients=count,
            images_per_second=statistics.median(speeds[count]),
            relative=statistics.median(speed / one for speed, one in zip(speeds[count], alone, strict=True)),
            resident_mib=memory[count],
        )
        for count in clients
    )
