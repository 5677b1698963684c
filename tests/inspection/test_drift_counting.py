"""Each inspected image advances the charts of its line once, whatever is killed, in the transaction that records it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from brightness_model import BrightnessModel, write_image
from inspection_rig import Rig, dead_worker
from mortal_database import Death, MortalDatabase, MortalModel
from sqlalchemy import update

from vad_lib.inspection import Served, inspect_rows
from vad_lib.inspection.worker import Worker, work_on
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label, withdraw_label
from vad_lib.inspection_db.monitoring import (
    AUDIT,
    alarm_changes,
    chart_states,
    miss_rate,
    read_drift,
    standing_alarms,
    to_audit,
)
from vad_lib.inspection_db.schema import BATCH, ONLINE, monitoring_state
from vad_lib.lines import Home
from vad_lib.monitoring import Monitor, MonitorSettings
from vad_lib.queue import expire, new_worker
from vad_lib.thresholds import DecisionRule

HERE = Path(__file__).parent
MONITOR = Monitor(None, DecisionRule(BrightnessModel().calibration), MonitorSettings(usual_ng=0.2))


def watched(version: str = "1", model: BrightnessModel | None = None) -> Served:
    return Served(model or BrightnessModel(), version, monitor=MONITOR)


def work(rig: Rig, served: Served, source: str = BATCH) -> int:
    rig.register()
    decided = 0
    worker = Worker(new_worker(), source)
    while made := work_on(rig.db, rig.line, served, worker, 4).decided:
        decided += len(made)
        assert decided < 1000, "files are decided for ever"
    return decided


def images_counted(db: InspectionDatabase) -> int:
    return chart_states(db, "bottles")[1]["ng_rate"].images


@pytest.mark.spec("W1.06")
@pytest.mark.parametrize("source", [BATCH, ONLINE])
def test_each_new_content_counts_once_and_nothing_else_does(rig: Rig, source: str) -> None:
    for i in range(9):
        write_image(rig.inbox / f"{i}.png", 80 + 4 * i, nonce=i)
    shutil.copy(rig.inbox / "0.png", rig.inbox / "copy.png")
    (rig.inbox / "broken.png").write_bytes(b"broken")
    assert work(rig, watched(), source) == 11
    assert images_counted(rig.db) == 9
    os.utime(rig.inbox / "0.png")
    work(rig, watched(), source)
    assert images_counted(rig.db) == 9
    version, states = chart_states(rig.db, "bottles")
    assert version == "1"
    assert set(states) == {"ng_rate"}


def test_a_folder_that_somebody_tries_out_is_not_the_line(rig: Rig) -> None:
    file = write_image(rig.inbox / "0.png", 200)
    rows = pd.DataFrame([{"row": 0, "image_path": "0.png", "file": str(file)}])
    assert inspect_rows(rig.db, "bottles", watched(), rows).scored == 1
    assert chart_states(rig.db, "bottles") == ("", {})


@pytest.mark.spec("W1.07")
def test_another_version_that_serves_begins_anew(rig: Rig) -> None:
    for i in range(10):
        write_image(rig.inbox / f"{i}.png", 150, nonce=i)
    work(rig, watched("1"))
    assert list(standing_alarms(rig.db)["bottles"]) == ["ng_rate"]
    write_image(rig.inbox / "new.png", 150, nonce=30)
    work(rig, watched("2"))
    version, states = chart_states(rig.db, "bottles")
    assert (version, states["ng_rate"].images) == ("2", 1)
    assert standing_alarms(rig.db) == {}


@pytest.mark.spec("W1.06")
@pytest.mark.parametrize("inspection_url", ["sqlite"], indirect=True)  # the database is copied with its folder
@pytest.mark.parametrize("after_commit", [False, True], ids=["before its commit", "after its commit"])
def test_a_death_in_any_transaction_counts_no_image_twice_and_none_never(
    rig: Rig, tmp_path: Path, after_commit: bool
) -> None:
    for i in range(6):
        write_image(rig.inbox / f"{i}.png", 90 + 5 * i, nonce=i)
    rig.register()
    untouched = Path(shutil.copytree(rig.line.folder.parent.parent, tmp_path / "untouched"))
    died, transactions = True, 0
    while died:
        assert transactions < 100, "it does not come to an end"
        root = Path(shutil.copytree(untouched, tmp_path / f"{transactions}"))
        url, line = f"sqlite:///{root}/inspection.db", Home(root).line("bottles")
        mortal, died = MortalDatabase(url, transactions, after_commit), False
        try:
            served, worker = watched(model=MortalModel(mortal)), Worker(dead_worker(), BATCH)
            for _ in range(99):
                if not work_on(mortal, line, served, worker, 2).more:
                    break
            else:
                pytest.fail("it does not come to an end")
        except Death:
            died = True
        db = InspectionDatabase(url)
        expire(db)
        Rig(db, line).work(BrightnessModel())  # not watched: what is left counts no more
        decided = db.predictions("bottles").query("run_id != run_id")
        counted = chart_states(db, "bottles")[1]
        assert (counted["ng_rate"].images if counted else 0) == len(decided)
        transactions += 1
    assert transactions > 5


def test_a_state_that_cannot_be_read_begins_anew_and_keeps_no_result_back(rig: Rig) -> None:
    write_image(rig.inbox / "0.png", 90)
    work(rig, watched())
    with rig.db.writing() as connection:
        connection.execute(update(monitoring_state).values(numbers='["nonsense"]'))
    write_image(rig.inbox / "1.png", 95)
    assert work(rig, watched()) == 1
    write_image(rig.inbox / "2.png", 99)
    assert work(rig, watched()) == 1
    assert images_counted(rig.db) == 1


@pytest.mark.spec("W1.06")
def test_charts_cost_no_transaction_of_their_own(rig: Rig) -> None:
    def transactions(served: Served) -> int:
        for i in range(4):
            write_image(rig.inbox / f"{served.version} {i}.png", 90 + 5 * i, nonce=10 * int(served.version) + i)
        rig.register()
        counting = MortalDatabase(rig.db.engine.url.render_as_string(hide_password=False))
        before = counting.left
        work_on(counting, rig.line, served, Worker(new_worker(), BATCH), 4)
        return before - counting.left

    assert transactions(Served(BrightnessModel(), "1")) == transactions(watched("2")) == 2


@pytest.mark.spec("W1.06")
@pytest.mark.parametrize(
    "inspection_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_a_run_that_is_killed_leaves_charts_that_hold_what_is_recorded(rig: Rig) -> None:
    for i in range(30):
        write_image(rig.inbox / f"{i}.png", 40 + 4 * i, nonce=i)
    rig.register()
    command = [sys.executable, str(HERE / "inspect_in_process.py"), str(rig.line.folder.parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)])}
    process = subprocess.Popen([*command, "first", "--watched", "--seconds", "0.03"], env=environment)
    deadline = time.monotonic() + 60
    while rig.db.count_predictions("bottles") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert images_counted(rig.db) == rig.db.count_predictions("bottles") < 30
    done = subprocess.run(
        [*command, "second", "--watched"], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout)["decided"] > 0
    assert images_counted(rig.db) == rig.db.count_predictions("bottles") == 30


def test_a_report_names_alarms_and_what_is_not_measured_and_comes_back_from_its_folder(
    rig: Rig, tmp_path: Path
) -> None:
    assert read_drift(rig.db, "bottles").alarms == []
    assert alarm_changes(rig.db) == {}
    for i in range(12):
        write_image(rig.inbox / f"{i}.png", 150, nonce=i)
    work(rig, watched())
    report = read_drift(rig.db, "bottles")
    (alarm,) = report.alarms
    assert "NG has become more frequent: 100.0% of images, 20.0% is usual" in alarm
    assert (report.images, report.model_version) == (12, "1")
    assert set(report.table().query("images == 0")["last alarm"]) == {"not measured"}
    assert {"scale", "content"} <= set(report.table()["chart"])
    report.save(tmp_path)
    assert type(report).load(tmp_path) == report
    told = alarm_changes(rig.db)
    for i in range(12):
        write_image(rig.inbox / f"ok {i}.png", 50, nonce=i)
    work(rig, watched())
    assert standing_alarms(rig.db) == {}
    assert alarm_changes(rig.db) != told, "the end of an alarm is told too"


@pytest.mark.spec("W1.08")
def test_misses_are_estimated_from_the_random_sample_alone(rig: Rig) -> None:
    for i in range(120):
        write_image(rig.inbox / f"{i}.png", 50 + i % 40, nonce=i % 60)
    work(rig, watched())
    recorded = rig.db.predictions("bottles")
    sampled = recorded[recorded["sha256"] < AUDIT]
    assert 0 < len(sampled) < 10
    assert {row.sha256 for row in to_audit(rig.db, "bottles", 100)} == set(sampled["sha256"])
    assert "nobody has judged" in miss_rate(rig.db, "bottles", "1").in_words()
    for number, row in enumerate(sampled.itertuples()):
        record_label(rig.db, int(row.prediction_id), "NG" if number == 0 else "OK", by=Actor("A"))
    other = recorded[recorded["sha256"] >= AUDIT].iloc[0]
    record_label(rig.db, int(other["prediction_id"]), "NG", by=Actor("A"))
    found = miss_rate(rig.db, "bottles", "1")
    assert (found.sampled, found.judged, found.missed) == (len(sampled), len(sampled), 1)
    assert f"(1 of {len(sampled)} judged" in found.in_words()
    assert to_audit(rig.db, "bottles", 100) == []
    first = sampled.iloc[0]
    withdraw_label(rig.db, int(first["prediction_id"]), by=Actor("A"))
    assert [row.sha256 for row in to_audit(rig.db, "bottles", 100)] == [first["sha256"]], "it is to be judged again"
