"""How much memory this process took at most."""

from __future__ import annotations

import sys
from pathlib import Path

from artseg_models.errors import ArtSegError


def peak_mib() -> float:
    """Give the peak resident memory of this process so far, in MiB.

    Raises
    ------
    ArtSegError
        The system does not tell it.
    """
    if sys.platform == "win32":
        raise ArtSegError("Expected Linux or macOS, which tell a process's peak memory. Measure there.")
    if sys.platform == "linux":
        # getrusage there starts with the peak of the process that started this one
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 2**10
    import resource  # there is none on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
