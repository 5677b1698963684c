"""Where the commands write: results to standard output, progress and errors to standard error."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def new_table(*columns: str, title: str = "") -> Table:
    """Return an empty table in the one style of all commands; a column beginning with '>' is aligned right."""
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold green",
        header_style="bold",
        show_edge=False,
        pad_edge=False,
    )
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table
