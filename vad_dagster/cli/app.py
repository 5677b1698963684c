"""The root of the command line: groups, and errors without stack traces."""

from __future__ import annotations

import signal
import threading
from typing import Any

import typer
from typer.core import TyperGroup

from vad_dagster.cli import (
    bench,
    commands,
    compare,
    database,
    describe,
    export,
    labels,
    lines,
    models,
    notify,
    performance,
    plans,
    results,
    serve,
    settings,
    weights,
)
from vad_dagster.cli.console import stderr
from vad_lib.errors import VadError
from vad_lib.settings import keep_private


class _ToldErrors(TyperGroup):
    """Errors raised on purpose are their message and exit code 1; anything else is a bug and keeps its trace."""

    def invoke(self, ctx: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            # make, timeout and service managers stop with SIGTERM: it means the same as Ctrl-C
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            keep_private()
            return super().invoke(ctx)
        except VadError as error:
            stderr.print(str(error), style="red", markup=False)
            ctx.exit(1)


app = typer.Typer(
    name="vad",
    cls=_ToldErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    help="Visual anomaly detection for inspection lines.\n\n"
    "A line is one camera's view of one product: [bold]vad line add[/bold], then [bold]vad train[/bold], then "
    "[bold]vad inspect[/bold]. Everything lies under $VAD_HOME (default: var beside the code); "
    "[bold]vad dev[/bold] opens the two UIs on it.",
)
app.add_typer(lines.app, name="line")
app.add_typer(models.app, name="model")
app.add_typer(plans.app, name="plan")
app.add_typer(weights.app, name="weights")
app.add_typer(database.app, name="db")
app.add_typer(labels.app, name="label")
app.add_typer(notify.app, name="notify")
app.add_typer(describe.app, name="describe")
app.add_typer(bench.app, name="bench")
app.command("train")(commands.train)
app.command("compare")(compare.compare)
app.command("inspect")(commands.inspect)
app.command("export")(export.export)
app.command("backend")(export.backend)
app.command("results")(results.results)
app.command("performance")(performance.performance)
app.command("dev")(commands.dev)
app.command("settings")(settings.settings)
app.command("serve")(serve.serve)
app.command("demo")(commands.demo)


if __name__ == "__main__":
    app()
