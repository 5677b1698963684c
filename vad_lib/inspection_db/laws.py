"""Is an inspection database whole, and do its rows keep the laws that the workers rely on?

Each law is one query for rows that break it. They hold after every transaction, so they may be asked at any time, also
while workers are at work.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Select, exists, func, not_, or_, select, text
from sqlalchemy.exc import DatabaseError

from vad_lib.inspection_db.revision import HEAD, revision_of
from vad_lib.inspection_db.schema import (
    DONE,
    PENDING,
    REFUSED,
    images,
    incoming_files,
    notifications,
    predictions,
)

EXAMPLES = 3


@dataclass(frozen=True)
class Fault:
    """A law that does not hold: how many rows break it, and some of them in words."""

    law: str
    rows: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.law} Broken by {self.rows}: {'; '.join(self.examples)}"


def check_database(engine: Engine) -> list[Fault]:
    """Return everything that is wrong, without changing anything; empty where all is well.

    SQLite looks through all of its pages and all references. The laws are asked only of tables of this revision.
    """
    try:
        return _look(engine)
    except DatabaseError as error:
        return [Fault("The database can be read.", 1, (str(error.orig),))]


def _look(engine: Engine) -> list[Fault]:
    with engine.execution_options(vad_readonly=True).connect() as connection:
        faults = _file_faults(connection) if connection.dialect.name == "sqlite" else []
        if faults:
            return faults
        found = revision_of(connection)
        if found != HEAD:
            faults.append(
                Fault(
                    "The tables are those of the newest revision.",
                    1,
                    (f"they are of {found or 'no revision'}, not {HEAD}: see `vad db upgrade`",),
                )
            )
            return faults
        for law, broken in _laws().items():
            rows = connection.execute(broken.limit(EXAMPLES)).all()
            if rows:
                counted = connection.execute(select(func.count()).select_from(broken.subquery())).scalar_one()
                named = tuple(", ".join(f"{key} {value}" for key, value in row._mapping.items()) for row in rows)
                faults.append(Fault(law, counted, named))
    return faults


def _file_faults(connection: Connection) -> list[Fault]:
    faults = []
    answers = [row[0] for row in connection.execute(text("PRAGMA integrity_check"))]
    if answers != ["ok"]:
        # nothing that a damaged file says about its rows would be worth anything
        return [Fault("The file is not damaged (SQLite's integrity check).", len(answers), tuple(answers[:EXAMPLES]))]
    broken = connection.execute(text("PRAGMA foreign_key_check")).all()
    if broken:
        named = tuple(f"{row[0]} row {row[1]} refers to {row[2]}" for row in broken[:EXAMPLES])
        faults.append(Fault("Every reference leads to a row.", len(broken), named))
    return faults


def _laws() -> dict[str, Select[tuple[object, ...]]]:
    """Return law -> query for rows that break it."""
    content = (predictions.c.line, predictions.c.sha256, predictions.c.model_version)
    files = incoming_files.c
    version = (files.line, files.path, files.size, files.mtime_ns, files.inode, files.ctime_ns)
    file = (files.file_id, files.line, files.path)
    return {
        "An image content has one prediction of each model version.": (
            select(*content, func.count().label("predictions")).group_by(*content).having(func.count() > 1)
        ),
        "A version of an incoming file is in one state.": (
            select(*version, func.count().label("rows")).group_by(*version).having(func.count() > 1)
        ),
        "A file is decided if and only if it says when.": select(*file).where(
            (files.state != PENDING) != files.decided_at.is_not(None)
        ),
        "A file that is done has a prediction.": select(*file).where(
            files.state == DONE,
            not_(exists().where(predictions.c.line == files.line, predictions.c.sha256 == files.sha256)),
        ),
        "A file that is refused has a reason.": select(*file).where(
            files.state == REFUSED, or_(files.reason.is_(None), files.rule.is_(None))
        ),
        "Only what is pending is leased, and a lease has an end.": select(*file).where(
            files.leased_by.is_not(None), or_(files.state != PENDING, files.leased_until.is_(None))
        ),
        "NG if and only if p reaches the inference threshold.": select(predictions.c.prediction_id).where(
            (predictions.c.predicted == "NG") != (predictions.c.p >= predictions.c.inference_threshold)
        ),
        "What has a prediction is an image that was read.": select(predictions.c.prediction_id).where(
            not_(exists().where(images.c.line == predictions.c.line, images.c.sha256 == predictions.c.sha256))
        ),
        "What is notified is decided.": select(notifications.c.file_id, notifications.c.sink)
        .join(incoming_files, files.file_id == notifications.c.file_id)
        .where(files.state == PENDING),
    }
