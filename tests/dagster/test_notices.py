"""Trainings that end are told, once each, with what came of them."""

# No `from __future__ import annotations`: Dagster reads the annotations of ops.

from pathlib import Path

import dagster as dg
from sqlalchemy import select

from vad_dagster.jobs import TRAIN_TAG, VERSION_TAG
from vad_dagster.sensors import trainings_done, trainings_failed
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import notices


def test_a_training_that_ended_is_told_once_with_its_version_and_one_that_failed_with_its_reason(
    vad_home: Path,
) -> None:
    @dg.op(config_schema=bool)
    def work(context: dg.OpExecutionContext) -> None:
        if context.op_config:
            raise ValueError("the disk is full")

    @dg.job(name="train_line")
    def job() -> None:
        work()

    with dg.DagsterInstance.ephemeral() as instance:
        for fails, sensor in ((False, trainings_done), (True, trainings_failed)):
            tags = {TRAIN_TAG: "caps"} | ({} if fails else {VERSION_TAG: "vad-caps/3"})
            result = job.execute_in_process(
                {"ops": {"work": {"config": fails}}}, instance=instance, tags=tags, raise_on_error=False
            )
            event = result.get_run_success_event() if result.success else result.get_run_failure_event()
            for _ in range(2):
                context = dg.build_run_status_sensor_context(
                    sensor.name, dagster_event=event, dagster_instance=instance, dagster_run=result.dagster_run
                )
                sensor(context)
    with InspectionDatabase.from_environment().reading() as connection:
        rows = connection.execute(select(notices).order_by(notices.c.notice_id)).all()
    assert [(row.line, row.event) for row in rows] == [("caps", "training_done"), ("caps", "training_failed")]
    assert rows[0].text == "A training has ended: version vad-caps/3."
    assert rows[1].text.startswith("A training failed (run ")
