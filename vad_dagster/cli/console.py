"""Where the commands write: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vad_lib.errors import InputError
from vad_lib.progress import Progress

console = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def shown_progress(title: str) -> Iterator[Progress]:
    """Show progress beside a title on standard error, as long as the block runs."""
    with stderr.status(escape(title)) as status:
        yield lambda update: status.update(escape(f"{title}: {update}"))


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


def user_name() -> str:
    """Return the name of the user who runs the command.

    Raises:
        InputError: the system knows none.
    """
    try:
        return getpass.getuser()
    except OSError as error:
        raise InputError("The system knows no name of yours: say who you are with --person NAME.") from error
