"""What this process wanted to take back in the database, and could not: the disk was full, the server away.

Marks of ``begin`` and claims would else look as if an inspection had died: its images would wait until the claims have
run out, and be refused after some such failures. A process that dies owes nothing: then they say what happened. Debts
are kept with the database object that could not be written to, and are gone with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

from sqlalchemy import Connection

from vad_lib.inspection_db.database import InspectionDatabase

_owed: WeakKeyDictionary[InspectionDatabase, list[Callable[[Connection], None]]] = WeakKeyDictionary()
_lock = threading.Lock()


def write_or_owe(db: InspectionDatabase, act: Callable[[Connection], None]) -> None:
    """Do something in a transaction; if that fails, remember it and raise."""
    try:
        with db.writing() as connection:
            act(connection)
    except BaseException:
        with _lock:
            _owed.setdefault(db, []).append(act)
        raise


def settle_owed(db: InspectionDatabase) -> None:
    """Do what could not be done before. Call it before looking at what is to be inspected."""
    with _lock:
        acts = _owed.get(db)
        if not acts:
            return
        with db.writing() as connection:
            for act in acts:
                act(connection)
        del _owed[db]
