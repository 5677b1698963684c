"""The gallery: what is chosen stands in the address, and every kind of result is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
from brightness_model import write_image
from serving_rig import RigSource, states, until

from tests.serving_web.conftest import Web
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label


@pytest.fixture
def gallery(web: Web, source: RigSource, db: InspectionDatabase) -> str:
    """The address of the results of a line with five images, one of them NG, and a refused file."""
    address, inbox = web(), Path(source.lines["bottles"].folder)
    for number, brightness in enumerate((20, 40, 60, 96, 200)):
        write_image(inbox / f"part_{number}.png", brightness)
    (inbox / "no<b>te.png").write_bytes(b"no image")
    until(lambda: len(states(db)) == 6 and "pending" not in states(db).values(), seen=lambda: states(db))
    return f"{address}/lines/bottles/results"


def _shown(text: str) -> list[str]:
    return re.findall(r'<a class="name" href="[^"]+">(part_\d)\.png</a>', text)


def test_filters_and_orders_are_said_by_the_address(gallery: str, db: InspectionDatabase) -> None:
    def shown(**query: str) -> list[str]:
        reply = requests.get(gallery, params=query, timeout=10)
        assert reply.status_code == 200
        return _shown(reply.text)

    rows = {Path(row.path).stem: row for row in db.predictions("bottles").itertuples()}
    record_label(db, int(rows["part_0"].prediction_id), "NG", by=Actor("Kim"), kind="dent")
    assert set(shown()) == {f"part_{number}" for number in range(5)}
    assert shown(predicted="NG") == ["part_4"]
    assert shown(told="differs") == ["part_0"] == shown(kind="dent")
    assert shown(uncertain="true") == ["part_3"]
    assert shown(order="anomalous")[:2] == ["part_4", "part_3"]
    assert shown(name="RT_2") == ["part_2"]
    assert shown(to="2020-01-01T00:00") == []
    # a form sends what is empty, too
    assert len(shown(predicted="", first="", last="", **{"from": "", "to": ""}, name="", version="")) == 5


def test_pages_lead_on_and_keep_what_was_chosen(gallery: str) -> None:
    shown, address = [], f"{gallery}?limit=2&order=anomalous&view=table"
    for _ in range(3):
        text = requests.get(address, timeout=10).text
        shown += re.findall(r">(part_\d)\.png</a>", text)
        found = re.search(r'<a href="([^"]+)" rel="next">', text)
        address = gallery + found.group(1).replace("&amp;", "&") if found else ""
    assert shown == ["part_4", "part_3", "part_2", "part_1", "part_0"]
    assert not address
    assert requests.get(f"{gallery}?after=nonsense", timeout=10).status_code == 422


def test_refused_files_say_why_and_their_copies_can_be_had(gallery: str) -> None:
    text = requests.get(f"{gallery}?predicted=refused", timeout=10).text
    assert "no&lt;b&gt;te.png" in text
    (copy,) = re.findall(r'href="(/lines/bottles/refused/\d+/copy)"', text)
    address = gallery.removesuffix("/lines/bottles/results")
    reply = requests.get(f"{address}{copy}", timeout=10)
    assert reply.content == b"no image"
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"].startswith("attachment")
    assert requests.get(f"{address}/lines/bottles/refused/99/copy", timeout=10).status_code == 404


def test_where_nothing_is_found_the_page_says_what_to_do(gallery: str) -> None:
    assert "Take a filter away" in requests.get(f"{gallery}?name=nowhere", timeout=10).text
    assert "No file was refused" in requests.get(f"{gallery}?predicted=refused&name=nowhere", timeout=10).text
