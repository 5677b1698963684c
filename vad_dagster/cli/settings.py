"""``vad settings``: every environment variable that the system reads."""

from __future__ import annotations

from rich.markup import escape

from vad_dagster.cli.console import console


def settings() -> None:
    """Print every environment variable that is read: its value, where that came from, its default and its meaning."""
    from vad_lib.settings import described

    for one in described():
        origin = "" if one.source == "default" else f"   (default: {one.default})"
        console.print(f"[bold]{one.name}[/bold] = {escape(one.value)}   from the {one.source}{escape(origin)}")
        console.print(f"    {escape(one.meaning)} It is {escape(one.kind)}.")
