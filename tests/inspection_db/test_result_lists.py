"""Lists of results: filters, orders and pages over any number of predictions, and what came since."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from tests.postgres_server import new_inspection_url
from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label, withdraw_label
from vad_lib.inspection_db.recent_results import Decided, decided_since, first_since, newest_numbers, news_of
from vad_lib.inspection_db.result_lists import (
    Order,
    Wanted,
    count_results,
    find_refused,
    find_results,
    kinds_of,
    versions_of,
)
from vad_lib.inspection_db.schema import incoming_files, predictions

START = datetime(2026, 3, 1, tzinfo=UTC)
SCORES = [0.5, 0.1, 0.9, 0.45, 0.55, 0.5, 0.3, 0.7, 0.999, 0.001, 0.45, 0.9]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one database of each kind for all tests."""
    yield from new_inspection_url(request, tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def db(url: str) -> Iterator[InspectionDatabase]:
    """Two lines with a prediction a minute, and labels on the first four images of ``a``."""
    made = InspectionDatabase(url)
    add(made, "a", SCORES)
    add(made, "b", [0.2, 0.8])
    numbers = numbers_of(made)
    by = Actor("Kim")
    record_label(made, numbers[0], "OK", by=by)
    record_label(made, numbers[1], "NG", by=by, kind="crack")
    record_label(made, numbers[2], "unsure", by=by)
    record_label(made, numbers[3], "NG", by=by, kind="dent")
    withdraw_label(made, numbers[3], by=by)
    yield made
    made.engine.dispose()


def add(db: InspectionDatabase, line: str, scores: list[float], begin: datetime = START) -> None:
    with db.writing() as connection:
        for number, p in enumerate(scores):
            moment = begin + timedelta(minutes=number)
            row: dict[str, Any] = {"line": line, "sha256": f"{line}{number}{begin.timestamp()}"[:64], "p": p}
            row |= {"path": f"/folder_x/{line}/Part_{number:02}%.png", "raw_score": p * 10, "certainty": 0.5}
            row |= {"model_version": f"vad-{line}/{1 + number // 8}", "predicted": "NG" if p >= 0.5 else "OK"}
            row |= {"threshold": 5.0, "threshold_version": "t", "inference_threshold": 0.5, "source": "online"}
            connection.execute(insert(predictions).values(**row, created_at=moment))


def numbers_of(db: InspectionDatabase) -> list[int]:
    return [int(number) for number in db.predictions("a")["prediction_id"]]


def found(db: InspectionDatabase, **wanted: Any) -> list[int]:
    """Return which predictions of ``a`` are listed, 0 for the first that was made."""
    numbers = numbers_of(db)
    return [numbers.index(row.prediction_id) for row in find_results(db, "a", Wanted(**wanted)).rows]


def test_each_filter_leaves_what_it_says(db: InspectionDatabase) -> None:
    everything = list(range(len(SCORES)))[::-1]
    assert found(db) == everything
    assert found(db, predicted="NG") == [number for number in everything if SCORES[number] >= 0.5]
    assert found(db, is_uncertain=True) == [10, 5, 4, 3, 0]
    assert found(db, model_version="vad-a/2") == [11, 10, 9, 8]
    assert found(db, since=START + timedelta(minutes=2), until=START + timedelta(minutes=5)) == [4, 3, 2]
    assert found(db, first=numbers_of(db)[9], order="oldest") == [9, 10, 11]
    assert found(db, told="judged") == [1, 0]
    assert found(db, told="unjudged") == everything[:-2], "who is unsure, or takes it back, has not judged"
    assert (found(db, told="NG"), found(db, told="unsure"), found(db, kind="crack")) == ([1], [2], [1])
    assert found(db, told="differs") == [1, 0]
    assert kinds_of(db, "a") == ["crack", "dent"]
    assert versions_of(db, "a") == ["vad-a/2", "vad-a/1"]


def test_a_text_is_looked_for_in_the_file_name_only_and_stands_for_itself(db: InspectionDatabase) -> None:
    assert found(db, name="pArT_1") == [11, 10]
    assert found(db, name="folder_x") == []
    assert found(db, name="03%.png") == [3]
    assert found(db, name="0%3") == []


def test_rows_say_what_people_said_last(db: InspectionDatabase) -> None:
    rows = find_results(db, "a", Wanted(order="oldest"), limit=5).rows
    assert [(row.said, row.kind) for row in rows] == [
        ("OK", None), ("NG", "crack"), ("unsure", None), (None, None), (None, None),
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(order=st.sampled_from(get_args(Order)), limit=st.integers(1, 13), predicted=st.sampled_from(["", "NG"]))
def test_pages_together_show_each_result_once_and_in_order(
    db: InspectionDatabase, order: Order, limit: int, predicted: Any
) -> None:
    wanted = Wanted(predicted, order=order)
    shown, after = [], ""
    for _ in range(len(SCORES) + 1):
        page = find_results(db, "a", wanted, after=after, limit=limit)
        shown += page.rows
        if not (after := page.after):
            break
    keys = {
        "newest": lambda row: -row.prediction_id,
        "oldest": lambda row: row.prediction_id,
        "anomalous": lambda row: (-row.p, -row.prediction_id),
        "uncertain": lambda row: abs(row.p - 0.5),
    }
    assert [keys[order](row) for row in shown] == sorted(keys[order](row) for row in shown)
    assert len({row.prediction_id for row in shown}) == len(shown) == count_results(db, "a", wanted)


@pytest.mark.parametrize("after", ["x", "1_2~3_4", "0.5", "_", "nan_1~"])
def test_an_address_of_no_page_is_refused(db: InspectionDatabase, after: str) -> None:
    with pytest.raises(InputError, match="first page"):
        find_results(db, "a", Wanted(), after=after)


def test_counting_ends_where_there_are_many(db: InspectionDatabase) -> None:
    assert count_results(db, "a", Wanted(), most=5) == 6
    assert count_results(db, "a", Wanted(predicted="OK")) == sum(p < 0.5 for p in SCORES)


def test_refused_files_are_listed_with_pages_and_without_versions_that_are_no_more(db: InspectionDatabase) -> None:
    with db.writing() as connection:
        for number, rule in enumerate(["unreadable_image", "changed", "not_an_image", "poison_image"]):
            row: dict[str, Any] = {"line": "a", "folder": "/in", "path": f"sub/{rule}", "size": 1, "mtime_ns": 1}
            row |= {"inode": number, "ctime_ns": 1, "state": "refused", "deliveries": 0, "rule": rule, "reason": "why"}
            moment = START + timedelta(minutes=number)
            row |= {"arrived_at": moment, "registered_at": moment, "decided_at": moment}
            connection.execute(insert(incoming_files).values(**row))
    listed = find_refused(db, "a")
    assert [row.rule for row in listed] == ["poison_image", "not_an_image", "unreadable_image"]
    assert [row.rule for row in find_refused(db, "a", before=listed[0].file_id, limit=1)] == ["not_an_image"]
    assert [row.rule for row in find_refused(db, "a", name="POISON")] == ["poison_image"]
    assert [row.rule for row in find_refused(db, "a", since=START + timedelta(minutes=3))] == ["poison_image"]
    assert find_refused(db, "a", name="sub") == []
    assert find_refused(db, "b") == []


def test_what_came_is_told_with_ng_first_and_counted(db: InspectionDatabase) -> None:
    numbers = numbers_of(db)
    assert newest_numbers(db, ["a", "nowhere"]) == {"a": numbers[-1], "nowhere": 0}
    assert newest_numbers(db, []) == {}
    news = news_of(db, "a", numbers[2], numbers[-2], most=2)
    assert news.images == 8
    assert [numbers.index(row.prediction_id) for row in news.rows] == [7, 8], "the newest NG, oldest first"
    assert news_of(db, "a", numbers[-1], numbers[-1], most=2) == ([], 0)


@settings(max_examples=30, deadline=None)
@given(minutes=st.lists(st.integers(-2, 14), min_size=1, max_size=4).map(sorted))
def test_counting_on_from_before_gives_what_counting_all_gives(db: InspectionDatabase, minutes: list[int]) -> None:
    before = None
    for minute in minutes:
        since = START + timedelta(minutes=minute)
        before = decided_since(db, "a", since, before)
        assert before == decided_since(db, "a", since)
        kept = [p for number, p in enumerate(SCORES) if number >= minute]
        assert before[:2] == (sum(p < 0.5 for p in kept), sum(p >= 0.5 for p in kept))


def test_the_count_of_a_day_takes_in_what_comes_and_lets_go_what_is_older(tmp_path: Path) -> None:
    db = InspectionDatabase(f"sqlite:///{tmp_path}/inspection.db")
    assert decided_since(db, "a", START) == Decided(last=0, first=0)
    add(db, "a", SCORES)
    first = decided_since(db, "a", START, decided_since(db, "a", START))
    assert first[:2] == (5, 7)
    add(db, "a", [0.9, 0.1], START + timedelta(hours=2))
    assert decided_since(db, "a", START + timedelta(hours=1), first)[:2] == (1, 1)
    with db.reading() as connection:
        assert first_since(connection, "a", START + timedelta(days=9)) == len(SCORES) + 3
