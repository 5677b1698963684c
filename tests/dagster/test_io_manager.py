"""Values of assets lie in readable files, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from vad_dagster.checks import plain_result, result_of_rule, schema_result
from vad_dagster.io_manager import LineStore, store_folder
from vad_lib.errors import InputError
from vad_lib.findings import Finding
from vad_lib.tables import DroppedRows


@dataclass
class Note:
    text: str

    def save(self, folder: Path) -> None:
        (folder / "note.txt").write_text(self.text)
        if self.text == "break":
            raise OSError("the disk is full")

    @classmethod
    def load(cls, folder: Path) -> Note:
        return cls((folder / "note.txt").read_text())


def output(value: object, line: str = "a") -> dg.OutputContext:
    context = dg.build_output_context(asset_key="thing", partition_key=line)
    LineStore().handle_output(context, value)
    return context


def load(kind: type, line: str = "a") -> object:
    context = dg.build_input_context(
        asset_key="thing",
        partition_key=line,
        dagster_type=dg.PythonObjectDagsterType(kind),
    )
    return LineStore().load_input(context)


def test_a_frame_is_a_parquet_file_of_its_line(vad_home: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    output(frame, "a")
    output(frame.head(1), "b")
    assert (vad_home / "lines" / "a" / "store" / "thing" / "table.parquet").is_file()
    pd.testing.assert_frame_equal(load(pd.DataFrame, "a"), frame)  # type: ignore[arg-type]
    assert len(load(pd.DataFrame, "b")) == 1  # type: ignore[arg-type]


def test_an_object_writes_itself_and_is_read_by_the_annotated_type(vad_home: Path) -> None:
    output(Note("hello"))
    output(Note("again"))
    assert load(Note) == Note("again")


def test_a_failed_write_leaves_the_last_good_value(vad_home: Path) -> None:
    output(Note("good"))
    with pytest.raises(OSError, match="disk is full"):
        output(Note("break"))
    assert load(Note) == Note("good")
    assert not list(store_folder("a", "thing").parent.rglob("*.partial"))


def test_a_value_that_cannot_write_itself_is_refused(vad_home: Path) -> None:
    with pytest.raises(TypeError, match="neither a pandas"):
        output({"a": 1})
    output(None)
    assert not store_folder("a", "thing").exists()


def test_a_value_that_was_never_made_is_asked_for_in_words(vad_home: Path) -> None:
    with pytest.raises(InputError, match="thing of line 'a' has not been made yet"):
        load(Note)


def test_a_rule_with_a_note_passes_and_one_with_an_error_does_not() -> None:
    note = Finding(rule="r", severity="info", message="Two copies.", count=2, examples=({"row": 1},))
    assert result_of_rule("asset", "r", [note]).passed
    assert result_of_rule("asset", "r", [note]).description == "Two copies."
    error = Finding(rule="r", severity="error", message="Too dark.", advice="More light.", count=1)
    result = result_of_rule("asset", "r", [note, error])
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.ERROR
    assert result.description == "Too dark. More light."
    assert result_of_rule("asset", "other", [error]).passed


def test_a_table_against_its_schema_shows_each_failing_value() -> None:
    frame = pd.DataFrame({"row": [-2, 0], "image_path": ["a", "b"], "rule": ["r", None], "reason": ["x", "y"]})
    result = schema_result("asset", "schema", DroppedRows, frame)
    assert not result.passed
    records = [record.data for record in result.metadata["examples"].records]
    assert {record["column"] for record in records} == {"row", "rule"}
    assert "2 values" in str(result.description)


def test_a_plain_result_tells_the_problem_or_that_all_is_well() -> None:
    assert plain_result("asset", "c", None, fine="Good.").description == "Good."
    assert not plain_result("asset", "c", InputError("No table.")).passed
