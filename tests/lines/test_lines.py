"""The folder of a line, and where the relative paths of its plan start."""

from __future__ import annotations

from pathlib import Path

import pytest

from vad_lib.errors import InputError
from vad_lib.lines import Home


def test_relative_paths_start_where_the_plan_was_copied_from(tmp_path: Path) -> None:
    line = Home(tmp_path / "home").line("bottle")
    line.folder.mkdir(parents=True)
    assert line.base_folder == line.folder
    line.remember_base_folder(tmp_path / "ünï: #1")
    assert line.base_folder == tmp_path / "ünï: #1"
    assert [file.name for file in line.folder.iterdir()] == ["line.yaml"]


@pytest.mark.parametrize("content", [b"base_folder: [1, 2]", b"- a list", b"{", b"\xff\xfe\x00"])
def test_a_damaged_line_file_is_named_with_what_it_should_hold(tmp_path: Path, content: bytes) -> None:
    line = Home(tmp_path).line("bottle")
    line.folder.mkdir(parents=True)
    (line.folder / "line.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"(?s)line\.yaml cannot be read .*base_folder: "):
        _ = line.base_folder


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "ä", "a" * 64, "a b", "a\n"])
def test_a_name_that_could_leave_the_folder_or_break_a_tool_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a line"):
        Home(tmp_path).line(name)


def test_only_folders_with_a_plan_and_a_proper_name_are_lines(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden", "no plan"):
        folder = tmp_path / "lines" / name
        folder.mkdir(parents=True)
        (folder / "experimental_plan.yaml").touch()
    (tmp_path / "lines" / "empty").mkdir()
    assert [line.name for line in Home(tmp_path).lines()] == ["a", "b"]
    assert Home(tmp_path / "nowhere").lines() == []
