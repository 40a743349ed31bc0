"""Set ArtSeg up and run its demonstration or its tests: everything that `make` calls, on every system.

    python packaging/develop.py demo      simulate, train, export, run CellProfiler, show the page
    python packaging/develop.py test      run the tests; what follows goes to pytest
    python packaging/develop.py check     run the linter and the type checker
    python packaging/develop.py run       run a program of artseg's environment: run artseg segment --help
    python packaging/develop.py setup     only make the environments

Two environments are made in `.environments/`: `artseg`, and `cellprofiler` with CellProfiler 5 and its own, older
libraries. The tests get a third, `cellprofiler4` with CellProfiler 4.2, where a Python 3.9 and what it is compiled with
are there; elsewhere the set-up says what is missing, and its tests are skipped. Each is made once and again only when
what it is made from has changed. Set ARTSEG_TORCH=cuda to install PyTorch's CUDA build, ARTSEG_CELLPROFILER4 to test
with a CellProfiler 4 of your own. Standard library only, Python 3.9 or later; the environments need Python 3.11.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = Path(__file__).resolve().parent / "constraints"
ENVIRONMENTS = ROOT / ".environments"
#: the model to try first, which packaging/shipped_model.py makes
MODEL = ROOT / "dist" / "models" / "artseg-simulated-unet-0.5.10.zip"
WINDOWS = os.name == "nt"

# 3.11 first: CellProfiler 5 needs it, so that one Python serves both environments
ARTSEG_PYTHONS = ((3, 11), (3, 12), (3, 13))
CELLPROFILER_PYTHONS = ((3, 11),)
CELLPROFILER4_PYTHONS = ((3, 9),)

# what CellProfiler 4's own libraries are compiled with: programs, any of which will do, and Debian's package with them
CELLPROFILER4_NEEDS = (
    (("cc", "gcc", "clang"), "gcc"),
    (("javac",), "default-jdk-headless"),
    (("mysql_config", "mariadb_config"), "default-libmysqlclient-dev"),
    (("pkg-config",), "pkg-config"),
)

# environments are made at the same time, and apt refuses to work for two
APT = threading.Lock()

# they would lead pip or a child Python out of the environment that is being made or used
FOREIGN_VARIABLES = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PIP_PREFIX",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_TARGET",
    "PIP_USER",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "__PYVENV_LAUNCHER__",
)


class SetupError(Exception):
    """Something is missing that this script cannot supply; the message says what to do."""


class Step(NamedTuple):
    """One installation step: what is shown, and the arguments of `python -m`."""

    says: str
    arguments: Sequence[str]


class Environment(NamedTuple):
    """One environment: where it is, what it is made from, and how."""

    folder: Path
    pythons: Sequence[tuple[int, int]]
    made_from: str
    steps: Sequence[Step]

    def program(self, name: str) -> Path:
        """Path of a program that the environment holds."""
        return self.folder / "Scripts" / f"{name}.exe" if WINDOWS else self.folder / "bin" / name


def clean_variables() -> dict[str, str]:
    """Give the environment variables for a child that must see only its own Python."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    kept["PYTHONNOUSERSITE"] = "1"
    return kept


def fingerprint(*parts: str) -> str:
    """Hash what an environment is made from."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def artseg_environment() -> Environment:
    """Describe the environment of artseg, with what its tests need."""
    build = os.environ.get("ARTSEG_TORCH", "cpu")
    constraints = CONSTRAINTS / f"{build}.txt"
    if not constraints.is_file():
        raise SetupError(f"Expected ARTSEG_TORCH to be cpu or cuda, but it is '{build}'.")
    install = ("pip", "install", "--quiet", "--no-input", "--constraint", str(constraints))
    # linter and test settings do not change what is installed
    requirements = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\n[tool.")[0]
    return Environment(
        folder=ENVIRONMENTS / "artseg",
        pythons=ARTSEG_PYTHONS,
        made_from=fingerprint(
            str(ROOT),  # an environment does not survive a move
            requirements,
            constraints.read_text(encoding="utf-8"),
            (CONSTRAINTS / "tested.txt").read_text(encoding="utf-8"),
        ),
        steps=(
            # first and alone: whatever asks for torch later must find the chosen build in place
            Step(f"PyTorch ({build})", (*install, "torch", "setuptools")),
            Step(
                "artseg and the libraries it builds on",
                (*install, "--no-build-isolation", "--editable", f"{ROOT}[test]"),
            ),
        ),
    )


def cellprofiler_environment() -> Environment:
    """Describe the environment of CellProfiler 5, headless."""
    lock = CONSTRAINTS / "cellprofiler5-py311.txt"
    return Environment(
        folder=ENVIRONMENTS / "cellprofiler",
        pythons=CELLPROFILER_PYTHONS,
        made_from=fingerprint(str(ROOT), lock.read_text(encoding="utf-8")),
        steps=(
            Step(
                "CellProfiler 5",
                # without dependencies: the list is complete but for the window's and MySQL's libraries
                ("pip", "install", "--quiet", "--no-input", "--no-deps", "--only-binary", ":all:", "-r", str(lock)),
            ),
        ),
    )


def cellprofiler4_environment() -> Environment:
    """Describe the environment of CellProfiler 4.2, headless."""
    lock = CONSTRAINTS / "cellprofiler4-py39.txt"
    tools = CONSTRAINTS / "cellprofiler4-build.txt"
    install = ("pip", "install", "--quiet", "--no-input")
    return Environment(
        folder=ENVIRONMENTS / "cellprofiler4",
        pythons=CELLPROFILER4_PYTHONS,
        made_from=fingerprint(str(ROOT), lock.read_text(encoding="utf-8"), tools.read_text(encoding="utf-8")),
        steps=(
            Step("what CellProfiler 4 is compiled with", (*install, "-r", str(tools))),
            Step(
                "CellProfiler 4.2, which is compiled",
                # not isolated: an isolated build would fetch today's numpy, which javabridge does not compile with
                (*install, "--no-deps", "--no-build-isolation", "-r", str(lock)),
            ),
        ),
    )


def version_of(command: Sequence[str]) -> tuple[int, int] | None:
    """Ask a Python for its version; None where it does not start."""
    try:
        answer = subprocess.run(
            [*command, "-I", "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            env=clean_variables(),
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )
        major, minor = map(int, answer.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return major, minor


def possible_pythons(version: tuple[int, int]) -> list[list[str]]:
    """List the commands under which a Python of that version may be found, the most likely first."""
    name = "{}.{}".format(*version)
    commands = [[sys.executable]]
    on_path = shutil.which(f"python{name}")
    if on_path:
        commands.append([on_path])
    if WINDOWS and shutil.which("py"):
        commands.append(["py", f"-{name}"])
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    commands += [[str(python)] for python in sorted(pyenv.glob(f"versions/{name}.*/bin/python"), reverse=True)]
    return commands


def apt_install(packages: Sequence[str]) -> bool:
    """Install Debian packages where this may be done: as root, with apt."""
    if WINDOWS or os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    variables = {**clean_variables(), "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    with APT:
        for command in (install, ["apt-get", "update"], install):
            # the package lists of a new machine are often missing or old: once more after an update
            done = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if command is install and done.returncode == 0:
                say(f"installed {' '.join(packages)} with apt-get")
                return True
    return False


def find_python(versions: Sequence[tuple[int, int]]) -> list[str]:
    """Find a Python of one of the versions, or install it where that is possible.

    Raises
    ------
    SetupError
        There is none; the message names the command that installs it.
    """
    newest_wanted = "{}.{}".format(*versions[0])
    for may_install in (True, False):
        for version in versions:
            for command in possible_pythons(version):
                if version_of(command) == version:
                    return command
        if not (may_install and apt_install([f"python{newest_wanted}", f"python{newest_wanted}-venv"])):
            break
    if WINDOWS:
        remedy = f"winget install Python.Python.{newest_wanted}"
    elif sys.platform == "darwin":
        remedy = f"brew install python@{newest_wanted}"
    elif shutil.which("pyenv"):
        remedy = f"pyenv install {newest_wanted}"
    else:
        remedy = f"sudo apt-get install python{newest_wanted} python{newest_wanted}-venv"
    wanted = " or ".join("{}.{}".format(*version) for version in versions)
    raise SetupError(f"Expected Python {wanted}, but found none. Run this once, then this script again:\n    {remedy}")


def lacks_for_cellprofiler4() -> str | None:
    """Say what is missing for CellProfiler 4, after trying to install it; None if nothing is."""
    if WINDOWS:
        return "CellProfiler 4 is not compiled on Windows: set ARTSEG_CELLPROFILER4 to the installed CellProfiler.exe"
    version = CELLPROFILER4_PYTHONS[0]
    if not any(version_of(command) == version for command in possible_pythons(version)):
        return "CellProfiler 4 needs Python {0}.{1}: pyenv install {0}.{1}".format(*version)
    missing = [package for programs, package in CELLPROFILER4_NEEDS if not any(map(shutil.which, programs))]
    if missing and not apt_install(missing):
        return f"CellProfiler 4 is compiled, with programs that are missing: sudo apt-get install {' '.join(missing)}"
    return None


def make_cellprofiler4() -> dict[str, str]:
    """Make CellProfiler 4's environment if that is possible; give the variables that tell the tests about it."""
    if os.environ.get("ARTSEG_CELLPROFILER4"):
        return {}
    environment = cellprofiler4_environment()
    try:
        lacks = lacks_for_cellprofiler4()
        if lacks is None:
            make(environment)
            return {"ARTSEG_CELLPROFILER4": str(environment.program("cellprofiler"))}
    except SetupError as problem:
        lacks = str(problem)
    say(f"Tests with CellProfiler 4 will be skipped. {lacks}")
    return {"ARTSEG_NO_CELLPROFILER4": lacks}


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def timed(text: str, work: Callable[[], None]) -> None:
    """Do one step; say what it is, and how long it took."""
    say(f"{text} ...")
    started = time.monotonic()
    work()
    say(f"{text}: {time.monotonic() - started:.0f} s")


def run_logged(command: Sequence[str], log: Path) -> None:
    """Run an installation step into a log file; show its end if it fails."""
    with open(log, "ab") as opened:
        done = subprocess.run(
            command,
            env=clean_variables(),
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=subprocess.STDOUT,
            cwd=str(ROOT),
            check=False,
        )
    if done.returncode != 0:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise SetupError(f"{end}\nThis step failed:\n    {' '.join(command)}\nThe whole log is {log}.")


def make_venv(environment: Environment, log: Path) -> None:
    """Make the empty environment, with the package that Debian keeps apart if it is missing."""
    python = find_python(environment.pythons)
    if subprocess.run([*python, "-I", "-c", "import ensurepip"], capture_output=True, check=False).returncode != 0:
        package = "python{}.{}-venv".format(*(version_of(python) or environment.pythons[0]))
        if not apt_install([package]):
            raise SetupError(
                f"{python[0]} cannot make environments: its module ensurepip is missing. Run this once, then this "
                f"script again:\n    sudo apt-get install {package}"
            )
    run_logged([*python, "-m", "venv", "--clear", str(environment.folder)], log)


def is_complete(stamp: Path, environment: Environment) -> bool:
    """Tell whether the stamp says that the environment was finished, from what it is made from now."""
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))["made_from"] == environment.made_from
    except (OSError, ValueError, KeyError):
        return False


def make(environment: Environment) -> None:
    """Make an environment unless it stands complete as it should be.

    The stamp is written last: an environment without it, or with another one, is made anew.
    """
    stamp = environment.folder / "artseg-stamp.json"
    name = environment.folder.name
    python = str(environment.program("python"))
    if is_complete(stamp, environment) and version_of([python]) is not None:
        return
    log = environment.folder.parent / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    if environment.folder.exists():
        shutil.rmtree(environment.folder)
    timed(f"Set-up of {name}: an empty environment", lambda: make_venv(environment, log))
    for step in environment.steps:
        timed(f"Set-up of {name}: {step.says}", lambda step=step: run_logged([python, "-m", *step.arguments], log))
    version = "{}.{}".format(*(version_of([python]) or environment.pythons[0]))
    stamp.write_text(json.dumps({"made_from": environment.made_from, "python": version}) + "\n", encoding="utf-8")


def run_inside(
    artseg: Environment, cellprofiler: Environment, command: Sequence[str], *, more: Mapping[str, str]
) -> int:
    """Run a command in artseg's environment, which is told where CellProfiler is and gets `more` variables."""
    variables = {**clean_variables(), **more}
    variables["ARTSEG_CELLPROFILER"] = str(cellprofiler.program("cellprofiler"))
    variables["PATH"] = os.pathsep.join([str(artseg.program("python").parent), variables.get("PATH", "")])
    return subprocess.run(command, env=variables, cwd=str(ROOT), check=False).returncode


def demo_arguments(rest: Sequence[str], *, model: Path = MODEL) -> list[str]:
    """Add the model to try first where it was made, so that nothing need be trained; --train trains all the same.

    A demonstration in its own folder that was begun goes on as it was begun.
    """
    asked = [argument for argument in rest if argument != "--train"]
    chosen = len(asked) < len(rest) or any(
        argument.split("=")[0] in ("-m", "--model", "-h", "--help") for argument in rest
    )
    begun = ROOT / "demo" / "demo.json"
    trains = begun.is_file() and "model_sha256" not in begun.read_text(encoding="utf-8")
    if chosen or trains or not model.is_file():
        return asked
    say(f"With the model to try first, {model.name}; to train one instead, add --train.")
    return [*asked, "--model", str(model)]


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks for; give the exit code."""
    if sys.version_info < (3, 9):  # noqa: UP036 - whatever Python a system has may start this file
        raise SetupError("Expected Python 3.9 or later to start this script; start it with a newer Python.")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("setup", "demo", "test", "check", "run"))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="arguments for artseg demo or pytest, or a program")
    asked = parser.parse_args(arguments)

    artseg, cellprofiler = artseg_environment(), cellprofiler_environment()
    started = time.monotonic()
    # at the same time: each waits for the network and the compiler more than it works
    with ThreadPoolExecutor() as pool:
        fourth = pool.submit(make_cellprofiler4) if asked.task == "test" else None
        for making in [pool.submit(make, environment) for environment in (artseg, cellprofiler)]:
            making.result()
        more = fourth.result() if fourth else {}
    if asked.task != "run":
        say(f"The environments are ready ({time.monotonic() - started:.0f} s).")

    python = str(artseg.program("python"))
    ruff = [python, "-m", "ruff"]
    commands: dict[str, list[list[str]]] = {
        "setup": [],
        "demo": [[str(artseg.program("artseg")), "demo", *demo_arguments(asked.rest)]] if asked.task == "demo" else [],
        "test": [[python, "-m", "pytest", *asked.rest]],
        "run": [[str(artseg.program(asked.rest[0])), *asked.rest[1:]]] if asked.rest else [],
        "check": [[*ruff, "check"], [*ruff, "format", "--check"], [python, "-m", "pyright", "--pythonpath", python]],
    }
    codes = [run_inside(artseg, cellprofiler, command, more=more) for command in commands[asked.task]]
    return max(codes, key=abs, default=0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
