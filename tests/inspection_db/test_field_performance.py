"""How well a line does in use: what is counted, what is estimated and how surely, and what cannot be told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.field_performance import FieldFigures, Limits, field_performance
from vad_lib.inspection_db.labels import record_label
from vad_lib.inspection_db.schema import predictions

NOW = datetime(2026, 3, 18, 12, tzinfo=UTC)
"""A Wednesday."""


def predict(
    db: InspectionDatabase, number: int, predicted: str, *, sampled: bool = False, days_ago: float = 0, version: int = 1
) -> int:
    """Record a prediction of an image that is in the random sample or not, and return its number."""
    row = {
        "line": "caps",
        "sha256": f"{'00' if sampled else 'ff'}{number:062x}",
        "model_version": f"vad-caps/{version}",
        "path": f"/{number}.png",
        **{"raw_score": 1.0, "p": 0.9 if predicted == "NG" else 0.1, "certainty": 0.5, "predicted": predicted},
        **{"threshold": 0.5, "threshold_version": "t", "inference_threshold": 0.5, "source": "online"},
        "created_at": NOW - timedelta(days=days_ago),
    }
    with db.writing() as connection:
        return int(
            connection.execute(insert(predictions).values(row).returning(predictions.c.prediction_id)).scalar_one()
        )


@pytest.fixture
def db(inspection_url: str) -> InspectionDatabase:
    return InspectionDatabase(inspection_url)


def test_figures_are_counted_by_week_version_and_kind_from_labels_that_hold(db: InspectionDatabase) -> None:
    kim = Actor("Kim")
    record_label(db, predict(db, 8, "NG", days_ago=120), "NG", by=kim)  # before the stretch
    record_label(db, predict(db, 1, "NG", days_ago=7, version=1), "NG", by=kim, kind="crack")
    record_label(db, predict(db, 2, "NG", version=2), "OK", by=kim)
    predict(db, 3, "NG", version=2)
    record_label(db, predict(db, 4, "OK", sampled=True, version=2), "OK", by=kim)
    missed = predict(db, 5, "OK", sampled=True, version=2)
    record_label(db, missed, "OK", by=kim)
    record_label(db, missed, "NG", by=kim, kind="crack")
    record_label(
        db, predict(db, 6, "OK", version=2), "NG", by=kim, kind="dent"
    )  # chosen by a person: bends no estimate
    predict(db, 7, "OK", sampled=True, version=2)
    found = field_performance(db, "caps", NOW)
    assert found.whole == FieldFigures(
        called_ok=4, called_ng=3, judged_ng=2, false_alarms=1, sampled=3, judged_sample=2, missed=1
    )
    assert list(found.weeks) == ["2026-03-09", "2026-03-16"]
    assert found.weeks["2026-03-09"].called_ng == 1
    assert list(found.versions) == ["vad-caps/2", "vad-caps/1"]
    assert found.versions["vad-caps/2"].false_alarms == 1
    assert [(kind.kind, kind.found, kind.missed) for kind in found.kinds] == [("crack", 1, 1), ("dent", 0, 1)]
    assert len(found.table()) == 5
    assert field_performance(db, "other", NOW).whole.in_words() == "0 images, 0 of them NG."


def test_what_nobody_judged_is_not_known_and_never_none_or_all(db: InspectionDatabase) -> None:
    predict(db, 1, "NG")
    predict(db, 2, "OK", sampled=True)
    whole = field_performance(db, "caps", NOW).whole
    assert (whole.precision, whole.recall, whole.false_alarms_per_thousand) == (None, None, None)
    assert "nobody has judged an image that was called NG" in whole.in_words()
    record_label(db, 1, "NG", by=Actor("Kim"))
    whole = field_performance(db, "caps", NOW).whole
    assert whole.recall is None
    assert "nobody has judged an image of the random sample (1 images" in whole.in_words()


def test_a_limit_is_broken_only_where_the_interval_says_so() -> None:
    few = FieldFigures(
        called_ok=950, called_ng=50, judged_ng=10, false_alarms=4, sampled=20, judged_sample=20, missed=0
    )
    many = few.model_copy(update={"judged_ng": 50, "false_alarms": 40})

    def against(one: FieldFigures, **limits: float) -> tuple[int, int]:
        from vad_lib.inspection_db.field_performance import FieldPerformance

        made = FieldPerformance(line="caps", since=NOW.date(), whole=one, weeks={}, versions={}, kinds=())
        broken, open_ = made.against(Limits(**limits))
        return len(broken), len(open_)

    assert against(few) == (0, 0)
    assert against(few, least_precision=0.8) == (0, 1)
    assert against(many, least_precision=0.8) == (1, 0)
    assert against(many, most_false_alarms=10) == (1, 0)
    assert against(few, least_recall=0.9) == (0, 1)
    assert against(few.model_copy(update={"judged_sample": 0}), least_recall=0.9) == (0, 1)


COUNTS = st.integers(0, 40)


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_every_figure_lies_within_its_interval(a: int, b: int, c: int, d: int, e: int, f: int) -> None:
    figures = FieldFigures(
        called_ok=a + e + f, called_ng=b + c + d, judged_ng=c + d, false_alarms=d, sampled=e + f, judged_sample=e + f,
        missed=f,
    )  # fmt: skip
    for one in (figures.precision, figures.recall, figures.false_alarms_per_thousand):
        if one is not None:
            assert 0 <= one.low <= one.value + 1e-9
            assert one.value <= one.high + 1e-9
    assert figures.in_words().endswith(".")


def test_the_interval_of_the_recall_holds_the_true_one_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    images, defects, recall, false_alarm, repeats = 5000, 0.04, 0.85, 0.02, 400
    kept = 0
    for _ in range(repeats):
        is_defect = rng.random(images) < defects
        ng = np.where(is_defect, rng.random(images) < recall, rng.random(images) < false_alarm)
        judged_ng, sample = ng & (rng.random(images) < 0.5), ~ng & (rng.random(images) < 1 / 20)
        found = FieldFigures(
            called_ok=int((~ng).sum()), called_ng=int(ng.sum()), judged_ng=int(judged_ng.sum()),
            false_alarms=int((judged_ng & ~is_defect).sum()), sampled=int(sample.sum()),
            judged_sample=int(sample.sum()), missed=int((sample & is_defect).sum()),
        ).recall  # fmt: skip
        assert found is not None
        kept += found.low <= recall <= found.high
    assert kept / repeats >= 0.93
