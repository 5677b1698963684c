"""How long a run takes to start: in a new process (plain), and forked from a warm one.

Measured from the call of ``launch_run`` until the first step starts, and until the step has what it needs (for an
inspection: torch, anomalib and MLflow). Real code server, real instance on SQLite; the two ways take turns. The launch
that has to start the fork server is shown by itself.

    python benchmarks/run_start.py [--runs 10]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget

JOBS = Path(__file__).with_name("run_start_jobs.py")
LAUNCHERS = {
    "plain": {"module": "vad_dagster.run_launcher", "class": "LocalRunLauncher"},
    "warm": {
        "module": "vad_dagster.warm_runs.launcher",
        "class": "WarmRunLauncher",
        "config": {"start_from": "anything", "start_seconds": 300.0, "grace_seconds": 5.0},
    },
}


@contextmanager
def place(launcher: str) -> Iterator[WorkspaceProcessContext]:
    """An instance with this launcher, and a code server."""
    with tempfile.TemporaryDirectory(prefix="run-start-", ignore_cleanup_errors=True) as home:
        settings = {"telemetry": {"enabled": False}, "run_launcher": LAUNCHERS[launcher]}
        (Path(home) / "dagster.yaml").write_text(json.dumps(settings))
        target = PythonFileTarget(str(JOBS), None, None, None)
        with dg.DagsterInstance.from_config(home) as instance, WorkspaceProcessContext(instance, target) as workspace:
            yield workspace


def start(workspace: WorkspaceProcessContext, job_name: str) -> tuple[float, float]:
    """Launch a run; return seconds to the start of its first step, and to the step's own first line."""
    context = workspace.create_request_context()
    location = context.code_locations[0]
    job = next(iter(location.get_repositories().values())).get_full_job(job_name)
    instance = workspace.instance
    plan = location.get_execution_plan(job, {}, None, None)
    run = instance.create_run(
        job_name=job_name,
        run_id=None,
        run_config={},
        status=dg.DagsterRunStatus.NOT_STARTED,
        tags={},
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        execution_plan_snapshot=plan.execution_plan_snapshot,
        job_snapshot=job.job_snapshot,
        parent_job_snapshot=None,
        asset_selection=None,
        asset_check_selection=None,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=job.get_remote_origin(),
        job_code_origin=job.get_python_origin(),
        asset_graph=location.get_repositories()["__repository__"].asset_graph,
    )
    begun = time.time()
    instance.launch_run(run.run_id, context)
    while not (found := instance.get_run_by_id(run.run_id)) or not found.is_finished:
        time.sleep(0.05)
    if found.status != dg.DagsterRunStatus.SUCCESS:
        raise SystemExit(f"{job_name} ended as {found.status}: {instance.all_logs(run.run_id)[-1].message}")
    logs = instance.all_logs(run.run_id)
    step = next(x for x in logs if x.is_dagster_event and x.get_dagster_event().event_type_value == "STEP_START")
    line = next(x for x in logs if x.user_message == "in the step")
    time.sleep(0.5)  # what ends the process should not slow the next one
    return step.timestamp - begun, line.timestamp - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each kind")
    runs = parser.parse_args().runs
    seconds: dict[tuple[str, str, str], list[float]] = {}
    with place("plain") as plain, place("warm") as warm:
        first = start(warm, "needs_nothing")[0]
        start(plain, "needs_nothing")
        for _ in range(runs):
            for job in ("needs_nothing", "needs_a_detector"):
                for name, workspace in (("plain", plain), ("warm", warm)):
                    step, line = start(workspace, job)
                    seconds.setdefault((job, "step starts", name), []).append(step)
                    seconds.setdefault((job, "step has its imports", name), []).append(line)
    load = os.getloadavg()[0]
    print(f"{runs} runs of each kind, {os.cpu_count()} cores, load {load:.1f}; seconds from launch_run")
    print(f"{'job':<18} {'until':<22} {'plain p50':>9} {'max':>6} {'warm p50':>9} {'max':>6} {'ratio':>6}")
    for job, until in dict.fromkeys(key[:2] for key in seconds):
        old, new = seconds[job, until, "plain"], seconds[job, until, "warm"]
        middle = statistics.median(old), statistics.median(new)
        print(
            f"{job:<18} {until:<22} {middle[0]:>9.2f} {max(old):>6.2f} {middle[1]:>9.2f} {max(new):>6.2f} "
            f"{middle[0] / middle[1]:>5.1f}x"
        )
    print(f"the launch that started the fork server: {first:.1f} s until the step started")


if __name__ == "__main__":
    main()
