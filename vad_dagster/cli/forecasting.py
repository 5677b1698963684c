"""``vad train NAME --dry-run``: what a training will take, without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from vad_dagster.cli.console import console, new_table, shown_progress
from vad_lib.lines import Home, Line


def forecast_line(line: Line, run_config: Mapping[str, Any]) -> None:
    """Check the data, probe for a few seconds, and print the forecast. Nothing is written, and nothing is started.

    Args:
        line: with a plan.
        run_config: of the job train_line, as the launchpad would hold it.

    Raises:
        TooLargeError: the training cannot fit; what would is in the message, and the forecast was printed before.
        VadError: whatever would stop the training itself.
    """
    from vad_dagster.configuration import plan_of_run
    from vad_dagster.plans import plan_of, rows_of_next_training
    from vad_lib.forecast import forecast_training, require_fit
    from vad_lib.training import require_usable

    plan = plan_of_run(plan_of(line), run_config)
    require_usable(plan.train)
    with shown_progress(f"dry run {line.name}") as show:
        dataset = rows_of_next_training(line, plan, show)
    with shown_progress(f"dry run {line.name}: probing"):
        forecast = forecast_training(
            dataset,
            plan.train,
            weights_store=Home.from_environment().weights_folder,
            results=line.folder,
            timeout_hours=plan.operation.training_timeout_hours,
        )
    shown = new_table("what", "forecast", title=f"Training of {line.name}, forecast in {forecast.probe_seconds:.1f} s")
    for what, value in forecast.rows():
        shown.add_row(escape(what), escape(value))
    console.print(shown)
    for finding in dataset.findings:
        if finding.severity == "error":
            console.print(f"not met, and goes on: {finding.message} {finding.advice}", markup=False)
    for warning in forecast.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    require_fit(forecast)
    console.print(f"Nothing was written. To train: vad train {line.name}", markup=False)
