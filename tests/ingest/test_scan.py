"""What a look at a watch folder sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vad_lib.ingest import FileVersion, Scan, scan_folder


def _rules(scan: Scan) -> dict[str, str]:
    return {seen.version.path: seen.rule for seen in scan.files}


@pytest.mark.spec("V2.09", "V2.10")
def test_images_at_any_depth_and_in_any_letter_case_are_seen_and_other_files_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "deep/er/b.JPG", "deep/c.jpeg", "notes.txt", "deep/d.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert _rules(scan_folder(tmp_path)) == {
        "a.png": "",
        "deep/er/b.JPG": "",
        "deep/c.jpeg": "",
        "notes.txt": "not_an_image",
        "deep/d.gif": "not_an_image",
    }


@pytest.mark.parametrize(
    "name", [".hidden.png", "a.png.part", "a.png.tmp", "a.png~", "~$a.png", "a.PNG.PART", "Thumbs.db"]
)
@pytest.mark.spec("I1.03")
def test_files_with_temporary_names_are_left_alone_and_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    scan = scan_folder(tmp_path)
    assert scan.files == ()
    assert scan.temporary == 1


@pytest.mark.spec("I1.04")
def test_a_link_that_leaves_the_folder_is_refused_and_a_link_inside_is_a_file(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (inbox / "a.png").write_bytes(b"picture")
    (inbox / "out.png").symlink_to(tmp_path / "secret.png")
    (inbox / "in.png").symlink_to(inbox / "a.png")
    (inbox / "nowhere.png").symlink_to(inbox / "missing.png")
    (inbox / "circle.png").symlink_to(inbox / "circle.png")
    scan = scan_folder(inbox)
    assert _rules(scan) == {
        "a.png": "",
        "in.png": "",
        "out.png": "leaves_folder",
        "nowhere.png": "broken_link",
        "circle.png": "broken_link",
    }
    assert {seen.version.size for seen in scan.files if not seen.rule} == {len(b"picture")}


def test_linked_folders_are_not_entered_so_a_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"x")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert _rules(scan_folder(tmp_path)) == {"sub/a.png": "", "sub/loop": "linked_folder"}


def test_a_pipe_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert _rules(scan_folder(tmp_path)) == {"a.png": "not_a_file"}


def test_a_name_that_is_no_utf8_is_refused_with_a_name_that_can_be_stored(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    (seen,) = scan_folder(tmp_path).files
    assert (seen.version.path, seen.rule) == ("caf\\xe9.png", "unreadable_name")


@pytest.mark.parametrize(
    "name", ['o\'brien "x".png', "größe 图.png", "a;b|c&d.png", "-rf.png", " .png", "new\nline.png"]
)
def test_awkward_names_are_ordinary_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert _rules(scan_folder(tmp_path)) == {name: ""}


@pytest.mark.spec("I1.02")
def test_a_folder_that_is_not_there_is_an_error_and_not_an_empty_folder(tmp_path: Path) -> None:
    scan = scan_folder(tmp_path / "unmounted")
    assert "No such file" in scan.error
    assert scan_folder(tmp_path).error == ""


def test_folders_to_skip_are_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "a.png").write_bytes(b"x")
    assert scan_folder(tmp_path, skip_folders=[tmp_path / "quarantine"]).files == ()


@pytest.mark.parametrize("name", ["bracket.part", "a.tmp", "old~", "~$open", "Thumbs.db", "x.crdownload"])
def test_folders_may_be_called_like_temporary_files_and_hidden_ones_are_left_alone(tmp_path: Path, name: str) -> None:
    for folder in (name, ".hidden"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(b"x")
    scan = scan_folder(tmp_path)
    assert _rules(scan) == {f"{name}/1.png": ""}
    assert scan.temporary == 0


def test_result_files_beside_images_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / "a.png.vad.json").write_text("{}")
    assert scan_folder(tmp_path).files == ()


def test_a_folder_inside_that_cannot_be_read_is_named_and_the_others_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").write_bytes(b"x")
    look = os.scandir

    def refuse(place: str) -> object:
        if place.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return look(place)

    monkeypatch.setattr(os, "scandir", refuse)
    scan = scan_folder(tmp_path)
    assert _rules(scan) == {"a.png": ""}
    assert scan.unreadable_folders == ("locked/: Permission denied",)


@pytest.mark.spec("I1.05")
def test_another_file_in_the_place_of_one_is_another_version_though_name_size_and_time_are_the_same(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    os.utime(file, (1, 1))
    first = FileVersion.of("a.png", file.stat())
    (tmp_path / "b.png").write_bytes(b"two")
    os.utime(tmp_path / "b.png", (1, 1))
    (tmp_path / "b.png").rename(file)
    second = FileVersion.of("a.png", file.stat())
    assert first != second
    assert first[:3] == second[:3]


def test_what_no_integer_of_a_database_holds_is_brought_into_its_range() -> None:
    class Far:
        st_ino, st_size, st_mtime_ns, st_ctime_ns = 2**64 - 2, 5, 2**70, -(2**70)

    version = FileVersion.of("a.png", Far())  # type: ignore[arg-type]
    assert version == FileVersion("a.png", 5, 2**63 - 1, -2, -(2**63))


def test_files_with_ignored_endings_are_not_seen_whatever_their_letter_case(tmp_path: Path) -> None:
    for name in ("a.png", "a.xml", "sub/b.JSON", "c.txt", "folder.xml/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    seen = scan_folder(tmp_path, ignored_suffixes=(".xml", ".json"))
    assert {(file.version.path, file.rule) for file in seen.files} == {
        ("a.png", ""),
        ("c.txt", "not_an_image"),
        ("folder.xml/d.png", ""),
    }
