"""Small jobs that real processes run in the tests of the launcher."""

import os
import signal
import subprocess
import sys
import time

import dagster as dg


@dg.op
def say(context: dg.OpExecutionContext) -> None:
    print("printed to stdout")
    print("printed to stderr", file=sys.stderr)
    context.log.info(f"TOY_VARIABLE={os.environ.get('TOY_VARIABLE')} cwd={os.getcwd()} session={os.getsid(0)}")


@dg.op
def draw(context: dg.OpExecutionContext) -> None:
    import random

    import numpy

    context.log.info(f"drawn {random.random()} {numpy.random.random()}")  # noqa: NPY002


@dg.op
def multiply(context: dg.OpExecutionContext) -> None:
    """Use the thread pools of OpenBLAS and of OpenMP, which exist in no forked process yet."""
    import numpy
    import torch

    torch.set_num_threads(2)
    pixels = torch.ones(4, 8, 64, 64)
    total = float(torch.nn.functional.conv2d(pixels, torch.ones(8, 8, 3, 3), padding=1).sum())
    square = numpy.ones((600, 600))
    context.log.info(f"multiplied {total:.0f} {(square @ square)[0, 0]:.0f} cuda={torch.cuda.is_initialized()}")


@dg.op(config_schema={"seconds": dg.Field(float, default_value=60.0)})
def sleep(context: dg.OpExecutionContext) -> None:
    time.sleep(context.op_config["seconds"])


@dg.op
def refuse_to_stop(context: dg.OpExecutionContext) -> None:
    """Ignores what a polite request to stop raises, and has a process of its own."""
    child = subprocess.Popen(["sleep", "300"])
    context.log.info(f"child {child.pid}")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            time.sleep(300)
        except BaseException:
            context.log.info("not now")


@dg.op
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dg.op
def leave_silently() -> None:
    os._exit(0)


@dg.op
def fail() -> None:
    raise ValueError("on purpose")


@dg.op
def fail_in_a_process_of_its_own() -> None:
    assert os.getpid() != os.getsid(0), "this step runs in the run's own process"


def _job(op: dg.OpDefinition) -> dg.JobDefinition:
    @dg.job(name=f"{op.name}_job", executor_def=dg.in_process_executor)
    def toy() -> None:
        op()

    return toy


@dg.job(executor_def=dg.multiprocess_executor)
def many_processes_job() -> None:
    fail_in_a_process_of_its_own()


@dg.op
def die_the_first_time(context: dg.OpExecutionContext) -> None:
    if context.run.parent_run_id is None:
        os.kill(os.getpid(), signal.SIGKILL)


@dg.job(executor_def=dg.in_process_executor, tags={"dagster/max_retries": 1})
def die_once_job() -> None:
    die_the_first_time()


defs = dg.Definitions(
    jobs=[
        *map(_job, [say, draw, multiply, sleep, refuse_to_stop, die, leave_silently, fail]),
        many_processes_job,
        die_once_job,
    ]
)
