"""``vad db`` and ``vad label`` as a user meets them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from brightness_model import write_image
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from inspection_rig import Rig
from sqlalchemy import insert, text
from typer.testing import CliRunner, Result

from vad_dagster.cli import app
from vad_dagster.cli.server import open_instance
from vad_dagster.jobs import INSPECT_TAG
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.revision import HEAD
from vad_lib.inspection_db.schema import monitoring_state
from vad_lib.lines import Home
from vad_lib.queue import new_worker
from vad_lib.queue.facts import announce_service

Vad = Callable[..., Result]


@pytest.fixture
def vad(vad_home: Path) -> Iterator[Vad]:
    """Run ``vad`` with these words in an empty home."""
    before = dict(os.environ)
    runner = CliRunner(env={"COLUMNS": "200"})
    yield lambda *words: runner.invoke(app, [str(word) for word in words])
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def rig(vad_home: Path, tmp_path: Path) -> Rig:
    """A line with a plan, a training table, and one image that is NG."""
    line = Home(vad_home).line("bottles")
    line.inbox.mkdir(parents=True)
    train = tmp_path / "train"
    train.mkdir()
    (train / "table.csv").write_text("image_path,label\n./a.png,good\n")
    line.plan_file.write_text(
        f"external_path:\n  - load_train_data_path: {train}\nuser_parameters:\n"
        "  - train_pipeline:\n    - step: readiness\n      args:\n        - ok_class: good\n"
    )
    rig = Rig(InspectionDatabase.of(Home(vad_home)), line)
    write_image(line.inbox / "bright.png", 200)
    rig.inspect()
    return rig


def test_the_database_is_looked_at_upgraded_and_checked(vad: Vad, vad_home: Path) -> None:
    (vad_home / "inspection.db").touch()
    looked = vad("db", "current")
    assert looked.exit_code == 0, looked.output
    assert "revision none" in looked.output
    assert vad("db", "check").exit_code == 1
    assert f"from revision none to {HEAD}" in vad("db", "upgrade").output
    assert "nothing to do" in vad("db", "upgrade").output
    assert "every law holds" in vad("db", "check").output


@pytest.mark.parametrize("word", ["current", "check"])
def test_looking_makes_no_database_where_there_is_none(
    vad: Vad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("VAD_INSPECTION_DB", f"sqlite:///{tmp_path}/mistyped/inspection.db")
    answer = vad("db", word)
    assert answer.exit_code == 1
    assert "There is no database at" in answer.output
    assert "VAD_INSPECTION_DB" in answer.output
    assert not (tmp_path / "mistyped").exists()


def test_a_broken_law_is_told_and_ends_with_code_1(vad: Vad, rig: Rig) -> None:
    with rig.db.writing() as connection:
        connection.execute(text("DELETE FROM predictions"))
    answer = vad("db", "check")
    assert answer.exit_code == 1
    assert "A file that is done has a prediction. Broken by 1" in " ".join(answer.output.split())


def test_a_label_is_given_listed_and_exported(vad: Vad, rig: Rig, tmp_path: Path) -> None:
    given = vad("label", "give", "bottles", "bright.png", "ok", "--note", "a reflection", "--person", "Kim")
    assert given.exit_code == 0, given.output
    assert "bright.png is OK (predicted was NG" in given.output
    listed = vad("label", "list", "bottles").output
    assert "a reflection" in listed
    assert "0 of 1 predictions agree" in listed
    (tmp_path / "elsewhere").mkdir()
    exported = vad("label", "export", "bottles", "--to", str(tmp_path / "elsewhere"))
    assert exported.exit_code == 0, exported.output
    assert list(pd.read_csv(tmp_path / "elsewhere" / "labels.csv")["label"]) == ["good"]
    refused = vad("label", "export", "bottles", "--to", str(tmp_path / "train"))
    assert "its trainings take the labels by themselves" in " ".join(refused.output.split())
    assert not (tmp_path / "train" / "labels.csv").exists()
    withdrawn = vad("label", "withdraw", "bottles", "bright.png", "--person", "Lee")
    assert "bright.png has no label any more" in withdrawn.output
    assert "bright.png" not in vad("label", "list", "bottles").output
    assert "withdrawn" in vad("label", "list", "bottles", "--history").output
    assert vad("label", "withdraw", "bottles", "bright.png").exit_code == 1


@pytest.mark.spec("W1.09")
def test_an_alarm_of_drift_stands_below_the_list_of_lines(vad: Vad, rig: Rig) -> None:
    assert "darker" not in vad("line", "list").output
    now = utc_now()
    row = {"line": "bottles", "chart": "brightness", "model_version": "1", "numbers": "{}", "images": 9, "level": 1.2}
    row |= {"since": now, "since_images": 3, "alarm": "darker by 20%: check the lamp", "raised_at": now}
    with rig.db.writing() as connection:
        connection.execute(insert(monitoring_state).values(row))
    assert "bottles: darker by 20%: check the lamp" in vad("line", "list").output


@pytest.mark.spec("W1.08")
def test_the_random_sample_is_listed_with_what_is_known_of_misses(vad: Vad, rig: Rig) -> None:
    told = vad("label", "sample", "bottles")
    assert told.exit_code == 0, told.output
    assert "Missed defects: not known: nobody has judged an image" in " ".join(told.output.split())


def test_receivers_of_messages_are_listed_and_tried_without_their_addresses(
    vad: Vad, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = rig.line.plan_file
    plan.write_text(plan.read_text() + "operation:\n  notify: [ng to shift, trouble to nobody every 0]\n")
    assert "VAD_NOTIFY names nobody" in vad("notify", "test").output
    monkeypatch.setenv("VAD_NOTIFY", "shift=json://user:s3cret@127.0.0.1:9/x")
    told = vad("notify", "list").output
    assert "VAD_NOTIFY has no address of it" in told
    assert "Receivers in VAD_NOTIFY: shift" in told
    tried = vad("notify", "test", "shift")
    assert (tried.exit_code, "'shift' did not take the message" in tried.output) == (1, True)
    assert "s3cret" not in told + tried.output


def test_the_performance_in_use_is_told_with_what_is_not_known(vad: Vad, rig: Rig) -> None:
    assert vad("label", "give", "bottles", "bright.png", "ng", "--kind", "crack").exit_code == 0
    told = " ".join(vad("performance", "bottles").output.split())
    assert "100.0% of what is called NG is defective (between 2.5% and 100.0%; 1 of 1 NG images judged)" in told
    assert "crack" in told
    assert json.loads(vad("performance", "bottles", "--json").output)["whole"]["judged_ng"] == 1


def test_a_wrong_label_or_image_is_told(vad: Vad, rig: Rig, tmp_path: Path) -> None:
    assert "ok, ng or unsure" in vad("label", "give", "bottles", "bright.png", "perhaps").output
    assert "no prediction of" in vad("label", "give", "bottles", "dark.png", "ok").output
    assert vad("label", "export", "bottles", "--to", str(tmp_path)).exit_code == 1


def test_files_on_which_nobody_works_are_a_warning_that_fails_no_check(vad: Vad, rig: Rig) -> None:
    write_image(rig.line.inbox / "late.png", 150)
    rig.register()
    assert "warning" not in vad("db", "check").output, "it has only just arrived"
    hour = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    with rig.db.writing() as connection:
        connection.execute(text("UPDATE incoming_files SET registered_at = :then"), {"then": hour})
    answer = vad("db", "check")
    assert answer.exit_code == 0, answer.output
    assert "every law holds" in answer.output
    assert "bottles: 1 files wait, the longest for 1 h" in answer.output
    worker = new_worker()
    announce_service(rig.db, worker, ["bottles"])
    assert "warning" not in vad("db", "check").output
    announce_service(rig.db, worker, ())
    with open_instance() as instance:
        tags = {INSPECT_TAG: "bottles"}
        create_run_for_test(instance, job_name="inspect_line", tags=tags, status=DagsterRunStatus.STARTED)
    assert "warning" not in vad("db", "check").output


def test_line_list_counts_what_runs_and_services_have_decided(vad: Vad, rig: Rig) -> None:
    write_image(rig.line.inbox / "dark.png", 20)
    write_image(rig.line.inbox / "light.png", 220)
    rig.inspect()
    with rig.db.writing() as connection:
        connection.execute(text("UPDATE predictions SET source = 'online' WHERE prediction_id = 1"))
    row = next(line for line in vad("line", "list").output.splitlines() if "bottles" in line)
    assert [cell.strip() for cell in row.split("│")][4:6] == ["1", "2"]
