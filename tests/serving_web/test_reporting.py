"""What Dagster is told about the fast lane, and whether its promise was kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import dagster as dg
import pytest
from brightness_model import write_image
from scorer_plant import PlantSource, Starter, until

from vad_dagster.provenance import FIRST, LAST
from vad_dagster.sensors.landing import landing_folders
from vad_dagster.sensors.scored import PROMISE_CHECK, promise_of_three_seconds, scored_images
from vad_lib.inspection.claims import new_owner
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.verdicts import record_verdict
from vad_lib.landing.scanning import FileKey
from vad_lib.scorer.reporting import promise, scored_since
from vad_lib.scorer.taking_up import Candidate, take_up


def _tick(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    result = scored_images(dg.build_sensor_context(instance=instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    return result


def test_each_scored_image_is_told_once_in_events_of_its_line(
    start: Starter, source: PlantSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_HOME", str(source.home.root))
    monkeypatch.setenv("SERVICE_UI_URL", "http://127.0.0.1:9")
    source.add("caps")
    lane = start()
    for i in range(6):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + 20 * i, nonce=i)
    write_image(source.lines["caps"].folder / "a.png", 50)
    until(lambda: db.count_predictions("bottles") == 6 and db.count_predictions("caps") == 1)
    until(lambda: lane.queue.images == 0)
    ng = db.predictions("bottles").query("predicted == 'NG'")["prediction_id"].iloc[0]
    record_verdict(db, int(ng), "OK", person="Kim")
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
        told = materialized["bottles"].metadata
        numbers = sorted(db.predictions("bottles")["prediction_id"])
        assert (told[FIRST].value, told[LAST].value) == (numbers[0], numbers[-1])
        assert f"/lines/bottles/results?version=1&first={numbers[0]}&last={numbers[-1]}" in told["predictions"].value
        assert (told["people looked at"].value, told["agreement of people"].value) == (1, 0.0)
        (check,) = (event for event in first.asset_events if isinstance(event, dg.AssetCheckEvaluation))
        kept = [promise(db, name).kept for name in ("bottles", "caps")]
        assert (check.check_name, check.passed) == (PROMISE_CHECK, all(kept))
        assert [record.data["line"] for record in check.metadata["lines"].records] == ["bottles", "caps"]
        idle = _tick(instance, first.cursor)
        assert idle.asset_events == []
        assert idle.skip_reason is not None
        assert "No resident scorer answers at http://127.0.0.1:9/" in str(idle.skip_reason.skip_message)
        assert "`vad serve`" in str(idle.skip_reason.skip_message)
        write_image(source.lines["caps"].folder / "b.png", 150)
        until(lambda: db.count_predictions("caps") == 2)
        second = _tick(instance, first.cursor)
        assert [event.partition for event in second.asset_events] == ["caps", None]
        for event in (*first.asset_events, *second.asset_events):  # as the daemon does: Dagster takes all of them
            instance.report_runless_asset_event(event)
        # A tick that died is repeated from the same cursor, and says the same.
        assert json.loads(_tick(instance, first.cursor).cursor or "") == json.loads(second.cursor or "")


def _landed(db: InspectionDatabase, folder: Path, ages: list[float]) -> None:
    now = time.time()
    candidates = [Candidate(FileKey(f"{i}.png", 10, i), now - age) for i, age in enumerate(ages)]
    assert take_up(db, "bottles", folder, candidates, new_owner()) is not None


def test_images_that_wait_count_as_late_once_their_age_is_above_the_promise(
    source: PlantSource, db: InspectionDatabase
) -> None:
    _landed(db, source.lines["bottles"].folder, [0.5] * 18 + [60.0, 61.0])
    found = promise(db, "bottles")
    assert (found.images, found.waiting, found.kept) == (20, 20, False)
    assert found.p95 is not None
    assert found.p95 >= 60
    assert found.oldest_waiting >= 61
    assert "waited for longer than promised" in str(found)


def test_nothing_is_promised_about_no_images(db: InspectionDatabase) -> None:
    found = promise(db, "bottles")
    assert (found.kept, found.p95, found.images) == (True, None, 0)
    assert scored_since(db, 0) == ([], 0)


def test_the_check_runs_with_its_asset_for_a_line(
    source: PlantSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_HOME", str(source.home.root))
    _landed(db, source.lines["bottles"].folder, [30.0])
    from vad_dagster.partitions import LINES_PARTITION, lines

    @dg.asset(partitions_def=lines)
    def inference_outputs() -> None:
        """Stands for the real one."""

    defs = dg.Definitions(
        assets=[inference_outputs],
        asset_checks=[promise_of_three_seconds],
        jobs=[dg.define_asset_job("look", [inference_outputs])],
    )
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(LINES_PARTITION, ["bottles"])
        run = defs.resolve_job_def("look").execute_in_process(instance=instance, partition_key="bottles")
    (evaluation,) = run.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert evaluation.metadata["waiting"].value == 1


def test_the_landing_sensor_takes_over_what_a_dead_scorer_had(
    source: PlantSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vad_dagster.partitions import LINES_PARTITION

    monkeypatch.setenv("VAD_HOME", str(source.home.root))
    monkeypatch.setattr("vad_dagster.sensors.landing.WAIT_SECONDS", 0.0)
    folder = source.lines["bottles"].folder
    file = write_image(folder / "a.png", 50)
    key = FileKey("a.png", file.stat().st_size, file.stat().st_mtime_ns)
    place, pid, _, nonce = new_owner().split(":")
    take_up(db, "bottles", folder, [Candidate(key, time.time())], f"{place}:{pid}:1:{nonce}")
    assert db.batches("bottles")["state"].tolist() == ["closed"]
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(LINES_PARTITION, ["bottles"])
        landing_folders(dg.build_sensor_context(instance=instance))
    assert db.batches("bottles")["state"].tolist() == ["open"]
