"""Is an inspection database whole, and do its rows keep the laws that the lanes rely on?

Each law is one query for rows that break it. They hold after every transaction, so they may be asked at any time, also
while lanes are at work.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, exists, func, not_, or_, select, text
from sqlalchemy.exc import DatabaseError

from vad_lib.inspection_db.schema import (
    CLOSED,
    DONE,
    PENDING,
    REFUSED,
    batches,
    images,
    kept_aside,
    landings,
    predictions,
)
from vad_lib.inspection_db.upgrading import HEAD, revision_of

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
                    (f"they are of {found or 'a time before revisions'}, not {HEAD}: run `vad db upgrade`",),
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
    from vad_lib.scorer.tables import fast_batches

    content = (predictions.c.line, predictions.c.sha256, predictions.c.model_version)
    file = (landings.c.line, landings.c.path, landings.c.size, landings.c.mtime_ns)
    landing = (landings.c.seq, landings.c.line, landings.c.path)
    decided: ColumnElement[bool] = landings.c.state.in_((DONE, REFUSED))
    return {
        "An image content has one prediction of each model version.": (
            select(*content, func.count().label("predictions")).group_by(*content).having(func.count() > 1)
        ),
        "A version of a landed file is in one state.": (
            select(*file, func.count().label("rows")).group_by(*file).having(func.count() > 1)
        ),
        "A landing is decided if and only if it says when.": select(*landing).where(
            decided != landings.c.decided_at.is_not(None)
        ),
        "A landing that is done has a prediction.": select(*landing).where(
            landings.c.state == DONE,
            not_(
                exists().where(predictions.c.line == landings.c.line, predictions.c.sha256 == landings.c.sha256),
            ),
        ),
        "A landing that is refused has a reason.": select(*landing).where(
            landings.c.state == REFUSED, or_(landings.c.reason.is_(None), landings.c.rule.is_(None))
        ),
        "A landing that is pending is in a batch of its line that is open, or in a scorer's hands.": (
            select(*landing)
            .outerjoin(batches, batches.c.batch_id == landings.c.batch_id)
            .outerjoin(fast_batches, fast_batches.c.batch_id == landings.c.batch_id)
            .where(
                landings.c.state == PENDING,
                or_(
                    batches.c.batch_id.is_(None),
                    batches.c.line != landings.c.line,
                    and_(batches.c.state == CLOSED, fast_batches.c.batch_id.is_(None)),
                ),
            )
        ),
        "NG if and only if p reaches the inference threshold.": select(predictions.c.prediction_id).where(
            (predictions.c.predicted == "NG") != (predictions.c.p >= predictions.c.inference_threshold)
        ),
        "What has a prediction is an image that was read.": select(predictions.c.prediction_id).where(
            not_(exists().where(images.c.line == predictions.c.line, images.c.sha256 == predictions.c.sha256))
        ),
        "What landed and is kept aside is refused.": (
            select(kept_aside.c.kept_id, *landing)
            .join(
                landings,
                and_(
                    landings.c.line == kept_aside.c.line,
                    landings.c.path == kept_aside.c.path,
                    landings.c.size == kept_aside.c.size,
                    landings.c.mtime_ns == kept_aside.c.mtime_ns,
                ),
            )
            .where(landings.c.state != REFUSED)
        ),
    }
