"""Every command of artseg that the documentation gives exists, with the options that are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from artseg_models.cli import app


def commands_in(text: str) -> list[list[str]]:
    """Words after `artseg` of each command in code, lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", text)
    blocks = re.findall(r"```.*?\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line.strip() for block in blocks for line in block.splitlines()] + inline
    found = [re.search(r"(?:^|[/\\=])artseg +([a-z].*)$", re.sub(r" +#.*$", "", line)) for line in lines]
    return [match.group(1).split() for match in found if match]


def wrong_in(words: list[str]) -> str | None:
    """Say what of a command does not exist."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while (known := getattr(command, "commands", None)) and rest and not rest[0].startswith("-"):
        choices = rest[0].split("|")
        unknown = [choice for choice in choices if choice not in known]
        if unknown:
            return f"there is no command '{unknown[0]}'"
        command = known[choices[0]]
        del rest[0]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    named = [word.split("=")[0].rstrip(",.;") for word in rest if re.match(r"--?[a-z]", word)]
    lacking = [name for name in named if name not in options | {"--help", "-h"}]
    return f"it has no option {lacking[0]}" if lacking else None


@pytest.mark.parametrize("page", ["README.md", "docs", "CONTRIBUTING.md"])
def test_commands_and_options_exist(repository: Path, page: str) -> None:
    pages = sorted((repository / page).glob("*.md")) if page == "docs" else [repository / page]
    commands = [(path.name, words) for path in pages for words in commands_in(path.read_text(encoding="utf-8"))]
    if page != "CONTRIBUTING.md":
        assert len(commands) > 10
    wrong = {f"{name}: artseg {' '.join(words)}": told for name, words in commands if (told := wrong_in(words))}
    assert wrong == {}


def test_what_does_not_exist_is_noticed() -> None:
    assert commands_in("Run `artseg serve --nothing 3`.") == [["serve", "--nothing", "3"]]
    assert wrong_in(["serve", "--nothing", "3"]) == "it has no option --nothing"
    assert wrong_in(["cellprofiler", "nothing"]) == "there is no command 'nothing'"
    assert wrong_in(["cellprofiler", "install", "--check"]) is None
