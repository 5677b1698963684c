"""What happened on a line within some hours: a fixed set of queries, compared with what the rows say."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert

from tests.words.stub_endpoint import ANSWER
from tests.words.words_rig import WordsRig
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label
from vad_lib.inspection_db.schema import descriptions, incoming_files, predictions
from vad_lib.words.corrections import record_correction
from vad_lib.words.day import day_facts

NOW = datetime.fromisoformat("2025-12-01T14:30:00+00:00")
LINE = "caps"


@pytest.fixture
def db(inspection_url: str) -> InspectionDatabase:
    return InspectionDatabase(inspection_url)


def predict(db: InspectionDatabase, predicted: str, hours_ago: float, version: str = "vad-caps/1") -> int:
    number = db.count_predictions(LINE)
    values: dict[str, Any] = {
        "line": LINE,
        "sha256": f"{number:064d}",
        "model_version": version,
        "path": f"/watch/cap_{number}.png",
        "predicted": predicted,
        "source": "online",
        "threshold_version": "t",
        "created_at": NOW - timedelta(hours=hours_ago),
        **dict.fromkeys(("raw_score", "p", "certainty", "threshold", "inference_threshold"), 0.75),
    }
    with db.writing(line=LINE) as connection:
        made = connection.execute(insert(predictions).values(**values).returning(predictions.c.prediction_id))
        return int(made.scalar_one())


def describe(db: InspectionDatabase, prediction_id: int, *kinds: str, agrees: bool = True) -> int:
    region = ANSWER["regions"][0]
    values = {
        "line": LINE,
        "prediction_id": prediction_id,
        "state": "done",
        "attempts": 1,
        "asked_by": "Kim",
        "language": "English",
        "agrees": agrees,
        "structured": True,
        "answer": json.dumps(ANSWER | {"regions": [region | {"kind": kind} for kind in kinds]}),
        "raw_reply": "{}",
        "summary": f"There is {', '.join(kinds)}.",
        "created_at": NOW,
        "finished_at": NOW,
    }
    with db.writing(line=LINE) as connection:
        made = connection.execute(insert(descriptions).values(**values).returning(descriptions.c.description_id))
        return int(made.scalar_one())


def refuse(db: InspectionDatabase, name: str, hours_ago: float, rule: str = "unreadable_image") -> None:
    moment = NOW - timedelta(hours=hours_ago)
    values: dict[str, Any] = {
        "line": LINE, "folder": "/watch", "path": name, "state": "refused", "deliveries": 1, "rule": rule,
        "reason": "It is cut off.", "arrived_at": moment, "registered_at": moment, "decided_at": moment,
        **dict.fromkeys(("size", "mtime_ns", "inode", "ctime_ns"), 1),
    }  # fmt: skip
    with db.writing(line=LINE) as connection:
        connection.execute(insert(incoming_files).values(**values))


def test_counts_kinds_labels_and_versions_are_those_of_the_stretch(db: InspectionDatabase) -> None:
    predict(db, "NG", 24 * 9)
    last_week = predict(db, "NG", 30)
    early = predict(db, "OK", 7.75, "vad-caps/1")
    late = [predict(db, "NG", 1.25, "vad-caps/2"), predict(db, "OK", 0.25, "vad-caps/2")]
    predict(db, "NG", -1)
    describe(db, last_week, "Scratch")
    describe(db, late[0], "scratch", "dent", agrees=False)
    corrected = describe(db, late[1], "dust")
    record_correction(db, corrected, {"regions": [ANSWER["regions"][0] | {"kind": "Fibre"}]}, person="Lee")
    for name, hours_ago, rule in (
        ("a", 1.2, "unreadable_image"),
        ("b", 1.2, "vanished"),
        ("c", 50, "unreadable_image"),
    ):
        refuse(db, name, hours_ago, rule)
    record_label(db, early, "NG", by=Actor("Kim"))
    record_label(db, late[0], "OK", by=Actor("Kim"))
    record_label(db, late[0], "NG", by=Actor("Kim"))

    facts = day_facts(db, LINE, NOW, 8)
    json.dumps(facts)
    assert (facts["from"], facts["until"]) == ("2025-12-01 06:30", "2025-12-01 14:30")
    assert facts["images"] == {"predictions": 3, "OK": 2, "NG": 1, "NG_percent": 33.3, "refused_files": 1}
    week = facts["images_in_the_week_before"]
    assert (week["predictions"], week["NG"], week["refused_files"]) == (1, 1, 1)
    assert facts["by_hour"] == [
        {"hour_from": "2025-12-01 06:00", "OK": 1, "NG": 0, "refused": 0},
        {"hour_from": "2025-12-01 13:00", "OK": 0, "NG": 1, "refused": 1},
        {"hour_from": "2025-12-01 14:00", "OK": 1, "NG": 0, "refused": 0},
    ]
    assert facts["reasons_of_refused_files"] == [{"reason": "unreadable_image", "files": 1}]
    kinds = {each["kind"]: (each["findings"], each["new"]) for each in facts["kinds_of_defect_as_described"]}
    assert kinds == {"scratch": (1, False), "dent": (1, True), "fibre": (1, True)}
    assert (facts["new_kinds"], facts["number_of_new_kinds"]) == (["dent", "fibre"], 2)
    assert facts["descriptions"] == {"written": 2, "disagree_with_the_detector": 2}  # a person said so of one
    (newest,) = facts["newest_NG"]
    assert (newest["image"], newest["time"]) == ("cap_3.png", "2025-12-01 13:15")
    assert newest["described_as"] == "There is scratch, dent."
    labels = facts["labels_of_people"]
    assert (labels["predictions_with_a_label"], labels["agree"], labels["missed"], labels["false_alarms"]) == (
        2,
        1,
        1,
        0,
    )
    versions = [(each["model_version"], each["predictions"]) for each in facts["model_versions"]]
    assert versions == [("vad-caps/2", 2), ("vad-caps/1", 1)]
    assert facts["seconds_from_arrival_to_result"] is None


def test_nothing_happened_is_told_too(db: InspectionDatabase) -> None:
    facts = day_facts(db, LINE, NOW, 24)
    assert facts["images"] == {"predictions": 0, "OK": 0, "NG": 0, "NG_percent": None, "refused_files": 0}
    assert facts["by_hour"] == facts["newest_NG"] == facts["new_kinds"] == []


def test_how_long_images_waited_is_told_where_a_service_decided_them(words: WordsRig) -> None:
    waited = day_facts(words.db, "bottles", utc_now() + timedelta(seconds=1), 8)["seconds_from_arrival_to_result"]
    assert waited is None or waited["images"] == 2


def test_the_queries_are_the_same_whatever_happened(db: InspectionDatabase) -> None:
    asked: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    predict(db, "OK", 1)
    asked.clear()
    day_facts(db, LINE, NOW, 8)
    before = set(asked)
    number = [predict(db, "NG", 1) for _ in range(4)][-1]
    describe(db, number, "a kind; DROP TABLE predictions")
    asked.clear()
    day_facts(db, LINE, NOW, 8)
    assert set(asked) == before


def test_a_stretch_begins_where_it_should_among_many_predictions(db: InspectionDatabase) -> None:
    hours = (60, 40, 30, 20, 10, 9, 8, 7, 7, 3, 2)
    for hours_ago in hours:
        predict(db, "OK", hours_ago)
    for length in (1, 2, 7, 8, 25, 48):
        counts = day_facts(db, LINE, NOW, length)["images"]
        assert counts["predictions"] == sum(hours_ago <= length for hours_ago in hours)
