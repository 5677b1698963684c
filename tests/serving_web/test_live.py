"""Live: results reach open pages by themselves, lines are paused and resumed, and small pictures are drawn once."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import uvicorn
from brightness_model import BrightnessModel, write_image
from PIL import Image
from serving_rig import RigSource, states, until

from tests.serving_web.conftest import Web
from vad_dagster.service import live_updates
from vad_dagster.service.connections import server_config
from vad_dagster.service.people import Tokens
from vad_dagster.service.thumbnails import SIDE
from vad_dagster.service.web_app import create_app
from vad_lib.heatmaps import HeatmapScale
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import newest_changes
from vad_lib.serving import InferenceService, ServiceLimits


@pytest.fixture(autouse=True)
def _quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who follow see soon that they have let go."""
    monkeypatch.setattr(live_updates, "HEARTBEAT_SECONDS", 0.2)


class Follower:
    """A page that follows: what it was sent, read by a thread of its own."""

    def __init__(self, reply: requests.Response) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.has_ended = False
        self._reply = reply
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        name = number = ""
        try:
            for line in self._reply.iter_lines(chunk_size=1, decode_unicode=True):
                kind, _, value = line.partition(": ")
                if kind == "event":
                    name = value
                elif kind == "id":
                    number = value
                elif kind == "data":
                    self.events.append((name, number, json.loads(value)))
                    name = number = ""
        except (requests.RequestException, OSError, AttributeError, ValueError):
            pass  # the connection was cut
        self.has_ended = True

    def of(self, name: str) -> list[dict[str, Any]]:
        return [data for event, _, data in self.events if event == name]

    def images(self) -> int:
        return sum(data["images"] for data in self.of("results"))


@contextmanager
def following(address: str, line: str = "bottles", after: int = 0, **headers: str) -> Iterator[Follower]:
    query = {"line": line, "after": after}
    with closing(requests.get(f"{address}/events", params=query, headers=headers, stream=True, timeout=20)) as reply:
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield Follower(reply)


def _send(source: RigSource, *names: str, brightness: int = 200, line: str = "bottles") -> None:
    for nonce, name in enumerate(names):
        write_image(Path(source.lines[line].folder) / name, brightness, nonce=nonce)


def test_a_result_reaches_the_pages_that_are_open(web: Web, source: RigSource, db: InspectionDatabase) -> None:
    source.add("caps")
    address = web()
    with following(address) as page, following(address, "") as plant, following(address, "caps") as other:
        until(lambda: page.of("state") and plant.of("state") and other.of("state"))
        _send(source, "bright.png")
        until(lambda: page.images() == 1 and plant.images() == 1)
        (told,) = page.of("results")
        assert 'class="verdict NG"' in told["html"][0]
        assert "bright.png" in told["html"][0]
        assert other.of("results") == []
        until(lambda: "1 of 1 image" in page.of("state")[-1]["html"])


def test_a_page_that_comes_again_is_told_what_it_has_missed(
    web: Web, source: RigSource, db: InspectionDatabase
) -> None:
    address = web()
    _send(source, "a.png", "b.png", "c.png")
    until(lambda: db.count_predictions("bottles") == 3)
    numbers = [str(number) for number in db.predictions("bottles")["prediction_id"]]
    with following(address, **{"Last-Event-ID": numbers[0]}) as page:
        until(lambda: page.images() == 2)
        assert [number for name, number, _ in page.events if name == "results"] == [numbers[-1]]
    with following(address, after=int(numbers[1])) as page:
        until(lambda: page.images() == 1)


def test_of_many_results_one_picture_a_look_is_shown_and_the_others_are_counted(
    web: Web, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "LOOK_SECONDS", 1.0)
    address = web()
    with following(address) as page:
        until(lambda: page.of("state"))
        _send(source, *(f"{number}.png" for number in range(20)))
        until(lambda: page.images() == 20)
        assert all(len(told["html"]) == 1 for told in page.of("results"))
        assert len(page.of("results")) < 20


def test_a_page_that_does_not_keep_up_is_let_go_and_others_go_on(
    web: Web, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(live_updates._Listener):  # type: ignore[misc]
        def put(self, event: bytes) -> None:
            self.is_slow = True

    address = web()
    with following(address) as quick:
        until(lambda: quick.of("state"))
        monkeypatch.setattr(live_updates, "_Listener", Full)
        with following(address) as slow:
            _send(source, "a.png")
            until(lambda: slow.has_ended)
        until(lambda: quick.images() == 1)
        assert not quick.has_ended


def test_the_number_of_followers_is_bounded_and_each_that_goes_makes_room(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "MOST_LISTENERS", 1)
    address = web()
    with following(address) as page:
        until(lambda: page.of("state"))
        refused = requests.get(f"{address}/events", timeout=5)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")

    def has_room() -> bool:
        with closing(requests.get(f"{address}/events", stream=True, timeout=5)) as reply:
            return reply.status_code == 200

    until(has_room)
    assert requests.get(f"{address}/events", params={"line": "nowhere"}, timeout=5).status_code == 404


def test_the_server_ends_at_once_while_pages_follow(db: InspectionDatabase, source: RigSource) -> None:
    service = InferenceService(db, source, ServiceLimits(follow_seconds=0.1))
    server = uvicorn.Server(server_config(create_app(service), "127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    until(lambda: requests.get(f"{address}/ready", timeout=5).status_code == 200)
    with following(address) as page, following(address, ""):
        until(lambda: page.of("state"))
        server.should_exit = True
        thread.join(10)  # a stream that did not end would hold it for 30 s
        assert not thread.is_alive()
        until(lambda: page.has_ended)


def test_an_approver_pauses_a_line_with_a_reason_and_everybody_sees_it(
    web: Web, source: RigSource, db: InspectionDatabase
) -> None:
    address = web(tokens=Tokens("approver's", "reviewer's"))
    may, may_not = {"Authorization": "Bearer approver's"}, {"Authorization": "Bearer reviewer's"}
    here = f"{address}/lines/bottles"

    def post(what: str, body: dict[str, str], headers: dict[str, str] = may) -> int:
        return requests.post(f"{here}/{what}", json=body, headers=headers, timeout=5).status_code

    why = {"reason": "the lamp <b>flickers", "person": "Kim"}
    assert post("pause", why, may_not) == 403
    assert post("pause", {"reason": " ", "person": "Kim"}) == 422
    assert post("pause", {"reason": "no name"}) == 422
    assert post("pause", why) == 200
    _send(source, "waits.png")
    until(lambda: states(db) == {"waits.png": "pending"})
    for page in (here, f"{address}/"):
        text = requests.get(page, headers=may, timeout=5).text
        assert "the lamp &lt;b&gt;flickers" in text
        assert "is-paused" in text
    (line,) = requests.get(f"{address}/lines", headers=may, timeout=5).json()
    assert (line["paused"]["person"], line["paused"]["reason"]) == ("Kim", "the lamp <b>flickers")
    gauge = 'vad_line_paused{line="bottles"} '
    assert f"{gauge}1.0" in requests.get(f"{address}/metrics", headers=may, timeout=5).text
    assert post("resume", {"person": "Lee", "reason": "new lamp"}) == 200
    until(lambda: states(db) == {"waits.png": "done"})
    assert f"{gauge}0.0" in requests.get(f"{address}/metrics", headers=may, timeout=5).text
    told = [(row.action, row.person, row.reason) for row in newest_changes(db, "bottles").itertuples()]
    assert told == [("resume", "Lee", "new lamp"), ("pause", "Kim", "the lamp <b>flickers")]


def _marking(line: str, version: str) -> BrightnessModel:
    model = BrightnessModel()
    model.heatmap_scale = HeatmapScale(low=0, contour=210, high=255)  # type: ignore[attr-defined]
    return model


def _spotted(file: Path, brightness: int) -> None:
    """An image with a bright square in its middle."""
    picture = Image.new("L", (800, 600), brightness)
    picture.paste(255, (300, 200, 500, 400))
    picture.save(file)


def test_a_small_picture_marks_what_is_anomalous_and_is_drawn_once_for_all(
    web: Web, source: RigSource, db: InspectionDatabase
) -> None:
    source.make = _marking
    address, inbox = web(), Path(source.lines["bottles"].folder)
    _spotted(inbox / "ng.png", 180)
    _spotted(inbox / "ok.png", 20)
    until(lambda: db.count_predictions("bottles") == 2)
    marked = {}
    for row in db.predictions("bottles").itertuples():
        reply = requests.get(f"{address}/lines/bottles/results/{row.prediction_id}/thumbnail.jpg", timeout=10)
        assert reply.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        picture = Image.open(io.BytesIO(reply.content))
        assert max(picture.size) == SIDE
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
        marked[row.predicted] = bool((pixels[..., 2] - pixels[..., 0] > 100).any())
        Path(row.path).unlink()
        again = requests.get(f"{address}/lines/bottles/results/{row.prediction_id}/thumbnail.jpg", timeout=10)
        assert again.content == reply.content, "from memory: the file is gone"
    assert marked == {"NG": True, "OK": False}


def test_where_an_image_is_gone_a_picture_says_so(web: Web, source: RigSource, db: InspectionDatabase) -> None:
    address = web()
    _send(source, "gone.png")
    until(lambda: db.count_predictions("bottles") == 1)
    (Path(source.lines["bottles"].folder) / "gone.png").unlink()
    reply = requests.get(f"{address}/lines/bottles/results/1/thumbnail.jpg", timeout=10)
    assert reply.headers["content-type"].startswith("image/svg+xml")
    assert reply.headers["Cache-Control"] == "private, max-age=60"
    assert "The image is not there any more." in reply.text
