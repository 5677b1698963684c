"""Two versions beside each other on the same live images: who shadows what, and what the figures say."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, insert, text

from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label
from vad_lib.inspection_db.schema import predictions
from vad_lib.inspection_db.shadow import (
    ShadowPrediction,
    images_to_shadow,
    is_sampled,
    record_shadow,
    shadow_counts,
)
from vad_lib.inspection_db.version_comparison import compare_versions, differing_images

KIM = Actor("Kim")
OLD, NEW = "vad-bottles/1", "vad-bottles/2"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def db(inspection_url: str) -> InspectionDatabase:
    return InspectionDatabase(inspection_url)


def content(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def decided(
    db: InspectionDatabase, said: Sequence[str], *, version: str = OLD, at: datetime | None = None
) -> list[int]:
    """Record what a version decided about new images, and return the numbers of the predictions."""
    first = db.count_predictions("bottles")
    rows = [
        {
            "line": "bottles", "sha256": content(first + place), "model_version": version, "path": f"/{first + place}",
            "raw_score": p, "p": p, "certainty": 0.5, "predicted": one, "threshold": 0.5, "threshold_version": "1",
            "inference_threshold": 0.5, "source": "online", "created_at": at or utc_now(),
        }
        for place, one in enumerate(said)
        for p in [0.2 if one == "OK" else 0.8]
    ]  # fmt: skip
    with db.writing() as connection:
        connection.execute(insert(predictions), rows)
    return [int(number) for number in db.predictions("bottles", newest=len(rows))["prediction_id"]]


def shadowed(
    db: InspectionDatabase, number: int, said: str, *, version: str = NEW, sampled: bool = True, p: float | None = None
) -> None:
    sha = str(db.predictions("bottles", after_id=number - 1, limit=1)["sha256"].iloc[0])
    p = p if p is not None else (0.3 if said == "OK" else 0.7)
    record_shadow(db, ShadowPrediction("bottles", sha, version, number, sampled, p, p, said, 0.5, 0.01))


@given(st.lists(st.integers(0, 10**6), max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_has_all_images_of_a_smaller_one(numbers: list[int], one: float, other: float) -> None:
    for number in numbers:
        assert is_sampled(content(number), NEW, min(one, other)) <= is_sampled(content(number), NEW, max(one, other))


def test_the_share_is_as_large_as_it_says_and_another_one_for_each_version() -> None:
    mine = {number for number in range(4000) if is_sampled(content(number), NEW, 0.2)}
    others = {number for number in range(4000) if is_sampled(content(number), OLD, 0.2)}
    assert 700 < len(mine) < 900
    assert 100 < len(mine & others) < 220


def test_what_is_scored_beside_the_champion_is_live_new_and_of_the_share_or_judged(db: InspectionDatabase) -> None:
    made = utc_now() - timedelta(hours=1)
    before = decided(db, ["OK"], at=made - timedelta(hours=1))
    numbers = decided(db, ["OK"] * 40)
    decided(db, ["OK"], version="vad-bottles/9")
    chosen = images_to_shadow(db, "bottles", OLD, NEW, share=0.5, since=made)
    inside = [number for number in numbers if is_sampled(content(number - 1), NEW, 0.5)]
    assert 0 < len(inside) < 40
    assert [image.prediction_id for image in chosen] == inside[::-1]
    outside = next(number for number in numbers if number not in inside)
    for judged in (outside, before[0]):
        record_label(db, judged, "NG", by=KIM)
    first, *rest = images_to_shadow(db, "bottles", OLD, NEW, share=0.5, since=made)
    assert (first.prediction_id, first.sampled) == (outside, False)
    assert [image.prediction_id for image in rest] == inside[::-1]
    for image in (first, rest[0]):
        shadowed(db, image.prediction_id, "OK", sampled=image.sampled)
        shadowed(db, image.prediction_id, "NG")  # a second service: the first row stays
    left = images_to_shadow(db, "bottles", OLD, NEW, share=0.5, since=made)
    assert [image.prediction_id for image in left] == inside[-2::-1]
    assert shadow_counts(db, [("bottles", NEW), ("bottles", OLD)]) == {("bottles", NEW): 2}
    assert compare_versions(db, "bottles", OLD, NEW).live.both_ok == 1


def test_a_content_that_the_version_has_decided_itself_is_not_scored_again(db: InspectionDatabase) -> None:
    (number,) = decided(db, ["OK"])
    row = db.predictions("bottles").drop(columns="prediction_id").iloc[0].to_dict()
    row |= {"model_version": NEW, "created_at": utc_now(), "run_id": None, "seconds": None}
    with db.writing() as connection:
        connection.execute(insert(predictions), [row])
    assert images_to_shadow(db, "bottles", OLD, NEW, share=1.0, since=LONG_AGO) == []
    assert images_to_shadow(db, "bottles", OLD, "vad-bottles/3", share=1.0, since=LONG_AGO)[0].prediction_id == number


@pytest.mark.spec("L4.02")
def test_versions_are_compared_on_what_both_have_scored_and_on_what_people_judged(db: InspectionDatabase) -> None:
    numbers = decided(db, ["OK", "OK", "NG", "NG", "OK", "NG"])
    for number, said in zip(numbers[:5], ["OK", "NG", "OK", "NG", "NG"], strict=True):
        shadowed(db, number, said, sampled=number != numbers[4])
    found = compare_versions(db, "bottles", OLD, NEW)
    assert (found.live.images, found.live.both_ok, found.live.both_ng) == (4, 1, 1)
    assert (found.live.only_challenger_ng, found.live.only_champion_ng, found.live.agreement) == (1, 1, 0.5)
    assert found.judged.difference is None
    assert "Nobody has judged" in found.judged.in_words()
    for number, label in zip(numbers, ["OK", "NG", "OK", "NG", "unsure", "NG"], strict=True):
        record_label(db, number, label, by=KIM)  # type: ignore[arg-type]
    judged = compare_versions(db, "bottles", OLD, NEW).judged
    assert (judged.images, judged.champion.agree, judged.challenger.agree) == (4, 2, 4)
    assert (judged.champion.missed, judged.champion.false_alarms) == (1, 1)
    assert (judged.both_right, judged.only_challenger_right, judged.only_champion_right) == (2, 2, 0)
    assert judged.difference is not None
    assert judged.auroc is not None
    assert judged.difference.difference == 0.5
    assert judged.auroc.difference == pytest.approx(0.5)
    assert "the challenger is right on 4 (misses 0, false alarms 0)" in judged.in_words()
    turned = compare_versions(db, "bottles", NEW, OLD).judged
    assert (turned.champion.agree, turned.only_champion_right) == (4, 2)
    assert turned.difference is not None
    assert turned.difference.difference == -0.5


def test_after_a_promotion_the_pairs_count_on_whichever_version_served(db: InspectionDatabase) -> None:
    (before,) = decided(db, ["OK"])
    shadowed(db, before, "NG", version=NEW)
    moment = utc_now() + timedelta(seconds=1)
    (after,) = decided(db, ["NG"], version=NEW, at=moment + timedelta(seconds=1))
    shadowed(db, after, "OK", version=OLD)
    found = compare_versions(db, "bottles", OLD, NEW).live
    assert (found.images, found.only_challenger_ng) == (2, 2)
    assert compare_versions(db, "bottles", OLD, NEW, since=moment).live.images == 1
    assert compare_versions(db, "caps", OLD, NEW).live.images == 0
    newer, older = differing_images(db, "bottles", OLD, NEW)
    assert (newer.prediction_id, newer.champion, newer.champion_p, newer.challenger) == (after, "OK", 0.3, "NG")
    assert (older.prediction_id, older.champion, older.challenger_p) == (before, "OK", 0.7)


def test_images_on_which_versions_differ_come_in_pages_with_what_people_say(db: InspectionDatabase) -> None:
    numbers = decided(db, ["OK"] * 7)
    for number in numbers:
        shadowed(db, number, "OK" if number == numbers[3] else "NG")
    record_label(db, numbers[6], "NG", by=KIM)
    first = differing_images(db, "bottles", OLD, NEW, page=4)
    rest = differing_images(db, "bottles", OLD, NEW, page=4, before_id=first[-1].prediction_id)
    assert [image.prediction_id for image in first + rest] == [n for n in numbers[::-1] if n != numbers[3]]
    assert [image.label for image in first] == ["NG", "", "", ""]


@pytest.fixture
def large(tmp_path_factory: pytest.TempPathFactory) -> InspectionDatabase:
    """100,000 predictions, 20,000 of them shadowed, 2,000 judged."""
    made = InspectionDatabase(f"sqlite:///{tmp_path_factory.mktemp('large')}/inspection.db")
    moment = "2026-01-01 00:00:00"
    fill = [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
        "INSERT INTO predictions (line, sha256, model_version, path, raw_score, p, certainty, predicted, threshold, "
        "threshold_version, inference_threshold, source, created_at) SELECT 'bottles', printf('%064x', i), "
        f"'{OLD}', '/' || i, i, 0.1, 0.5, CASE WHEN i % 50 THEN 'OK' ELSE 'NG' END, 1, '1', 0.5, 'online', "
        f"'{moment}' FROM n",
        "INSERT INTO shadow_predictions (line, sha256, model_version, prediction_id, sampled, raw_score, p, predicted, "
        f"threshold, seconds, created_at) SELECT line, sha256, '{NEW}', prediction_id, 1, raw_score, p, "
        f"CASE WHEN prediction_id % 200 THEN predicted ELSE 'OK' END, 1, 0, '{moment}' "
        "FROM predictions WHERE prediction_id % 5 = 0",
        "INSERT INTO labels (prediction_id, label, person, created_at) SELECT prediction_id, predicted, 'Kim', "
        f"'{moment}' FROM predictions WHERE prediction_id % 50 = 0",
    ]
    with made.writing() as connection:
        for statement in fill:
            connection.execute(text(statement))
    return made


def test_with_100000_predictions_no_question_reads_them_all(large: InspectionDatabase) -> None:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def steps_of(ask: Callable[[], Sized]) -> tuple[int, int]:
        """Return how many thousands of steps SQLite takes for an answer, and how many rows it has."""
        nonlocal steps
        steps = 0
        return len(ask()), steps

    @event.listens_for(large.engine, "checkout")
    def watch(connection: Any, *_: object) -> None:
        connection.set_progress_handler(count, 1000)

    earlier = LONG_AGO - timedelta(days=1)
    found = compare_versions(large, "bottles", OLD, NEW)
    compared = steps
    assert (found.live.images, found.live.only_champion_ng, found.judged.images) == (20000, 500, 2000)
    page = steps_of(lambda: differing_images(large, "bottles", OLD, NEW))
    chosen = steps_of(lambda: images_to_shadow(large, "bottles", OLD, NEW, share=1.0, since=earlier))
    assert (page[0], chosen[0]) == (50, 800)
    # the pairs are 20,000 rows; a loop within a loop over them would be hundreds of millions of steps
    assert compared < 6000, compared
    assert max(page[1], chosen[1]) < 3000, (page, chosen)
