"""Pipelines as text: not a byte is lost, and old forms are understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from artseg_models.errors import ArtSegError
from artseg_models.pipelines.text import PipelineText, parse_pipeline, read_pipeline

HEAD = "CellProfiler Pipeline: http://www.cellprofiler.org\nVersion:5\nDateRevision:4281\nGitHash:\nModuleCount:{}\n"


def module(name: str, number: int, *settings: str) -> str:
    header = f"{name}:[module_num:{number}|svn_version:'Unknown'|variable_revision_number:3|enabled:True]\n"
    return "\n" + header + "".join(f"    {setting}\n" for setting in settings)


@pytest.fixture
def text() -> str:
    made = (module("Images", 1, ":", "Filter images?:No"), module("MaskImage", 2, "Name the output image:A:b"))
    return HEAD.format(2) + "HasImagePlaneDetails:False\n" + "".join(made)


def test_every_pipeline_comes_back_byte_for_byte(repository: Path) -> None:
    for path in (repository / "plugins" / "pipelines").glob("*.cppipe"):
        assert read_pipeline(path).to_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        lambda text: text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.rstrip("\n").encode(),
        lambda text: text.replace("Filter", "Grün\u2028\x0b").encode(),
        lambda text: text.replace("Filter", "Grün").encode("latin-1"),
        lambda text: (text + '\n"Version":"1","PlaneCount":"1"\n"URL","Series"\n"file:/a.tif",,,\n').encode(),
    ],
    ids=["plain", "Windows", "no end", "odd characters", "not UTF-8", "image list"],
)
def test_odd_files_come_back_too(text: str, content: object, tmp_path: Path) -> None:
    path = tmp_path / "odd.cppipe"
    path.write_bytes(content(text))
    read = read_pipeline(path)
    assert read.to_bytes() == path.read_bytes()
    assert [module.name for module in read.modules] == ["Images", "MaskImage"]
    assert read.modules[1].settings[0].value == "A:b"


def test_a_module_is_added_anywhere_and_the_others_stay(text: str) -> None:
    for without_end in (text, text.rstrip("\n")):
        read = parse_pipeline(without_end)
        added = parse_pipeline(HEAD.format(1) + module("Smooth", 1, "Name the output image:S")).modules[0]
        for place in range(3):
            modules = [*read.modules[:place], added, *read.modules[place:]]
            again = parse_pipeline(str(read.with_modules(modules)))
            expected = ["Images", "MaskImage"]
            expected.insert(place, "Smooth")
            assert [module.name for module in again.modules] == expected
            assert [f"module_num:{i}|" in module.header for i, module in enumerate(again.modules, start=1)] == [
                True
            ] * 3
            assert "ModuleCount:3\n" in again.head
            kept = [module for module in again.modules if module.name != "Smooth"]
            assert [module.settings for module in kept[:1]] == [module.settings for module in read.modules[:1]]
            assert kept[1].settings[0].value == "A:b"


def test_values_of_older_versions_are_understood_and_replaced(text: str) -> None:
    encoded = "".join(f"{character}\\x00" for character in "DNA")
    old = parse_pipeline(text.replace("Version:5", "Version:4").replace(":A:b", f":\\xff\\xfe{encoded}"))
    setting = old.modules[1].settings[0]
    assert setting.value == "DNA"
    assert setting.with_value("DNA_unmasked").line == "    Name the output image:DNA_unmasked\n"
    assert parse_pipeline(text.replace("A:b", "x\\x7Cy")).modules[1].settings[0].value == "x|y"


def test_disabled_modules_and_revisions_are_seen(text: str) -> None:
    read = parse_pipeline(text.replace("enabled:True", "enabled:False", 1))
    assert [module.enabled for module in read.modules] == [False, True]
    assert read.modules[0].revision == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "Expected a CellProfiler pipeline"),
        (HEAD.format(1).replace("Version:5", "Version:2"), "before 2.1"),
        (HEAD.format(1).replace("Version:5", "Version:6"), "version 6"),
        (HEAD.format(2) + module("Images", 1), "cut off: expected 2 modules, got 1"),
        (HEAD.format(1) + "\nImages\n", "line 7 of"),
    ],
)
def test_what_is_no_pipeline_is_told(content: str, message: str) -> None:
    with pytest.raises(ArtSegError, match=message):
        parse_pipeline(content)


def test_projects_are_refused_with_the_way_out(tmp_path: Path) -> None:
    project = tmp_path / "plate.cpproj"
    project.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ArtSegError, match="File > Export > Pipeline"):
        read_pipeline(project)
    with pytest.raises(ArtSegError, match="cannot be read"):
        read_pipeline(tmp_path / "missing.cppipe")


def test_an_unchanged_pipeline_is_unchanged(text: str) -> None:
    read = parse_pipeline(text)
    assert isinstance(read, PipelineText)
    assert str(read.with_modules(read.modules)) == text
