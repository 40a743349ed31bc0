"""Open packages with other people's readers, each in an environment of its own, and tabulate the differences.

    python packaging/develop.py run python tests/model_zoo/consumers/run.py PACKAGES [--write FILE]

PACKAGES is the folder of an `artseg export`. Environments are made once, in .environments/consumers, from the package
registries; what cannot be made is listed with its reason. Without PACKAGES a small model is trained on simulated
images. Below the table stands what bf16 and int8 would change, by `artseg package precisions`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from artseg_models import __version__
from artseg_models.packages.consumers import (
    BIAPY,
    CORE_010,
    CORE_011,
    CORE_09,
    JDLL,
    ONNX_RUNTIME,
    TORCH,
    would_open,
)
from artseg_models.packages.precisions import measure_precisions
from artseg_models.packages.read import read_package

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parents[2] / ".environments" / "consumers"
NODE_PACKAGES = ("onnxruntime-node@1.30.0", "onnxruntime-web@1.30.0", "js-yaml@5")
# newer ones break every bioimageio.spec but the last
_PYDANTIC = "pydantic<2.12"


@dataclass(frozen=True)
class Consumer:
    """One program that reads packages.

    Attributes
    ----------
    name : str
        Of its environment.
    shown : str
        In the table, where it is not run.
    script : str
        Beside this file.
    requirements : tuple of str
        What pip installs; for Node, npm.
    pythons : tuple of str
        Versions to make the environment of, the best first.
    rule : str
        The program of `artseg package check` whose rules should foretell what happens.
    gigabytes : float
        About how much its environment takes on Linux.
    """

    name: str
    shown: str
    script: str
    requirements: tuple[str, ...] = ()
    pythons: tuple[str, ...] = ("3.11", "3.12", "3.10")
    rule: str = ""
    gigabytes: float = 0.5


def _core(version: str, rule: str, of: str) -> Consumer:
    requirements = (f"bioimageio.core=={version}", _PYDANTIC, "onnxruntime", "pyyaml")
    return Consumer(
        f"core-{version}", f"bioimageio.core {version} ({of})", "read_with_core.py", requirements, rule=rule
    )


CONSUMERS = (
    _core("0.11.0", CORE_011, "newest"),
    _core("0.10.4", CORE_010, "Model Zoo"),
    _core("0.10.2", CORE_010, "in ilastik's tiktorch 26.5"),
    _core("0.9.6", CORE_09, "in BiaPy 3.7.1"),
    Consumer(
        "biapy-3.7.1",
        "BiaPy 3.7.1",
        "read_with_biapy.py",
        ("biapy==3.7.1", _PYDANTIC, "pyyaml"),
        ("3.11", "3.12"),
        BIAPY,
        # PyTorch with CUDA, which is what PyPI has for Linux
        gigabytes=7,
    ),
    Consumer("node", "onnxruntime-node", "read_with_node.mjs", NODE_PACKAGES),
    Consumer("node", "onnxruntime-web in Chromium", "read_with_browser.py", NODE_PACKAGES),
    Consumer(
        "onnxruntime-1.13.1",
        "onnxruntime 1.13.1 (deepImageJ)",
        "read_with_onnxruntime.py",
        ("onnxruntime==1.13.1", "numpy<2", "pyyaml"),
        ("3.10", "3.9", "3.11", "3.8"),
        ONNX_RUNTIME,
    ),
    Consumer(
        "torch-2.0.1",
        "torch 2.0.1, TorchScript (deepImageJ)",
        "read_with_torchscript.py",
        ("torch==2.0.1", "numpy<2", "pyyaml"),
        ("3.10", "3.11", "3.9"),
        TORCH,
        gigabytes=4.5,
    ),
    Consumer("torch", "an old torch, TorchScript", "read_with_torchscript.py", rule=TORCH, gigabytes=0),
)
#: what this script cannot make
NOT_RUN = (
    (
        "tiktorch 26.5 (ilastik's server)",
        "it comes by conda alone, not by PyPI; the bioimageio.core that it runs models with, 0.10.2, is above, and its "
        "rules stand in `artseg package check`",
    ),
    (JDLL, "it needs Java and Maven; its rules stand in `artseg package check`"),
)


class UnavailableError(Exception):
    """A consumer could not be run; says why."""


def python_of(versions: tuple[str, ...]) -> str:
    """Find an interpreter, on PATH or of pyenv."""
    for version in versions:
        found = shutil.which(f"python{version}")
        if found and _starts(found):
            return found
        for program in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
            return str(program)
    raise UnavailableError(f"no Python {' or '.join(versions)} found")


def _starts(program: str) -> bool:
    # pyenv puts shims on PATH that only say that a version is not chosen
    return subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0


def command_of(consumer: Consumer, environments: Path, *, largest: float) -> list[str]:
    """Give the command that runs a consumer's script, making its environment of at most `largest` gigabytes.

    Raises
    ------
    UnavailableError
        The environment is not there, or cannot be made.
    """
    folder = environments / consumer.name
    script = str(HERE / consumer.script)
    if consumer.name == "torch":
        return [_old_torch(), script]
    if not (folder / "made").is_file():
        if largest == 0:
            raise UnavailableError(f"no environment at {folder}; `make consumers` makes it")
        if consumer.gigabytes > largest:
            raise UnavailableError(f"its environment takes about {consumer.gigabytes:g} GB, more than --largest")
        _make(consumer, folder)
    if consumer.name != "node":
        return [str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")), script]
    modules = str(folder / "node_modules")
    if consumer.script.endswith(".py"):
        return [sys.executable, script, modules]
    return [shutil.which("node") or "node", script, modules]


def _old_torch() -> str:
    """Find a Python with a torch before 2.1: of ARTSEG_OLD_TORCH, else the system's (Debian 12 has 1.13 on the CPU)."""
    for program in filter(None, (os.environ.get("ARTSEG_OLD_TORCH"), "/usr/bin/python3")):
        asked = [program, "-c", "import torch, yaml; print(torch.__version__)"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
        except OSError:
            continue
        version = done.stdout.strip()
        if done.returncode == 0 and tuple(map(int, version.split(".")[:2])) < (2, 1):
            return program
    raise UnavailableError(
        "no Python with a torch before 2.1; on Debian 12: apt-get install python3-torch, or ARTSEG_OLD_TORCH"
    )


def _make(consumer: Consumer, folder: Path) -> None:
    print(f"Making {folder}, about {consumer.gigabytes:g} GB ...", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    if consumer.name == "node":
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            raise UnavailableError("no Node; install node and npm")
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true}\n')
        # without its scripts, which would fetch a CUDA library
        _carry_out([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *consumer.requirements], folder)
    else:
        _carry_out([python_of(consumer.pythons), "-m", "venv", str(folder)])
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        _carry_out([str(python), "-m", "pip", "install", "--quiet", "--no-input", *consumer.requirements])
    (folder / "made").write_text(f"{' '.join(consumer.requirements)}\n")


def _carry_out(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [""]
        raise UnavailableError(f"its environment could not be made: {lines[-1][:200]}")


def run(consumer: Consumer, folders: list[Path], environments: Path, *, largest: float = 0) -> list[dict[str, object]]:
    """Run a consumer on unpacked packages; one mapping for each result. By default no environment is made.

    Raises
    ------
    UnavailableError
        It is not there, or fails before it reads a package.
    """
    command = [*command_of(consumer, environments, largest=largest), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not results:
        raise UnavailableError((done.stderr.strip().splitlines() or ["it says nothing"])[-1][:200])
    return results


def unpacked(packages: list[Path], into: Path) -> list[Path]:
    """Unpack packages side by side."""
    folders: list[Path] = []
    for package in packages:
        with zipfile.ZipFile(package) as opened:
            opened.extractall(into / package.stem)
        folders.append(into / package.stem)
    return folders


def tabulate(folders: list[Path], environments: Path, *, largest: float) -> list[list[str]]:
    """Run everything; rows of program, package, weights, what came of it, what the rules say."""
    foretold = {folder.name: {verdict.consumer: verdict.opens for verdict in would_open(folder)} for folder in folders}
    rows: list[list[str]] = []
    for consumer in CONSUMERS:
        try:
            results = run(consumer, folders, environments, largest=largest)
        except UnavailableError as reason:
            rows.append([consumer.shown, "", "", f"not run: {reason}", ""])
            continue
        for result in results:
            package = str(result["package"])
            opened = "refused" not in result
            said = f"{result['difference']:.1e}" if opened else "not opened"
            agrees = foretold[package].get(consumer.rule)
            rule = "" if agrees is None else ("opens" if agrees else "does not open")
            rows.append([str(result["program"]), package, str(result.get("weights", "")), said, rule])
    return rows + [[name, "", "", f"not run: {reason}", ""] for name, reason in NOT_RUN]


def precisions(packages: list[Path], cache: Path) -> list[list[str]]:
    """Measure what bf16 and int8 change in the maps; rows of package, precision, differences, share of mask pixels."""
    rows: list[list[str]] = []
    for package in packages:
        # the older format has the same weights, and a combined model gives no map to tell differences in
        if package.stem.endswith("-0.5.10") or read_package(package, cache=cache, any_kind=True).whole_images_only:
            continue
        for effect in measure_precisions(package, cache=cache):
            changed = f"{effect.changed_px} of {effect.artifact_px}"
            rows.append([package.stem, effect.precision, f"{effect.largest:.1e}", f"{effect.mean:.1e}", changed])
    return rows


def as_markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Write a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def trained(folder: Path) -> list[Path]:
    """Train a small model on simulated images, and give its packages."""
    artseg = [sys.executable, "-m", "artseg_models"]
    fields, training = folder / "fields", folder / "simulated"
    small = ["binning=2", "classifier.width=16", "classifier.schedule.epochs=14", "unet.schedule.epochs=10"]
    for command in (
        ["simulate", "training", str(fields), "--fields", "96", "--side", "384", "--seed", "5"],
        ["train", str(fields / "labels.csv"), "--out", str(training), *(f"--set={setting}" for setting in small)],
    ):
        subprocess.run([*artseg, *command], check=True)
    return sorted((training / "packages").glob("*.zip"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, nargs="?", help="folder of packages (*.zip)")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where the readers' environments lie")
    parser.add_argument("--largest", type=float, default=10, help="make no environment of more gigabytes than this")
    parser.add_argument("--write", type=Path, help="also write the tables there, in Markdown")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artseg-consumers-") as temporary:
        given = arguments.packages
        packages = trained(Path(temporary)) if given is None else sorted(given.glob("*.zip"))
        if not packages:
            parser.error(f"no packages (*.zip) in {given}")
        folders = unpacked(packages, Path(temporary) / "unpacked")
        programs = as_markdown(
            ["program", "package", "weights", "largest difference", "`artseg package check` says"],
            tabulate(folders, arguments.environments, largest=arguments.largest),
        )
        rounded = as_markdown(
            ["package", "precision", "largest difference", "mean difference", "mask pixels that change"],
            precisions(packages, Path(temporary) / "cache"),
        )
        trained_on = read_package(packages[0], cache=Path(temporary) / "cache", any_kind=True).trained_on
    text = (
        "# Readers of other people, and what they make of ArtSeg's packages\n\n"
        f"Written by `make consumers` with artseg {__version__}; do not edit. Each reader ran in an environment of\n"
        "its own on the packages' test images; the difference is the largest one to the test output, which PyTorch\n"
        "gave.\n\n"
        f"The models were trained on {trained_on}.\n\n"
        f"{programs}\n"
        "## Other precisions\n\n"
        "All of the above is fp32. What bf16 (PyTorch's autocast) and int8 (ONNX Runtime's static quantisation)\n"
        "change on the packages' sample images, against ONNX Runtime in fp32, by `artseg package precisions`:\n\n"
        f"{rounded}"
    )
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
