"""How well a line does in use: what people said, put against what was decided.

What is called NG is looked at by people, so its labels say how many false alarms there are. What is called OK is not:
there a random sample (by content, ``monitoring.AUDIT``) stands for the rest, if people judge it. Both together give the
recall. Only labels of that sample count for what was called OK: images that people chose to look at would bend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Select, case, func, select

from vad_lib.inspection_db.database import InspectionDatabase, chunks
from vad_lib.inspection_db.labels import labels_by_content
from vad_lib.inspection_db.monitoring import AUDIT
from vad_lib.inspection_db.recent_results import first_since
from vad_lib.inspection_db.schema import predictions
from vad_lib.json_record import JsonRecord
from vad_lib.metrics import interval

WEEKS = 12
JOINT = 0.95**0.5
"""Confidence of each of two intervals whose combination holds with 95 %."""


class Estimate(BaseModel):
    """A figure with its interval of 95 % and what it was counted on."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    n: str = Field(description="What was counted, in words.")

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


class FieldFigures(BaseModel):
    """What was decided and what people said, of some images of a line."""

    model_config = ConfigDict(frozen=True)

    called_ok: int = Field(ge=0, description="Images.")
    called_ng: int = Field(ge=0, description="Images.")
    judged_ng: int = Field(ge=0, description="Of those called NG, how many people judged.")
    false_alarms: int = Field(ge=0, description="Of those, how many are OK.")
    sampled: int = Field(ge=0, description="Of those called OK, how many are in the random sample.")
    judged_sample: int = Field(ge=0, description="Of the sample, how many people judged.")
    missed: int = Field(ge=0, description="Of those, how many are NG.")

    @property
    def precision(self) -> Estimate | None:
        """The share of what is called NG that is NG; None where nobody judged any."""
        if not self.judged_ng:
            return None
        right = self.judged_ng - self.false_alarms
        return Estimate(
            value=right / self.judged_ng,
            **_ends(*interval(right, self.judged_ng)),
            n=f"{self.judged_ng} of {self.called_ng} NG images judged",
        )

    @property
    def false_alarms_per_thousand(self) -> Estimate | None:
        """False alarms of 1,000 parts; None where nobody judged an image that was called NG."""
        if (precision := self.precision) is None:
            return None
        share = 1000 * self.called_ng / (self.called_ok + self.called_ng)
        ends = _ends(share * (1 - precision.high), share * (1 - precision.low))
        return Estimate(value=share * (1 - precision.value), **ends, n=precision.n)

    @property
    def recall(self) -> Estimate | None:
        """The share of all defects that is found; None where people judged no image of the sample.

        Found and missed defects are estimated apart, each with an interval of 97.5 %; the ends of both together hold
        with 95 % at least.
        """
        if not self.judged_sample or (self.called_ng and not self.judged_ng):
            return None
        right = self.judged_ng - self.false_alarms
        found_low, found_high = interval(right, self.judged_ng, JOINT) if self.judged_ng else (0.0, 0.0)
        missed_low, missed_high = interval(self.missed, self.judged_sample, JOINT)
        found = self.called_ng * (right / self.judged_ng if self.judged_ng else 0.0)
        missed = self.called_ok * self.missed / self.judged_sample
        if found + missed == 0:
            return None
        return Estimate(
            value=found / (found + missed),
            **_ends(
                _share(self.called_ng * found_low, self.called_ok * missed_high),
                _share(self.called_ng * found_high, self.called_ok * missed_low),
            ),
            n=f"{self.judged_ng} NG images and {self.judged_sample} of the random sample judged",
        )

    def why_no_recall(self) -> str:
        """Say what people have to judge before the recall is known."""
        if self.called_ng and not self.judged_ng:
            return "Recall is not known: nobody has judged an image that was called NG."
        if not self.judged_sample:
            return (
                "Recall is not known: nobody has judged an image of the random sample "
                f"({self.sampled} images that were called OK)."
            )
        return "Recall is not known: people have found no defect yet."

    def in_words(self) -> str:
        """Say it in sentences."""
        told = f"{self.called_ok + self.called_ng} images, {self.called_ng} of them NG."
        if (precision := self.precision) is not None and (alarms := self.false_alarms_per_thousand) is not None:
            told += (
                f" {precision.value:.1%} of what is called NG is defective (between {precision.low:.1%} and "
                f"{precision.high:.1%}; {precision.n}); of 1,000 parts {alarms.value:.3g} are false alarms "
                f"({alarms.low:.3g} to {alarms.high:.3g})."
            )
        elif self.called_ng:
            told += " Precision is not known: nobody has judged an image that was called NG."
        if (recall := self.recall) is not None:
            told += (
                f" {recall.value:.1%} of all defects are found (between {recall.low:.1%} and {recall.high:.1%}; "
                f"{recall.n})."
            )
        elif self.called_ok:
            told += f" {self.why_no_recall()}"
        return told


def _ends(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


def _share(found: float, missed: float) -> float:
    return found / (found + missed) if found + missed else 1.0


class KindFigures(BaseModel):
    """A kind of defect among the images that people judged. These were chosen by people: no rate follows from them."""

    model_config = ConfigDict(frozen=True)

    kind: str
    found: int = Field(ge=0, description="Called NG.")
    missed: int = Field(ge=0, description="Called OK.")


class FieldPerformance(JsonRecord):
    """The performance of a line in use."""

    line: str
    since: date
    whole: FieldFigures
    weeks: dict[str, FieldFigures] = Field(description="By Monday of the week.")
    versions: dict[str, FieldFigures] = Field(description="By label of the model version, the newest first.")
    kinds: tuple[KindFigures, ...]

    def table(self) -> pd.DataFrame:
        """Return one row for all, for each version and for each week, as text for people."""
        groups = {"all": self.whole, **self.versions, **{f"week of {week}": one for week, one in self.weeks.items()}}
        return pd.DataFrame(
            [
                {
                    "images": name,
                    "n": one.called_ok + one.called_ng,
                    "NG": one.called_ng,
                    "precision": str(one.precision or ""),
                    "recall": str(one.recall or ""),
                    "false alarms of 1,000": str(one.false_alarms_per_thousand or ""),
                    "judged": f"{one.judged_ng} NG, {one.judged_sample} of {one.sampled} sampled",
                }
                for name, one in groups.items()
            ]
        )

    def against(self, limits: Limits) -> tuple[list[str], list[str]]:
        """Return what breaks a limit for sure, and what cannot be told yet, in sentences."""
        asked = (
            ("Recall", self.whole.recall, limits.least_recall, limits.least_recall > 0, True),
            ("Precision", self.whole.precision, limits.least_precision, limits.least_precision > 0, True),
            (
                *("False alarms of 1,000 parts", self.whole.false_alarms_per_thousand),
                *(limits.most_false_alarms, limits.most_false_alarms < 1000, False),
            ),
        )
        broken, open_ = [], []
        for name, found, limit, is_asked, at_least in asked:
            if not is_asked:
                continue
            wanted = f"{'at least' if at_least else 'at most'} {limit:g}"
            if found is None:
                open_.append(f"{name}, {wanted}: not known. {self.whole.in_words()}")
            elif (found.high < limit) if at_least else (found.low > limit):
                broken.append(f"{name} is {found} ({found.n}), wanted {wanted}.")
            elif (found.low < limit) if at_least else (found.high > limit):
                open_.append(f"{name} is {found} ({found.n}): whether it is {wanted} cannot be told yet.")
        return broken, open_


@dataclass(frozen=True)
class Limits:
    """What the plan asks for; 0, 0 and 1000 ask for nothing."""

    least_recall: float = 0.0
    least_precision: float = 0.0
    most_false_alarms: float = 1000.0


def field_performance(db: InspectionDatabase, line: str, now: datetime, weeks: int = WEEKS) -> FieldPerformance:
    """Return how well a line does in use.

    Args:
        db: holds predictions and labels.
        line: its name.
        now: the end of the stretch that is looked at.
        weeks: its length; the week of ``now`` is the last one.
    """
    first = _monday(now.date()) - timedelta(weeks=weeks - 1)
    held, columns = labels_by_content(line), predictions.c
    with db.reading() as connection:
        starts = [
            first_since(
                connection, line, datetime.combine(first + timedelta(weeks=week), datetime.min.time(), now.tzinfo)
            )
            for week in range(weeks)
        ]
        chosen = (columns.line == line, columns.prediction_id >= starts[0])
        # where each week begins is known, so the week is found without a look at any time
        week = case(
            *((columns.prediction_id >= start, place) for place, start in reversed(list(enumerate(starts)))), else_=0
        )
        counted = (
            select(week, columns.model_version, columns.predicted, func.count(), func.max(columns.prediction_id))
            .where(*chosen)
            .group_by(week, columns.model_version, columns.predicted)
        )
        in_sample = (
            select(week, columns.model_version, func.count())
            .where(*chosen, columns.predicted == "OK", columns.sha256 < AUDIT)
            .group_by(week, columns.model_version)
        )
        counts = _table(connection, counted, "week", "version", "predicted", "n", "newest")
        sampled = _table(connection, in_sample, "week", "version", "sampled")
        # by content, which has an index: a join would look through all predictions for each label
        labelled = {row.sha256: row for row in connection.execute(select(held))}
        rows: list[tuple[Any, ...]] = []
        for part in chunks(sorted(labelled)):
            of_content = select(week, columns.model_version, columns.predicted, columns.sha256)
            for place, version, predicted, sha256 in connection.execute(
                of_content.where(*chosen, columns.sha256.in_(part))
            ):
                one = labelled[sha256]
                rows.append((place, version, predicted, sha256 < AUDIT, one.label, one.kind))
    said = pd.DataFrame(rows, columns=["week", "version", "predicted", "sampled", "label", "kind"])
    mondays = [(first + timedelta(weeks=week)).isoformat() for week in range(weeks)]
    for table in (counts, sampled, said):
        table["week"] = [mondays[int(place)] for place in table["week"]]
    said["sampled"] = said["sampled"].astype(bool)
    counts = counts.merge(sampled.assign(predicted="OK"), on=["week", "version", "predicted"], how="left")
    counts["sampled"] = counts["sampled"].fillna(0).astype(int)
    newest = counts.groupby("version")["newest"].max().sort_values(ascending=False)
    return FieldPerformance(
        line=line,
        since=first,
        whole=_figures(counts, said),
        weeks={week: _figures(*_of(week, "week", counts, said)) for week in sorted(counts["week"].unique())},
        versions={version: _figures(*_of(version, "version", counts, said)) for version in map(str, newest.index)},
        kinds=_kinds(said),
    )


def _table(connection: Connection, query: Select[Any], *names: str) -> pd.DataFrame:
    return pd.DataFrame([tuple(row) for row in connection.execute(query)], columns=list(names))


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _of(value: str, column: str, *tables: pd.DataFrame) -> list[pd.DataFrame]:
    return [table[table[column] == value] for table in tables]


def _figures(counts: pd.DataFrame, said: pd.DataFrame) -> FieldFigures:
    ok, ng = counts[counts["predicted"] == "OK"], counts[counts["predicted"] == "NG"]
    judged_ng = said[said["predicted"] == "NG"]
    sample = said[(said["predicted"] == "OK") & said["sampled"]]
    return FieldFigures(
        called_ok=int(ok["n"].sum()),
        called_ng=int(ng["n"].sum()),
        judged_ng=len(judged_ng),
        false_alarms=int((judged_ng["label"] == "OK").sum()),
        sampled=int(ok["sampled"].sum()),
        judged_sample=len(sample),
        missed=int((sample["label"] == "NG").sum()),
    )


def _kinds(said: pd.DataFrame) -> tuple[KindFigures, ...]:
    defects = said[(said["label"] == "NG") & said["kind"].notna()]
    found: Sequence[tuple[Any, pd.DataFrame]] = list(defects.groupby("kind"))
    rows = [
        KindFigures(
            kind=str(kind), found=int((rows["predicted"] == "NG").sum()), missed=int((rows["predicted"] == "OK").sum())
        )
        for kind, rows in found
    ]
    return tuple(sorted(rows, key=lambda row: (-row.found - row.missed, row.kind)))
