"""Lines appear and vanish with their folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from vad_dagster.partitions import LINES_PARTITION, register_lines
from vad_dagster.sensors.lines import compare_lines, line_folders


def make_line(home: Path, name: str, plan: str = "name: x\n") -> Path:
    folder = home / "lines" / name
    folder.mkdir(parents=True)
    (folder / "experimental_plan.yaml").write_text(plan)
    return folder


def tick(instance: dg.DagsterInstance) -> dg.SensorResult:
    """Evaluate the sensor and apply what it asks for, as the daemon does."""
    result = line_folders(dg.build_sensor_context(instance))
    assert isinstance(result, dg.SensorResult)
    for request in result.dynamic_partitions_requests or []:
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(LINES_PARTITION, list(request.partition_keys))
        else:
            for key in request.partition_keys:
                instance.delete_dynamic_partition(LINES_PARTITION, key)
    return result


def test_a_new_folder_becomes_a_line_and_a_removed_one_goes(vad_home: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        make_line(vad_home, "bottle")
        tile = make_line(vad_home, "tile")
        (vad_home / "lines" / "no_plan_yet").mkdir()
        tick(instance)
        assert sorted(instance.get_dynamic_partitions(LINES_PARTITION)) == ["bottle", "tile"]
        shutil.rmtree(tile)
        tick(instance)
        assert instance.get_dynamic_partitions(LINES_PARTITION) == ["bottle"]
        assert "1 lines, as before" in str(tick(instance).skip_reason)


def test_a_folder_that_cannot_be_read_removes_no_line(vad_home: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(LINES_PARTITION, ["bottle"])
        result = tick(instance)
        assert instance.get_dynamic_partitions(LINES_PARTITION) == ["bottle"]
        assert "cannot be read" in str(result.skip_reason)


@pytest.mark.parametrize("name", ["-x", "a b", "ü", "x" * 64, ".hidden"])
def test_a_folder_that_cannot_be_a_line_is_passed_over(vad_home: Path, name: str) -> None:
    make_line(vad_home, name)
    with dg.DagsterInstance.ephemeral() as instance:
        tick(instance)
        assert instance.get_dynamic_partitions(LINES_PARTITION) == []


def test_comparing_says_nothing_of_lines_that_stay() -> None:
    changes = compare_lines(["a", "b"], ["a", "b"])
    assert (changes.add, changes.remove) == ([], [])


def test_registering_twice_adds_once() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert register_lines(instance, ["a", "b"]) == ["a", "b"]
        assert register_lines(instance, ["b", "c"]) == ["c"]
