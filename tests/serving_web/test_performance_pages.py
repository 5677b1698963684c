"""Pages of how well a line does, and of who changed what."""

from __future__ import annotations

import requests
from serving_rig import RigSource

from tests.inspection_db.test_field_performance import predict
from tests.serving_web.conftest import Web
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label
from vad_lib.queue import pause_line


def _page(address: str) -> str:
    answer = requests.get(address, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_page_of_performance_has_figures_intervals_and_what_is_still_to_judge(
    web: Web, db: InspectionDatabase, source: RigSource, monkeypatch: object
) -> None:
    from datetime import UTC, datetime, timedelta

    from sqlalchemy import update

    from vad_lib.inspection_db.schema import predictions

    numbers = [predict(db, number, "NG" if number < 4 else "OK", sampled=number > 5) for number in range(9)]
    with db.writing() as connection:
        when = datetime.now(UTC) - timedelta(minutes=1)
        connection.execute(update(predictions).values(line="bottles", created_at=when))
    for number in numbers[:4]:
        record_label(
            db,
            number,
            "OK" if number == numbers[0] else "NG",
            by=Actor("Kim"),
            kind="" if number == numbers[0] else "<b>crack",
        )
    record_label(db, numbers[7], "OK", by=Actor("Kim"))
    address = web()
    page = _page(f"{address}/lines/bottles/performance")
    assert "<b>75.0 %</b>" in page
    assert "4 of 4 NG images" in page
    assert "Images of the random sample that wait for a person: 2." in page
    assert "&lt;b&gt;crack" in page
    assert page.count("<circle") == 2
    told = requests.get(f"{address}/lines/bottles/performance.json", timeout=10).json()
    assert told["whole"]["judged_ng"] == 4
    assert "not known" in _page(f"{address}/lines/caps/performance") if "caps" in source.lines else True


def test_changes_are_told_with_name_and_reason_page_by_page(web: Web, db: InspectionDatabase) -> None:
    number = predict(db, 1, "NG")
    for _ in range(101):
        record_label(db, number, "OK", by=Actor("Kim", "reviewer"), note="<i>fine</i>")
    pause_line(db, "bottles", Actor("Lee", "approver"), "the lamp is broken")
    address = web()
    page = _page(f"{address}/changes")
    assert "the lamp is broken" in page
    assert "&lt;i&gt;fine&lt;/i&gt;" in page
    assert page.count("<tr>") == 101
    older = page.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    assert _page(f"{address}/changes{older}").count("<tr>") == 3
    of_line = _page(f"{address}/lines/bottles/changes?person=Lee")
    assert of_line.count("<tr>") == 2
    assert "Nothing was changed" in _page(f"{address}/lines/bottles/changes?person=Kim")
