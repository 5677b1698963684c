"""A chaos test without its faults is none: it does not pass, and says why."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import _print_row
from benchmarks.chaos.chaos_test import ChaosResult, ChaosTest
from benchmarks.chaos.databases import OWN_MOUNTS, DatabaseDisk
from benchmarks.chaos.plan import FILL_DISK, KILL_DAEMON, KILL_RUN, PROMOTE, ChaosPlan, Fault, Shape
from vad_lib.lines import Home

NO_FILES = Shape(lines=(), files=0, faults=(), rate=1.0, down=0.1)


class RigOfNothing:
    """Has what a chaos test asks for, and kills what it is told to find."""

    def __init__(self, home: Home, kinds: list[str], finds: dict[str, bool]) -> None:
        self.home = home
        self.machines = ()
        self.runs = True
        self.kills: dict[str, int] = {}
        self._finds = finds
        self._to_look_for = set(kinds) - {PROMOTE, FILL_DISK}
        self._looked = threading.Event()

    def watch_folder(self, line: str) -> Path:
        return self.home.line(line).inbox

    def start_services(self) -> None: ...

    def start_runs(self) -> None: ...

    def kill(self, kind: str) -> bool:
        self._to_look_for.discard(kind)
        if not self._to_look_for:
            self._looked.set()
        if kind not in self._finds:
            raise RuntimeError(f"no pattern for {kind}")
        if self._finds[kind]:
            self.kills[kind] = self.kills.get(kind, 0) + 1
        return self._finds[kind]

    def restart(self, kind: str) -> None: ...

    def promote(self, line: str) -> str:
        """Wait until the others were looked for: no image has to arrive, so the chaos test would be over before."""
        if self._to_look_for:
            assert self._looked.wait(timeout=30)
        return f"{line}/2"

    def champion(self, line: str) -> str:
        return f"{line}/2"

    def thresholds(self) -> dict[str, float]:
        return {}

    def ended_by_themselves(self) -> list[str]:
        return []

    def stop_services(self) -> None: ...

    def stop(self) -> None: ...


def _chaos(tmp_path: Path, kinds: list[str], finds: dict[str, bool]) -> ChaosResult:
    home = Home(tmp_path / "home")
    (home.root / "lines").mkdir(parents=True)
    plan = ChaosPlan(1, NO_FILES, (), tuple(Fault(0, kind, 0.0, "caps") for kind in kinds))
    disk = DatabaseDisk(tmp_path / "database")
    return ChaosTest(plan, RigOfNothing(home, kinds, finds), disk, patience=10).run()


@pytest.fixture(autouse=True)
def no_disk_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OWN_MOUNTS, raising=False)


def test_a_chaos_test_whose_faults_came_about_passes(tmp_path: Path) -> None:
    result = _chaos(tmp_path, [PROMOTE, KILL_RUN, KILL_DAEMON], {KILL_RUN: True, KILL_DAEMON: True})
    assert (result.troubles, result.missed) == ([], [])
    assert result.kills == {KILL_RUN: 1, KILL_DAEMON: 1}


def test_a_single_fault_that_found_nothing_is_told_but_is_no_trouble(tmp_path: Path) -> None:
    result = _chaos(tmp_path, [PROMOTE, KILL_RUN, KILL_DAEMON], {KILL_RUN: False, KILL_DAEMON: True})
    assert result.troubles == []
    assert [fault.kind for fault in result.missed] == [KILL_RUN]


def test_a_chaos_test_that_did_less_than_half_of_its_faults_fails(tmp_path: Path) -> None:
    result = _chaos(tmp_path, [PROMOTE, KILL_RUN, KILL_DAEMON], {KILL_RUN: False, KILL_DAEMON: False})
    assert result.troubles == ["too few faults came about: 1 of 3"]


def test_a_search_that_fails_fails_the_chaos(tmp_path: Path) -> None:
    result = _chaos(tmp_path, [PROMOTE, PROMOTE, PROMOTE, KILL_RUN], {})
    assert result.troubles == [f"nothing more was killed: {KILL_RUN}: RuntimeError('no pattern for {KILL_RUN}')"]


def test_a_disk_that_is_not_real_is_said_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = _chaos(tmp_path, [PROMOTE, FILL_DISK], {})
    _print_row(result)
    printed = capsys.readouterr().out
    assert "not real" in printed.splitlines()[0]
    assert "not done: fill disk" in printed
    assert result.troubles == []
