"""Room in a container: its limit less what is in use; files that were read are no use of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vad_lib import machine
from vad_lib.detectors.patchcore.bank_plan import default_budget
from vad_lib.machine import memory_of_machine, resident_bytes, room_of_machine

MIB = 2**20


def _container(root: Path, version: int, *, limit: str, used: int, statistics: str | None) -> None:
    """Write the files of a control group as the kernel shows them inside a container."""
    folder = root if version == 2 else root / "memory"
    folder.mkdir(exist_ok=True)
    limit_name, used_name = {
        2: ("memory.max", "memory.current"),
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    }[version]
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / used_name).write_text(f"{used}\n")
    if statistics is not None:
        (folder / "memory.stat").write_text(statistics)


@pytest.fixture(autouse=True)
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No control group; tests write theirs here."""
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr(machine, "_CGROUP", root)
    return root


STATISTICS = {
    2: f"anon {20 * MIB}\nfile {70 * MIB}\ninactive_anon 0\nactive_file {10 * MIB}\ninactive_file {60 * MIB}\n",
    1: f"cache 4096\ninactive_file 8192\ntotal_cache {70 * MIB}\ntotal_inactive_file {60 * MIB}\n",
}


@pytest.mark.parametrize("version", [1, 2])
def test_files_that_were_read_and_lie_idle_in_memory_are_room(groups: Path, version: int) -> None:
    _container(groups, version, limit=str(100 * MIB), used=90 * MIB, statistics=STATISTICS[version])
    assert machine._free_memory() == 70 * MIB
    before = resident_bytes()
    assert room_of_machine(groups).memory_bytes == pytest.approx(before + 70 * MIB, abs=50 * MIB)


@pytest.mark.parametrize("statistics", [None, "anon 3\n", "inactive_file many\n"])
def test_without_a_word_on_cache_all_that_is_in_use_counts(groups: Path, statistics: str | None) -> None:
    _container(groups, 2, limit=str(100 * MIB), used=90 * MIB, statistics=statistics)
    assert machine._free_memory() == 10 * MIB


def test_a_container_over_its_limit_has_no_room(groups: Path) -> None:
    _container(groups, 2, limit=str(100 * MIB), used=110 * MIB, statistics="inactive_file 0\n")
    assert machine._free_memory() == 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_selection_may_take_half_of_what_the_container_may(groups: Path, version: int) -> None:
    _container(groups, version, limit=str(100 * MIB), used=90 * MIB, statistics=STATISTICS[version])
    assert memory_of_machine() == 100 * MIB
    assert default_budget() == 50 * MIB


@pytest.mark.parametrize(("version", "no_limit"), [(1, str(2**63 - 4096)), (2, "max")])
def test_a_group_without_a_limit_leaves_the_machine_s_memory(groups: Path, version: int, no_limit: str) -> None:
    whole = memory_of_machine()
    _container(groups, version, limit=no_limit, used=90 * MIB, statistics=STATISTICS[version])
    assert memory_of_machine() == whole
    assert machine._free_memory() > 10 * MIB
