"""Test ScoreCAM and PaDiM against grad-cam, torchcam, timm and anomalib, in an environment of their own.

    make peers

The same environment holds cellpose: `artseg benchmark` there measures all of them beside artseg.

Their packages are installed without what they depend on, beside artseg's environment, whose PyTorch they use: with it
each of them would fetch another. Nothing in artseg's own environment changes.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".environments" / "peers"
PINS = ROOT / "packaging" / "constraints" / "peers.txt"


def main() -> int:
    """Make the environment where it is missing, and run the tests there."""
    python = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = ENVIRONMENT / "installed.txt"
    if not done.exists() or done.read_text(encoding="utf-8") != PINS.read_text(encoding="utf-8"):
        print(f"Setting up {ENVIRONMENT.relative_to(ROOT)}")
        venv.create(ENVIRONMENT, with_pip=False, clear=True)
        told = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        )
        # artseg's environment and the checkout come after the peers' own packages
        lines = f"{sysconfig.get_path('purelib')}\n{ROOT}\n"
        (Path(told.stdout.strip()) / "artseg.pth").write_text(lines, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--requirement", str(PINS)], check=True)
        done.write_text(PINS.read_text(encoding="utf-8"), encoding="utf-8")
    tests = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-rs", "tests/methods/test_peers.py", *sys.argv[1:]]
    return subprocess.run(tests, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
