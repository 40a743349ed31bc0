"""Puts plugins/ and bioimageio/ into the wheel, as artseg_models/_bundle; setuptools calls it (pyproject.toml)."""

from __future__ import annotations

from pathlib import Path

from setuptools.command.build_py import build_py

FOLDERS = ("plugins", "bioimageio")


def bundled_files() -> list[Path]:
    """Every file of the bundled folders, relative to the checkout's root (the build's working folder)."""
    return [
        path
        for folder in FOLDERS
        for path in sorted(Path(folder).rglob("*"))
        # installation.json is written at installation and names one machine's Python
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.name.startswith(".")
        and path.name != "installation.json"
    ]


class BuildWithBundle(build_py):
    """Build the package, and the bundled folders inside it."""

    def run(self) -> None:
        """Copy the modules, then the bundle; an editable install reads the bundle where it stands."""
        super().run()
        if not self.editable_mode:
            for source in bundled_files():
                target = self._bundled(source)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target), preserve_mode=False)

    def _bundled(self, source: Path) -> Path:
        return Path(self.build_lib, "artseg_models", "_bundle", source)

    def get_source_files(self) -> list[str]:
        """Name what a source distribution must hold so that a wheel can be built from it."""
        here = Path("packaging", "build_bundle.py")
        return [*super().get_source_files(), str(here), *map(str, bundled_files())]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name every file that the build writes."""
        written = super().get_outputs(include_bytecode)
        return written if self.editable_mode else [*written, *(str(self._bundled(path)) for path in bundled_files())]
