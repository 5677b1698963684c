"""What happened on a line within some hours, as data for a model that words them: a fixed set of queries, no others.

A model asks the database nothing. Whatever the question is, these data are handed in, and figures in the answer that
are not among them are marked (``vad_lib.words.figures``). All times are UTC.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, desc, extract, func, select

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import count_agreement
from vad_lib.inspection_db.recent_results import first_since
from vad_lib.inspection_db.schema import (
    DONE,
    REFUSED,
    description_corrections,
    descriptions,
    incoming_files,
    is_not_superseded,
    predictions,
)
from vad_lib.queue.latency import latencies
from vad_lib.words.answer import plain_text

MOST_HOURS = 48
"""The longest stretch that can be asked about."""
WEEK = timedelta(days=7)
NEWEST_NG = 8
MOST_KINDS, MOST_REASONS, MOST_VERSIONS = 20, 5, 5
MOST_DESCRIPTIONS = 5000
"""The newest descriptions of a stretch whose kinds are counted."""


def day_facts(db: InspectionDatabase, line: str, until: datetime, hours: int) -> dict[str, Any]:
    """Return what happened on a line, JSON-ready.

    Args:
        db: the inspection database.
        line: its name.
        until: the end of the stretch, aware.
        hours: its length, 1 to ``MOST_HOURS``.
    """
    since = until - timedelta(hours=hours)
    with db.reading() as connection:
        asked = Stretch.of(connection, line, since, until)
        week = Stretch.of(connection, line, since - WEEK, since)
        kinds = _kinds(connection, asked)
        before = _kinds(connection, week)
        facts = {
            "line": line,
            "from": _moment(since),
            "until": _moment(until),
            "hours": hours,
            "time_zone": "UTC",
            "images": _counts(connection, asked),
            "images_in_the_week_before": _counts(connection, week),
            "by_hour": _by_hour(connection, asked),
            "reasons_of_refused_files": _reasons(connection, asked),
            "kinds_of_defect_as_described": [
                {"kind": kind, "findings": count, "findings_in_the_week_before": before[kind], "new": not before[kind]}
                for kind, count in kinds.most_common(MOST_KINDS)
            ],
            "new_kinds": sorted(set(kinds) - set(before))[:MOST_KINDS],
            "number_of_new_kinds": len(set(kinds) - set(before)),
            "descriptions": _descriptions(connection, asked),
            "newest_NG": _newest_ng(connection, asked),
            "labels_of_people": _labels(connection, asked),
            "model_versions": _versions(connection, asked),
        }
    return facts | {"seconds_from_arrival_to_result": _latency(db, line, hours)}


class Stretch(NamedTuple):
    """A stretch of time on a line."""

    line: str
    since: datetime
    until: datetime
    first_id: int
    """The first prediction in it: they are numbered in order of time, and found by number quickly."""

    @classmethod
    def of(cls, connection: Connection, line: str, since: datetime, until: datetime) -> Stretch:
        """Find where it begins among the predictions."""
        return cls(line, since, until, first_since(connection, line, since))

    @property
    def predicted(self) -> ColumnElement[bool]:
        """That a prediction was made in it."""
        columns = predictions.c
        return and_(
            columns.line == self.line,
            columns.prediction_id >= self.first_id,
            *(columns.created_at >= self.since, columns.created_at < self.until),
        )

    @property
    def refused(self) -> ColumnElement[bool]:
        """That a file was refused in it."""
        files = incoming_files.c
        return and_(
            *(files.line == self.line, files.state == REFUSED, is_not_superseded(files.rule)),
            *(files.decided_at >= self.since, files.decided_at < self.until),
        )


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def _sum(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _counts(connection: Connection, asked: Stretch) -> dict[str, Any]:
    ok, ng = connection.execute(
        select(_sum(predictions.c.predicted == "OK"), _sum(predictions.c.predicted == "NG")).where(asked.predicted)
    ).one()
    refused = connection.execute(select(func.count()).select_from(incoming_files).where(asked.refused)).scalar_one()
    return {
        "predictions": int(ok) + int(ng),
        "OK": int(ok),
        "NG": int(ng),
        "NG_percent": _percent(int(ng), int(ok) + int(ng)),
        "refused_files": int(refused),
    }


def _by_hour(connection: Connection, asked: Stretch) -> list[dict[str, Any]]:
    """Return counts of each hour of the clock in which something happened; the first and the last may be cut."""
    found: dict[datetime, dict[str, int]] = {}
    for column, group, chosen in (
        (predictions.c.created_at, predictions.c.predicted, asked.predicted),
        (incoming_files.c.decided_at, incoming_files.c.state, asked.refused),
    ):
        parts = [extract(part, column) for part in ("year", "month", "day", "hour")]
        for *hour, name, count in connection.execute(
            select(*parts, group, func.count()).where(chosen).group_by(*parts, group)
        ):
            begin = datetime(*(int(part) for part in hour))  # type: ignore[arg-type]
            found.setdefault(begin, {"OK": 0, "NG": 0, REFUSED: 0})[name] = int(count)
    return [{"hour_from": _moment(begin), **counts} for begin, counts in sorted(found.items())]


def _reasons(connection: Connection, asked: Stretch) -> list[dict[str, Any]]:
    count = func.count()
    rows = connection.execute(
        select(incoming_files.c.rule, count)
        .where(asked.refused)
        .group_by(incoming_files.c.rule)
        .order_by(desc(count), incoming_files.c.rule)
        .limit(MOST_REASONS)
    )
    return [{"reason": rule, "files": int(number)} for rule, number in rows]


def _kinds(connection: Connection, asked: Stretch) -> Counter[str]:
    """Return in how many findings each kind of defect was described; corrections of people go before answers."""
    last = (
        select(
            description_corrections.c.description_id, func.max(description_corrections.c.correction_id).label("last")
        )
        .where(description_corrections.c.line == asked.line)
        .group_by(description_corrections.c.description_id)
        .subquery()
    )
    rows = connection.execute(
        select(func.coalesce(description_corrections.c.answer, descriptions.c.answer))
        .select_from(descriptions)
        .join(predictions, predictions.c.prediction_id == descriptions.c.prediction_id)
        .outerjoin(last, last.c.description_id == descriptions.c.description_id)
        .outerjoin(description_corrections, description_corrections.c.correction_id == last.c.last)
        .where(descriptions.c.state == DONE, descriptions.c.answer.is_not(None), asked.predicted)
        .order_by(desc(descriptions.c.description_id))
        .limit(MOST_DESCRIPTIONS)
    )
    counted: Counter[str] = Counter()
    for (answer,) in rows:
        counted.update({region["kind"].lower() for region in json.loads(answer)["regions"]})
    return counted


def _descriptions(connection: Connection, asked: Stretch) -> dict[str, int]:
    done, disagree = connection.execute(
        select(_sum(descriptions.c.state == DONE), _sum(descriptions.c.agrees.is_(False)))
        .select_from(descriptions)
        .join(predictions, predictions.c.prediction_id == descriptions.c.prediction_id)
        .where(asked.predicted)
    ).one()
    return {"written": int(done), "disagree_with_the_detector": int(disagree)}


def _newest_ng(connection: Connection, asked: Stretch) -> list[dict[str, Any]]:
    others = descriptions.alias()
    newest = (
        select(func.max(others.c.description_id))
        .where(others.c.prediction_id == predictions.c.prediction_id, others.c.state == DONE)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(predictions.c.path, predictions.c.p, predictions.c.created_at, descriptions.c.summary)
        .select_from(predictions)
        .outerjoin(descriptions, descriptions.c.description_id == newest)
        .where(asked.predicted, predictions.c.predicted == "NG")
        .order_by(desc(predictions.c.prediction_id))
        .limit(NEWEST_NG)
    )
    return [
        {
            "image": plain_text(Path(path).name, 100),
            "time": _moment(moment),
            "p": round(float(p), 3),
            **({"described_as": summary} if summary else {}),
        }
        for path, p, moment, summary in rows
    ]


def _labels(connection: Connection, asked: Stretch) -> dict[str, Any]:
    """Return how predictions of the stretch compare with the labels that hold on their images."""
    found = count_agreement(connection, asked.line, asked.predicted)
    return {
        "predictions_with_a_label": found.judged,
        "agree": found.agree,
        "missed": found.missed,
        "false_alarms": found.false_alarms,
        "agree_percent": _percent(found.agree, found.judged),
    }


def _versions(connection: Connection, asked: Stretch) -> list[dict[str, Any]]:
    columns = predictions.c
    rows = connection.execute(
        select(columns.model_version, func.count(), func.min(columns.created_at), func.max(columns.created_at))
        .where(asked.predicted)
        .group_by(columns.model_version)
        .order_by(desc(func.max(columns.prediction_id)))
        .limit(MOST_VERSIONS)
    )
    return [
        {"model_version": version, "predictions": int(count), "first": _moment(first), "last": _moment(last)}
        for version, count, first, last in rows
    ]


def _latency(db: InspectionDatabase, line: str, hours: int) -> dict[str, Any] | None:
    """Return how long images waited for a service; None where none has worked on the line."""
    found = latencies(db, [line], window=timedelta(hours=hours)).get(line)
    if found is None:
        return None
    return {
        "images": found.images,
        "half_within": _seconds(found.p50),
        "95_of_100_within": _seconds(found.p95),
        "longest": _seconds(found.worst),
        "images_that_wait_now": found.waiting,
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
