"""The text form of a CellProfiler pipeline (.cppipe), kept byte for byte where nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from artseg_models.errors import ArtSegError

_COOKIE = "CellProfiler Pipeline:"
_OLDEST_VERSION = 3  # of the file format: CellProfiler 2.1, the oldest whose modules CellProfiler 4 upgrades
_NEWEST_VERSION = 5
_SAVE_ANEW = "Open it in CellProfiler 4, look it through, save it (File > Export > Pipeline) and insert again"

# bytes that are not UTF-8 survive reading and writing
_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


@dataclass(frozen=True)
class Setting:
    """One line of a module.

    Attributes
    ----------
    line : str
        The line as it stands, with its line end.
    """

    line: str

    @property
    def text(self) -> str:
        """What the setting is called in CellProfiler's window."""
        return self.line.strip().partition(":")[0]

    @property
    def value(self) -> str:
        """The value as CellProfiler understands it, whichever version wrote the file."""
        value = self.line.strip().partition(":")[2]
        value = re.sub(r"\\x([0-9A-Fa-f]{2})", lambda found: chr(int(found.group(1), 16)), value)
        # CellProfiler 3 wrote UTF-16 with its byte order mark, each byte escaped
        return value.replace("\x00", "").strip("ÿþ")

    def with_value(self, value: str) -> Setting:
        """Give the same setting with another value, in the plain form that every version reads."""
        indent, colon, _ = self.line.partition(":")
        return Setting(f"{indent}{colon}{value}{_line_end(self.line)}")


@dataclass(frozen=True)
class Module:
    """One module of a pipeline.

    Attributes
    ----------
    header : str
        The line with the module's name and attributes, with its line end.
    settings : tuple of Setting
    gap : str
        The blank lines that follow.
    """

    header: str
    settings: tuple[Setting, ...]
    gap: str

    @property
    def name(self) -> str:
        """The module's kind, for instance 'MaskImage'."""
        return self.header.partition(":")[0].strip()

    @property
    def revision(self) -> int:
        """Revision of the module's settings; 0 where the file does not tell."""
        found = re.search(r"variable_revision_number:(\d+)", self.header)
        return int(found.group(1)) if found else 0

    @property
    def enabled(self) -> bool:
        """Whether the module runs."""
        return "|enabled:False" not in self.header

    def value(self, text: str, default: str = "") -> str:
        """Give the value of the first setting that is called `text`."""
        return next((setting.value for setting in self.settings if setting.text == text), default)

    def with_setting(self, index: int, value: str) -> Module:
        """Give the module with the value of one setting changed."""
        changed = list(self.settings)
        changed[index] = changed[index].with_value(value)
        return replace(self, settings=tuple(changed))

    def numbered(self, number: int) -> Module:
        """Give the module with its place in the pipeline, counted from 1, in its header."""
        return replace(self, header=re.sub(r"module_num:\d+", f"module_num:{number}", self.header, count=1))

    def __str__(self) -> str:
        return self.header + "".join(setting.line for setting in self.settings) + self.gap


@dataclass(frozen=True)
class PipelineText:
    """A pipeline, as text that can be changed in places.

    Attributes
    ----------
    head : str
        All that stands before the first module.
    modules : tuple of Module
    tail : str
        All that stands after the last one, for instance a list of images.
    """

    head: str
    modules: tuple[Module, ...]
    tail: str

    @property
    def line_end(self) -> str:
        """The line end that the file uses."""
        return "\r\n" if "\r\n" in self.head else "\n"

    def with_modules(self, modules: Sequence[Module]) -> PipelineText:
        """Give the pipeline with these modules, counted and numbered anew.

        Modules whose place stays keep every byte.
        """
        numbered = [module.numbered(place) for place, module in enumerate(modules, start=1)]
        for place, module in enumerate(numbered[:-1]):
            if not module.gap:  # it was the last one
                last = module.settings[-1].line if module.settings else module.header
                ended = last if last.endswith("\n") else last + self.line_end
                if module.settings:
                    module = replace(module, settings=(*module.settings[:-1], Setting(ended)))
                else:
                    module = replace(module, header=ended)
                numbered[place] = replace(module, gap=self.line_end)
        head = re.sub(r"(?m)^ModuleCount:\d+", f"ModuleCount:{len(numbered)}", self.head, count=1)
        return PipelineText(head, tuple(numbered), self.tail)

    def __str__(self) -> str:
        return self.head + "".join(map(str, self.modules)) + self.tail

    def to_bytes(self) -> bytes:
        """Give the file's content."""
        return str(self).encode(**_ENCODING)


def read_pipeline(path: Path) -> PipelineText:
    """Read a pipeline in CellProfiler's text form.

    Parameters
    ----------
    path : Path
        A .cppipe file.

    Returns
    -------
    PipelineText
        Its `to_bytes` gives the very bytes of the file.

    Raises
    ------
    ArtSegError
        There is no such file, or it is no pipeline, too old, or cut off.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtSegError(
            f"Expected a pipeline at {path}, but it cannot be read: {error.strerror or error}."
        ) from error
    return parse_pipeline(content.decode(**_ENCODING), source=path.name)


def parse_pipeline(text: str, *, source: str = "pipeline") -> PipelineText:
    """Take the text form of a pipeline apart; see `read_pipeline`."""
    if not text.startswith(_COOKIE):
        raise ArtSegError(
            f"Expected a CellProfiler pipeline (its first line begins '{_COOKIE}'), got {source}. "
            "Export it from CellProfiler: File > Export > Pipeline."
        )
    # only line feeds end lines; str.splitlines would also break at characters that notes may hold
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    at = 0
    while at < len(lines) and lines[at].strip():
        at += 1
    fields = dict(line.strip().partition(":")[::2] for line in lines[:at])
    version, count = (
        int(fields[name]) if fields.get(name, "").isdigit() else None for name in ("Version", "ModuleCount")
    )
    if version is None or count is None or version < _OLDEST_VERSION:
        raise ArtSegError(
            f"{source} was saved by a CellProfiler before 2.1, which today's do not read without loss. {_SAVE_ANEW}."
        )
    if version > _NEWEST_VERSION:
        raise ArtSegError(
            f"{source} is in version {version} of CellProfiler's pipeline format; this artseg reads versions "
            f"{_OLDEST_VERSION} to {_NEWEST_VERSION}. Update artseg."
        )
    at = _skip_blank(lines, at)
    head = "".join(lines[:at])
    modules: list[Module] = []
    while at < len(lines) and len(modules) < count:
        header = lines[at]
        if not re.match(r"\w+:\[", header.strip()):
            raise ArtSegError(
                f"Expected a module's name and attributes in line {at + 1} of {source}, got '{header.strip()[:60]}'. "
                "Export the pipeline anew from CellProfiler."
            )
        end = at + 1
        while end < len(lines) and lines[end].strip():
            end += 1
        after = _skip_blank(lines, end)
        settings = tuple(Setting(line) for line in lines[at + 1 : end])
        modules.append(Module(header, settings, "".join(lines[end:after])))
        at = after
    if len(modules) < count:
        raise ArtSegError(
            f"{source} is cut off: expected {count} modules, got {len(modules)}. Export it anew from CellProfiler."
        )
    return PipelineText(head, tuple(modules), "".join(lines[at:]))


def _skip_blank(lines: Sequence[str], at: int) -> int:
    while at < len(lines) and not lines[at].strip():
        at += 1
    return at


def _line_end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else ""
