"""What the system writes is for its own user, unless a setting says otherwise; folders of others keep their rights."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vad_lib.atomic_files import write_whole

REPOSITORY = Path(__file__).resolve().parents[2]
OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def _run(code: str, home: Path, **more: str) -> str:
    """Run Python as somebody whose own umask lets everybody read."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "VAD_HOME": str(home), **more}
    environment.pop("VAD_INSPECTION_DB", None)
    ended = subprocess.run(
        [sys.executable, "-c", f"import os; os.umask(0o022)\n{code}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


ADD_A_LINE = """
from pathlib import Path
from PIL import Image
images = Path(os.environ["IMAGES"])
for number in range(6):
    images.joinpath("good").mkdir(parents=True, exist_ok=True)
    Image.new("L", (32, 32), 40 * number).save(images / "good" / f"{number}.png")
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_dagster.cli import app
app(["line", "add", "caps", "--images", str(images)], standalone_mode=False)
InspectionDatabase.of(Home.from_environment())
"""


def _open_to_others(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in [home, *home.rglob("*")] if path.lstat().st_mode & OF_OTHERS}


def test_what_a_command_writes_is_for_its_own_user(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _run(ADD_A_LINE, home, IMAGES=str(tmp_path / "images"))
    assert {"inspection.db", "lines"} <= {path.name for path in home.iterdir()}
    assert _open_to_others(home) == set()


def test_what_a_command_writes_is_for_all_where_a_setting_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _run(ADD_A_LINE, home, IMAGES=str(tmp_path / "images"), VAD_SHARED="1")
    assert {".", "inspection.db", "lines/caps/experimental_plan.yaml"} <= _open_to_others(home)
    assert not (home / "inspection.db").stat().st_mode & stat.S_IWOTH


def test_a_folder_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    home = tmp_path / "home"
    inbox = home / "lines" / "caps" / "inbox"
    inbox.mkdir(parents=True)
    inbox.chmod(0o2775)
    _run(ADD_A_LINE, home, IMAGES=str(tmp_path / "images"))
    assert stat.S_IMODE(inbox.stat().st_mode) == 0o2775


@pytest.mark.parametrize(("shared", "umask"), [("", "0o77"), ("1", "0o22")])
def test_code_servers_and_runs_are_private_whoever_starts_them(tmp_path: Path, shared: str, umask: str) -> None:
    code = "import vad_dagster.definitions; print(oct(os.umask(0)))"
    assert _run(code, tmp_path / "home", VAD_SHARED=shared).splitlines()[-1] == umask


@pytest.mark.parametrize("rights", [0o700, 0o750, 0o2775, 0o777])
def test_a_result_file_is_for_those_who_may_use_the_watch_folder(tmp_path: Path, rights: int) -> None:
    folder = tmp_path / "watch"
    folder.mkdir()
    folder.chmod(rights)
    before = os.umask(0o077)
    try:
        write_whole(folder / "a.png.vad.json", b"{}", for_all_of_folder=True)
        write_whole(folder / "private.json", b"{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a.png.vad.json").stat().st_mode) == rights & 0o666
    assert stat.S_IMODE((folder / "private.json").stat().st_mode) == 0o600
