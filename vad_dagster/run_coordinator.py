"""Where no daemon works the queue of runs, a run that is submitted starts at once."""

from __future__ import annotations

import dagster as dg


class ImmediateRunCoordinator(dg.QueuedRunCoordinator):
    """Launches a run instead of putting it into the queue; ``vad train`` and ``vad inspect`` submit through it."""

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        self._instance.launch_run(context.dagster_run.run_id, context.workspace)
        return self._instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
