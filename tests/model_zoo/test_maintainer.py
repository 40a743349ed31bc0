"""Who answers questions about a model is asked once, remembered, and checked with GitHub where there is a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from artseg_models.errors import ArtSegError
from artseg_models.packages.maintainer import known_maintainer, maintainer_file, remember_maintainer


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTSEG_CONFIG_DIR", str(tmp_path / "settings"))


def answer(monkeypatch: pytest.MonkeyPatch, status: int | None) -> None:
    """Let GitHub answer so; None: there is no network."""

    def get(*given: object, **options: object) -> httpx.Response:
        if status is None:
            raise httpx.ConnectError("no network")
        return httpx.Response(status)

    monkeypatch.setattr(httpx, "get", get)


def test_the_environment_goes_before_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_maintainer() is None
    answer(monkeypatch, None)
    remember_maintainer("ada")
    assert known_maintainer() == "ada"
    monkeypatch.setenv("ARTSEG_MAINTAINER", "grace")
    assert known_maintainer() == "grace"


def test_nobody_is_an_answer_too() -> None:
    remember_maintainer("")
    assert known_maintainer() == ""


def test_what_github_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 404)
    with pytest.raises(ArtSegError, match="got 'nobody-of-that-name', whom GitHub does not know"):
        remember_maintainer("nobody-of-that-name")
    answer(monkeypatch, 200)
    with pytest.raises(ArtSegError, match="letters, digits and single hyphens"):
        remember_maintainer("Ada Lovelace")
    assert not maintainer_file().exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminal")
def test_a_terminal_is_asked_once(tmp_path: Path) -> None:
    """Two exports of a folder that is no run, so that nothing is written."""
    import pty

    twice = (
        "import sys; from artseg_models.cli import app; from artseg_models.errors import ArtSegError\n"
        "for _ in range(2):\n"
        "    try: app(['export', sys.argv[1]], standalone_mode=False)\n"
        "    except ArtSegError: print('ended', file=sys.stderr)\n"
    )
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"no user\nbioimageiobot\n")
        done = subprocess.run(
            [sys.executable, "-c", twice, str(tmp_path)], stdin=theirs, capture_output=True, text=True, check=True
        )
    finally:
        os.close(theirs)
        os.close(ours)
    first, second, _ = done.stderr.split("ended")
    assert "The Model Zoo wants a GitHub user who answers questions" in first
    assert "got 'no user'" in first
    assert "Maintainer of models from this computer: bioimageiobot" in first
    assert second.strip() == ""
    assert known_maintainer() == "bioimageiobot"
