"""The jobs that ``run_start.py`` starts: one that needs nothing, one that needs what inspecting an image needs."""

import importlib

import dagster as dg


@dg.op
def nothing(context: dg.OpExecutionContext) -> None:
    context.log.info("in the step")


@dg.op
def detector(context: dg.OpExecutionContext) -> None:
    for name in ("torch", "anomalib.models.image.patchcore", "mlflow.pyfunc", "vad_dagster.definitions"):
        importlib.import_module(name)
    context.log.info("in the step")


@dg.job(executor_def=dg.in_process_executor)
def needs_nothing() -> None:
    nothing()


@dg.job(executor_def=dg.in_process_executor)
def needs_a_detector() -> None:
    detector()


defs = dg.Definitions(jobs=[needs_nothing, needs_a_detector])
