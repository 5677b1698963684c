"""``vad notify …``: who is told what happens, and whether a message arrives."""

from __future__ import annotations

from typing import Annotated

import typer

from vad_dagster.cli.console import console, new_table
from vad_lib.errors import InputError, VadError

app = typer.Typer(no_args_is_help=True, help="Who is told what happens on lines: list, test.")


@app.command("list")
def list_() -> None:
    """Show the rules of all lines, and how far each receiver was told. Addresses are never shown."""
    from vad_dagster.plans import plan_of
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.notices import told_counts
    from vad_lib.lines import Home
    from vad_lib.notice_rules import NoticeRule, addresses

    known = addresses()
    states = {(line, name): rest for line, name, *rest in told_counts(InspectionDatabase.from_environment())}
    table = new_table("line", "receiver", "events", ">every, minutes", "state")
    for line in Home.from_environment().lines():
        for text in plan_of(line).operation.notify:
            rule = NoticeRule.parsed(text)
            given_up, attempts, fails = states.get((line.name, rule.receiver), (0, 0, False))
            state = f"{attempts} attempts failed" if fails else "works"
            if rule.receiver not in known:
                state = "VAD_NOTIFY has no address of it"
            if given_up:
                state += f", {given_up} notices were given up"
            table.add_row(line.name, rule.receiver, ", ".join(sorted(rule.events)), str(rule.digest_minutes), state)
    console.print(table)
    console.print(f"Receivers in VAD_NOTIFY: {', '.join(sorted(known)) or 'none'}", markup=False)


@app.command("test")
def send_test(
    receiver: Annotated[str, typer.Argument(help="A name of VAD_NOTIFY. Default: all of them.")] = "",
) -> None:
    """Send a message now, and say whether it was taken."""
    from vad_lib.notice_rules import addresses
    from vad_lib.serving.messenger import send_message

    known = addresses()
    if not known or (receiver and receiver not in known):
        there = f"There are: {', '.join(sorted(known))}." if known else "VAD_NOTIFY names nobody."
        raise InputError(f"There is no receiver {receiver!r}. {there}" if receiver else there)
    failed = []
    for name in [receiver] if receiver else sorted(known):
        error = send_message(name, "vad: a test", "Messages about your lines will come like this one.")
        console.print(f"{name}: {error or 'the message was taken'}", markup=False)
        if error:
            failed.append(name)
    if failed:
        raise VadError(f"Not told: {', '.join(failed)}.")
