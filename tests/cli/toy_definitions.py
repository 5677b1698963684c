"""Jobs that stand for long and failing work in the tests of the command line."""

import time
from pathlib import Path

import dagster as dg

from vad_dagster.partitions import lines
from vad_lib.errors import InputError


class ToyConfig(dg.Config):
    seconds: float = 0.0
    fails: bool = False
    mark: str = ""


@dg.asset(partitions_def=lines)
def toy(context: dg.AssetExecutionContext, config: ToyConfig) -> dg.MaterializeResult[None]:
    context.log.info("working: 1 of 2 images")
    if config.fails:
        raise InputError("The table has no column 'label'.")
    if config.mark:
        Path(config.mark).touch()
    try:
        time.sleep(config.seconds)
    finally:
        if config.mark:
            Path(config.mark).with_suffix(".left").touch()
    return dg.MaterializeResult(metadata={"images": 3})


defs = dg.Definitions(
    assets=[toy],
    jobs=[dg.define_asset_job("train_line", selection="*", executor_def=dg.in_process_executor)],
    executor=dg.in_process_executor,
)
