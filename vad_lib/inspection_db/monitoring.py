"""Where the charts of each line stand: advanced with the predictions that they count, and read for people."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import labels_by_content, labels_that_hold
from vad_lib.inspection_db.notices import record_notice
from vad_lib.inspection_db.schema import monitoring_state, predictions
from vad_lib.json_record import JsonRecord
from vad_lib.metrics import interval
from vad_lib.monitoring import CHARTS, ChartState, Monitor, Values

logger = logging.getLogger("vad.monitoring")
_STATE = [field.name for field in fields(ChartState)]

NOT_MEASURED = ("scale", "content")
"""What no chart can say: the estimator of the pose gives no scale, and no detector hands a vector of an image out."""
AUDIT = "05"
"""Contents whose sha256 comes before this are the random sample that people judge: one in 51."""


@dataclass(frozen=True)
class MissRate:
    """What people said about the random sample of images that were called OK.

    Attributes:
        sampled: OK images of the sample.
        judged: those of them that have a label.
        missed: those that are NG.
    """

    sampled: int
    judged: int
    missed: int

    def in_words(self) -> str:
        """Say it with its interval (Clopper and Pearson 1934, 95 %)."""
        if not self.judged:
            return f"not known: nobody has judged an image of the random sample ({self.sampled} images)"
        low, high = interval(self.missed, self.judged)
        return (
            f"{self.missed / self.judged:.1%} of what is called OK is NG, between {low:.1%} and {high:.1%} "
            f"({self.missed} of {self.judged} judged, of a random sample of {self.sampled})"
        )


class ChartOfReport(BaseModel):
    """One chart, for people."""

    model_config = ConfigDict(frozen=True)

    chart: str
    images: int = Field(description="That it has counted.")
    level: float = Field(description="Its state as a share of what is an alarm.")
    alarm: str = Field(description="The last one in words; empty where there was none.")
    raised_at: datetime | None
    ended_at: datetime | None = Field(description="Empty while the alarm stands.")


class DriftReport(JsonRecord):
    """Where the charts of a line stand, causes before what follows from them."""

    model_version: str
    images: int = Field(description="Images that this version has inspected while the line was watched.")
    charts: tuple[ChartOfReport, ...]
    misses: str = Field(description="What people said about the random sample, in words.")

    @property
    def alarms(self) -> list[str]:
        """Sentences of the alarms that stand."""
        return [chart.alarm for chart in self.charts if chart.raised_at and not chart.ended_at]

    def table(self) -> pd.DataFrame:
        """Return one row a chart; one that is not measured on this line says so."""
        found = {chart.chart: chart for chart in self.charts}
        return pd.DataFrame(
            [
                {
                    "chart": name,
                    "images": found[name].images if name in found else 0,
                    "level": round(found[name].level, 3) if name in found else None,
                    "last alarm": found[name].alarm if name in found else "not measured",
                    "ended": str(found[name].ended_at or "") if name in found else "",
                }
                for name in (*CHARTS, *NOT_MEASURED)
            ]
        )


def read_drift(db: InspectionDatabase, line: str) -> DriftReport:
    """Return where the charts of a line stand."""
    version, states = chart_states(db, line)
    charts = tuple(
        ChartOfReport(
            chart=name,
            images=state.images,
            level=state.level,
            alarm=state.alarm,
            raised_at=state.raised_at,
            ended_at=state.ended_at,
        )
        for name, state in states.items()
    )
    images = max((chart.images for chart in charts), default=0)
    misses = miss_rate(db, line, version).in_words()
    return DriftReport(model_version=version, images=images, charts=charts, misses=misses)


def count_images(
    connection: Connection,
    line: str,
    model_version: str,
    monitor: Monitor,
    observed: Sequence[Mapping[str, Values]],
    now: datetime,
) -> None:
    """Advance the charts of a line by some images, inside the transaction that records their predictions.

    The state belongs to the version that serves: images of another one begin anew. So do charts whose state cannot be
    read; that never keeps a result from being recorded.

    Args:
        connection: of a transaction of ``InspectionDatabase.writing`` that names the line.
        line: its name.
        model_version: that predicted them.
        monitor: of that version.
        observed: what the images add, in their order.
        now: when they are recorded.
    """
    here = monitoring_state.c.line == line
    rows = connection.execute(select(monitoring_state).where(here)).all()
    if any(row.model_version != model_version for row in rows):
        connection.execute(delete(monitoring_state).where(here))
        rows = []
    try:
        before = {row.chart: _state(row) for row in rows}
        states = dict(before)
        for each in observed:
            states = monitor.advance(states, each, now)
    except Exception:  # the results of the images do not depend on it
        logger.exception("the charts of a line cannot be advanced: they begin anew", extra={"line": line})
        connection.execute(delete(monitoring_state).where(here))
        return
    changed = {name: state for name, state in states.items() if state is not before.get(name)}
    for name, state in changed.items():
        _tell_of_alarm(connection, line, model_version, name, before.get(name), state, now)
    new = [
        {"line": line, "chart": name, "model_version": model_version, **_columns(state)}
        for name, state in changed.items()
        if name not in before
    ]
    old = [{"this": name, **_columns(state)} for name, state in changed.items() if name in before]
    if new:
        connection.execute(insert(monitoring_state), new)
    if old:
        this = here & (monitoring_state.c.chart == bindparam("this"))
        connection.execute(update(monitoring_state).where(this).values({n: bindparam(n) for n in _STATE}), old)


def _tell_of_alarm(
    connection: Connection,
    line: str,
    version: str,
    chart: str,
    before: ChartState | None,
    state: ChartState,
    now: datetime,
) -> None:
    """Write a notice where an alarm began or ended with this change."""
    if state.raised_at is None:
        return
    had = None if before is None else (before.raised_at, before.ended_at)
    if had == (state.raised_at, state.ended_at):
        return
    subject = f"{version} {chart} {state.raised_at}{' ended' if state.ended_at else ''}"
    text = f"This is over: {state.alarm}" if state.ended_at else state.alarm
    record_notice(connection, line, "drift", text, subject=subject, page=f"/lines/{line}", now=now)


def chart_states(db: InspectionDatabase, line: str) -> tuple[str, dict[str, ChartState]]:
    """Return the model version that is watched on a line, and its charts; ('', {}) where no image was counted yet."""
    with db.reading() as connection:
        rows = connection.execute(select(monitoring_state).where(monitoring_state.c.line == line)).all()
    found = {row.chart: _state(row) for row in rows}
    version = rows[0].model_version if rows else ""
    return version, {name: found[name] for name in CHARTS if name in found}


def standing_alarms(db: InspectionDatabase) -> dict[str, dict[str, str]]:
    """Return line -> chart -> sentence of the alarms that stand; causes come before what follows from them."""
    chosen = monitoring_state.c.raised_at.is_not(None), monitoring_state.c.ended_at.is_(None)
    with db.reading() as connection:
        rows = connection.execute(select(monitoring_state).where(*chosen).order_by(monitoring_state.c.line)).all()
    found: dict[str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: CHARTS.index(row.chart)):
        found.setdefault(row.line, {})[row.chart] = row.alarm
    return found


def drift_levels(db: InspectionDatabase) -> Sequence[Row[str, str, float]]:
    """Return line, chart and level of all charts."""
    columns = monitoring_state.c
    with db.reading() as connection:
        return connection.execute(select(columns.line, columns.chart, columns.level)).all()


def alarm_changes(db: InspectionDatabase) -> dict[str, str]:
    """Return line -> what its alarms are and were, as a text that changes when one begins or ends."""
    chosen = select(monitoring_state).where(monitoring_state.c.raised_at.is_not(None))
    with db.reading() as connection:
        rows = connection.execute(chosen.order_by(monitoring_state.c.line, monitoring_state.c.chart)).all()
    found: dict[str, str] = {}
    for row in rows:
        found[row.line] = f"{found.get(row.line, '')} {row.model_version} {row.chart} {row.raised_at} {row.ended_at}"
    return found


def miss_rate(db: InspectionDatabase, line: str, model_version: str) -> MissRate:
    """Estimate how many of the images that a version called OK are NG, from what people said of a random sample.

    The sample is by content (``AUDIT``), so what people chose to look at cannot bend it, if they judge all of it. Where
    only some of it is judged, the estimate holds for those that were.
    """
    columns = predictions.c
    with db.reading() as connection:
        chosen = (columns.line == line, columns.model_version == model_version, columns.predicted == "OK")
        count = select(func.count()).select_from(predictions).where(*chosen, columns.sha256 < AUDIT)
        sampled = connection.execute(count).scalar_one()
    held = labels_that_hold(db, line)
    held = held[(held["sha256"] < AUDIT) & (held["predicted"] == "OK") & (held["model_version"] == model_version)]
    return MissRate(int(sampled), len(held), int((held["label"] == "NG").sum()))


def to_audit(db: InspectionDatabase, line: str, count: int) -> list[Row[Any]]:
    """Return the newest predictions of the random sample of OK images that nobody has judged."""
    columns = predictions.c
    waiting = select(predictions).where(
        columns.line == line,
        columns.predicted == "OK",
        columns.sha256 < AUDIT,
        columns.sha256.not_in(select(labels_by_content(line).c.sha256)),
    )
    with db.reading() as connection:
        return list(connection.execute(waiting.order_by(columns.prediction_id.desc()).limit(count)).all())


def _columns(state: ChartState) -> dict[str, Any]:
    return vars(state) | {"numbers": json.dumps(state.numbers)}


def _state(row: Row[Any]) -> ChartState:
    return ChartState(**{name: getattr(row, name) for name in _STATE} | {"numbers": json.loads(row.numbers)})
