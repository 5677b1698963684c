"""What Dagster records of an inference service, and whether the latency objective was met."""

from __future__ import annotations

import json
import time
from pathlib import Path

import dagster as dg
import pytest
from brightness_model import write_image
from serving_rig import RigSource, Starter, until

from vad_dagster.provenance import FIRST, LAST
from vad_dagster.sensors.online_results import LATENCY_CHECK, latency_objective, online_results
from vad_lib.ingest import Arrival, FileVersion
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label
from vad_lib.queue import new_worker, queue_facts, register
from vad_lib.queue.facts import announce_service
from vad_lib.queue.latency import latencies, scored_since


def _tick(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    result = online_results(dg.build_sensor_context(instance=instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    return result


@pytest.mark.spec("S1.04")
def test_each_scored_image_is_recorded_once_in_events_of_its_line(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_HOME", str(source.home.root))
    monkeypatch.setenv("SERVICE_UI_URL", "http://127.0.0.1:9")
    source.add("caps")
    start()
    for i in range(6):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + 20 * i, nonce=i)
    write_image(source.lines["caps"].folder / "a.png", 50)
    until(lambda: db.count_predictions("bottles") == 6 and db.count_predictions("caps") == 1)
    until(lambda: not queue_facts(db))
    ng = db.predictions("bottles").query("predicted == 'NG'")["prediction_id"].iloc[0]
    record_label(db, int(ng), "OK", by=Actor("Kim"))
    with dg.instance_for_test() as instance:
        from vad_dagster.partitions import LINES_PARTITION

        instance.add_dynamic_partitions(LINES_PARTITION, ["bottles", "caps"])
        first = _tick(instance, None)
        materialized = {event.partition: event for event in first.asset_events if hasattr(event, "tags")}
        assert {name: event.metadata["images"].value for name, event in materialized.items()} == {
            "bottles": 6,
            "caps": 1,
        }
        assert materialized["bottles"].metadata["OK"].value == 3
        assert materialized["bottles"].metadata["NG"].value == 3
        assert materialized["bottles"].metadata["oldest waits for seconds"].value == 0
        shown = materialized["bottles"].metadata
        numbers = sorted(db.predictions("bottles")["prediction_id"])
        assert (shown[FIRST].value, shown[LAST].value) == (numbers[0], numbers[-1])
        assert f"/lines/bottles/results?version=1&first={numbers[0]}&last={numbers[-1]}" in shown["predictions"].value
        assert (shown["people looked at"].value, shown["agreement of people"].value) == (1, 0.0)
        (check,) = (event for event in first.asset_events if isinstance(event, dg.AssetCheckEvaluation))
        met = [each.is_met for each in latencies(db, ["bottles", "caps"]).values()]
        assert (check.check_name, check.passed) == (LATENCY_CHECK, all(met))
        assert [record.data["line"] for record in check.metadata["lines"].records] == ["bottles", "caps"]
        idle = _tick(instance, first.cursor)
        assert idle.asset_events == []
        assert idle.skip_reason is not None
        assert "Inference services work on bottles, caps" in str(idle.skip_reason.skip_message)
        write_image(source.lines["caps"].folder / "b.png", 150)
        until(lambda: db.count_predictions("caps") == 2)
        second = _tick(instance, first.cursor)
        assert [event.partition for event in second.asset_events] == ["caps", None]
        for event in (*first.asset_events, *second.asset_events):  # as the daemon does: Dagster takes all of them
            instance.report_runless_asset_event(event)
        # A tick that died is repeated from the same cursor, and says the same.
        assert json.loads(_tick(instance, first.cursor).cursor or "") == json.loads(second.cursor or "")


def _waiting(db: InspectionDatabase, folder: Path, ages: list[float]) -> None:
    now = time.time()
    arrivals = [Arrival(FileVersion(f"{i}.png", 10, i, i, i), now - age) for i, age in enumerate(ages)]
    register(db, "bottles", folder, arrivals)
    announce_service(db, new_worker(), ["bottles"])


@pytest.mark.spec("S1.05")
def test_images_that_wait_count_as_late_once_their_age_is_above_the_objective(
    source: RigSource, db: InspectionDatabase
) -> None:
    _waiting(db, source.lines["bottles"].folder, [0.5] * 18 + [60.0, 61.0])
    found = latencies(db, ["bottles", "caps"])["bottles"]
    assert (found.images, found.waiting, found.is_met) == (20, 20, False)
    assert found.p95 is not None
    assert found.p95 >= 60
    assert found.oldest_waiting >= 61
    assert "waited for longer than the objective" in str(found)


def test_nothing_is_said_about_lines_without_a_service_and_images(db: InspectionDatabase) -> None:
    assert latencies(db, ["bottles"]) == {}
    announce_service(db, new_worker(), ["bottles"])
    found = latencies(db, ["bottles"])["bottles"]
    assert (found.is_met, found.p95, found.images) == (True, None, 0)
    assert scored_since(db, ["bottles"], {}) == ([], {})


def test_the_check_runs_with_its_asset_for_a_line(
    source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_HOME", str(source.home.root))
    source.lines["bottles"].line.plan_file.write_text("# a line is a folder with a plan")
    _waiting(db, source.lines["bottles"].folder, [30.0])
    from vad_dagster.partitions import LINES_PARTITION, lines

    @dg.asset(partitions_def=lines)
    def inference_outputs() -> None:
        """Stands for the real one."""

    defs = dg.Definitions(
        assets=[inference_outputs],
        asset_checks=[latency_objective],
        jobs=[dg.define_asset_job("look", [inference_outputs])],
    )
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(LINES_PARTITION, ["bottles"])
        run = defs.resolve_job_def("look").execute_in_process(instance=instance, partition_key="bottles")
    (evaluation,) = run.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert evaluation.metadata["waiting"].value == 1
