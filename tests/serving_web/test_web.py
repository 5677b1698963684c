"""The web interface, asked over a real socket."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from brightness_model import THORN, BrightnessModel, write_image
from PIL import Image
from serving_rig import RigSource, until

from vad_dagster.service import heatmap_drawer
from vad_dagster.service.json_logs import log_as_json
from vad_dagster.service.process import refuse_open_door
from vad_lib.errors import InputError
from vad_lib.heatmaps import HeatmapScale
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label
from vad_lib.inspection_db.notices import Message, due_messages, record_told
from vad_lib.monitoring import MonitorSettings
from vad_lib.notice_rules import NoticeRule
from vad_lib.serving import ShadowedBy

Web = Callable[..., str]


def _bytes(tmp_path: Path, brightness: int, nonce: int = 0) -> bytes:
    return write_image(tmp_path / "made.png", brightness, nonce).read_bytes()


def with_scale(line: str, version: str) -> BrightnessModel:
    model = BrightnessModel()
    model.heatmap_scale = HeatmapScale(low=0, contour=100, high=255)  # type: ignore[attr-defined]
    return model


def _add_a_line_that_loads(source: RigSource, address: str) -> threading.Event:
    """Add the line ``caps``, whose model is there when the event that is returned is set."""
    loaded = threading.Event()

    def load_slowly(line: str, version: str) -> BrightnessModel:
        assert loaded.wait(20)
        return BrightnessModel()

    source.make = load_slowly
    source.add("caps")
    until(lambda: len(requests.get(f"{address}/lines", timeout=5).json()) == 2)
    return loaded


@pytest.mark.spec("S1.01")
def test_an_image_sent_by_the_web_is_recorded_and_the_same_bytes_are_not_scored_again(
    web: Web, db: InspectionDatabase, tmp_path: Path
) -> None:
    address = web()
    first = requests.post(f"{address}/lines/bottles/images", data=_bytes(tmp_path, 150), timeout=20)
    assert first.status_code == 200
    assert (first.json()["predicted"], first.json()["source"]) == ("NG", "online")
    again = requests.post(f"{address}/lines/bottles/images", data=_bytes(tmp_path, 150), timeout=20)
    assert again.json() == first.json()
    assert db.count_predictions("bottles") == 1
    by_content = requests.get(address + first.headers["Location"], timeout=5)
    assert by_content.json() == first.json()
    feed = requests.get(f"{address}/lines/bottles/predictions", timeout=5).json()
    assert feed == [first.json()]
    assert requests.get(f"{address}/lines/bottles/predictions?after=1", timeout=5).json() == []


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "WEBP"])
def test_other_formats_of_cameras_are_taken_and_shown(web: Web, kind: str) -> None:
    address = web()
    stream = io.BytesIO()
    Image.new("L", (48, 32), 150).save(stream, kind)
    answer = requests.post(f"{address}/lines/bottles/images", data=stream.getvalue(), timeout=20)
    assert (answer.status_code, answer.json()["predicted"]) == (200, "NG")
    shown = requests.get(f"{address}/lines/bottles/results/{answer.json()['prediction_id']}/image", timeout=20)
    assert shown.headers["content-type"] == f"image/{kind.lower()}"
    assert shown.content == stream.getvalue()


def test_what_is_no_image_too_large_or_refused_is_said_in_the_status(web: Web, tmp_path: Path) -> None:
    address = web(max_upload_bytes=1000)
    post = f"{address}/lines/bottles/images"
    assert requests.post(post, data=b"GIF89a", timeout=20).status_code == 415
    assert requests.post(post, data=b"\x89PNG\r\n\x1a\n" + bytes(2000), timeout=20).status_code == 413
    # Without a length that could be looked at beforehand.
    pieces = iter([b"\x89PNG\r\n\x1a\n", bytes(800), bytes(800)])
    assert requests.post(post, data=pieces, timeout=20).status_code == 413
    requests.post(post, data=_bytes(tmp_path, 60), timeout=20)
    thorn = requests.post(f"{post}?seconds=0.5", data=_bytes(tmp_path, THORN), timeout=20)
    assert thorn.status_code in (202, 422)
    missing = requests.post(f"{address}/lines/nowhere/images", data=b"", timeout=5)
    assert missing.status_code == 404
    assert "There are: bottles" in missing.json()["detail"]


def test_a_broken_image_sent_again_is_refused_again_with_the_same_reason_and_counted_once(
    web: Web, db: InspectionDatabase, tmp_path: Path
) -> None:
    post = f"{web()}/lines/bottles/images"
    broken = _bytes(tmp_path, 150)[:50]
    answers = [requests.post(post, data=broken, timeout=20) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [422, 422, 422]
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert db.incoming_files("bottles")["state"].tolist() == ["refused"]


def test_the_same_bytes_sent_again_before_they_were_read_have_the_same_result(
    web: Web, source: RigSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    address = web()
    loaded = _add_a_line_that_loads(source, address)

    def waiting() -> int:
        return sum(line["waiting"] for line in requests.get(f"{address}/lines", timeout=5).json())

    data = _bytes(tmp_path, 150)
    post = f"{address}/lines/caps/images?seconds"
    assert requests.post(f"{post}=0", data=data, timeout=20).status_code == 202
    until(lambda: waiting() == 1)
    with ThreadPoolExecutor(3) as pool:
        answers = pool.map(lambda _: requests.post(f"{post}=20", data=data, timeout=30), range(3))
        time.sleep(0.3)
        loaded.set()
        assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert db.incoming_files("caps")["state"].tolist() == ["done"]


def test_while_very_many_wait_for_their_results_health_is_told(
    web: Web, source: RigSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    address = web()
    loaded = _add_a_line_that_loads(source, address)
    images = [_bytes(tmp_path, 50, nonce) for nonce in range(60)]
    with ThreadPoolExecutor(len(images)) as pool:
        post = f"{address}/lines/caps/images?seconds=30"
        answers = pool.map(lambda data: requests.post(post, data=data, timeout=40), images)
        try:
            # As many threads as handlers may have at a time.
            until(lambda: len(list(source.lines["caps"].folder.glob("uploads/*.png"))) >= 40)
            assert requests.get(f"{address}/health", timeout=5).json() == {"alive": True}
            assert requests.get(f"{address}/ready", timeout=5).status_code == 503
            assert requests.get(f"{address}/lines", timeout=5).status_code == 200
        finally:
            loaded.set()
        assert {answer.status_code for answer in answers} == {200}
    assert db.count_predictions("caps") == 60


def test_who_does_not_wait_is_told_where_the_result_will_be(
    web: Web, source: RigSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    source.make = lambda line, version: BrightnessModel(seconds=0.5)
    address = web()
    answer = requests.post(f"{address}/lines/bottles/images?seconds=0", data=_bytes(tmp_path, 70), timeout=20)
    assert answer.status_code == 202
    assert requests.get(address + answer.headers["Location"], timeout=5).status_code == 404
    until(lambda: db.count_predictions("bottles") == 1)
    assert requests.get(address + answer.headers["Location"], timeout=5).json()["predicted"] == "OK"


def test_a_heatmap_is_drawn_for_a_recorded_image_only(web: Web, source: RigSource, tmp_path: Path) -> None:
    source.make = with_scale
    address = web()
    sha = requests.post(f"{address}/lines/bottles/images", data=_bytes(tmp_path, 150), timeout=20).json()["sha256"]
    answer = requests.get(f"{address}/lines/bottles/heatmaps/{sha}.png", timeout=20)
    assert answer.status_code == 200
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height
    assert requests.get(f"{address}/lines/bottles/heatmaps/{'0' * 64}.png", timeout=5).status_code == 404
    (source.lines["bottles"].folder / "uploads" / f"{sha}.png").unlink()
    assert requests.get(f"{address}/lines/bottles/heatmaps/{sha}.png", timeout=5).status_code == 410


def test_one_heatmap_is_drawn_at_a_time(
    web: Web, source: RigSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, held = heatmap_drawer._beside, [0, 0]

    def watched(*what: Any) -> bytes:
        held[0] += 1
        held[1] = max(held)
        time.sleep(0.1)
        picture = drawn(*what)
        held[0] -= 1
        return picture

    monkeypatch.setattr(heatmap_drawer, "_beside", watched)
    source.make = with_scale
    address = web()
    sha = requests.post(f"{address}/lines/bottles/images", data=_bytes(tmp_path, 150), timeout=20).json()["sha256"]
    with ThreadPoolExecutor(4) as pool:
        picture = f"{address}/lines/bottles/heatmaps/{sha}.png"
        assert {each.status_code for each in pool.map(lambda _: requests.get(picture, timeout=20), range(4))} == {200}
    assert held == [0, 1]


@pytest.mark.spec("S1.02")
def test_with_a_token_nothing_but_health_is_told_without_it(web: Web, tmp_path: Path) -> None:
    address = web(token="a long random text")
    for path in ("/lines", "/metrics", "/lines/nowhere/predictions", "/lines/bottles/predictions/0"):
        assert requests.get(address + path, timeout=5).status_code == 401
        wrong = requests.get(address + path, headers={"Authorization": "Bearer another"}, timeout=5)
        assert wrong.status_code == 401
    assert requests.post(f"{address}/lines/bottles/images", data=_bytes(tmp_path, 50), timeout=5).status_code == 401
    right = {"Authorization": "Bearer a long random text"}
    assert requests.get(f"{address}/lines", headers=right, timeout=5).status_code == 200
    assert requests.get(f"{address}/lines", auth=("anybody", "a long random text"), timeout=5).status_code == 200
    assert requests.get(f"{address}/health", timeout=5).json() == {"alive": True}


def test_a_page_that_calls_this_machine_by_another_name_is_turned_away(web: Web) -> None:
    address = web()
    assert requests.get(f"{address}/lines", headers={"Host": "evil.example"}, timeout=5).status_code == 421
    # With a token the name counts too.
    secret = {"Host": "evil.example", "Authorization": "Bearer a long random text"}
    assert requests.get(f"{web(token='a long random text')}/lines", headers=secret, timeout=5).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["images", "results/1/labels"])
@pytest.mark.spec("S1.02")
def test_a_page_of_another_site_can_send_nothing(web: Web, tmp_path: Path, headers: dict[str, str], path: str) -> None:
    address = web()
    answer = requests.post(f"{address}/lines/bottles/{path}", data=_bytes(tmp_path, 50), headers=headers, timeout=20)
    assert answer.status_code == 403
    assert "requests from pages of other sites are refused" in answer.text.lower()


def test_a_page_of_its_own_may_send_an_image(web: Web, tmp_path: Path) -> None:
    address = web()
    for nonce, headers in enumerate([{"Origin": address}, {"Origin": address, "Sec-Fetch-Site": "same-origin"}]):
        data = _bytes(tmp_path, 50, nonce)
        answer = requests.post(f"{address}/lines/bottles/images", data=data, headers=headers, timeout=20)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("host", "token", "open_"),
    [
        ("0.0.0.0", "", True),
        ("::", "", True),
        ("10.0.0.5", "", True),
        ("0.0.0.0", "x", False),
        ("localhost", "", False),
        ("::1", "", False),
    ],
)
@pytest.mark.spec("S1.02")
def test_the_door_to_other_machines_needs_a_token(host: str, token: str, open_: bool) -> None:
    if open_:
        with pytest.raises(InputError, match="VAD_TOKEN"):
            refuse_open_door(host, bool(token))
    else:
        refuse_open_door(host, bool(token))


@pytest.mark.spec("S1.06")
def test_metrics_tell_what_happened(web: Web, source: RigSource, db: InspectionDatabase) -> None:
    address = web()
    for i in range(3):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") == 3)
    until(
        lambda: 'vad_images_total{line="bottles",result="OK"} 3.0' in requests.get(f"{address}/metrics", timeout=5).text
    )
    text = requests.get(f"{address}/metrics", timeout=5).text
    assert 'vad_arrival_to_result_seconds_count{line="bottles"} 3.0' in text
    assert 'vad_model_info{line="bottles",version="1"} 1.0' in text
    assert "vad_ready 1.0" in text
    for row in text.splitlines():
        assert row.startswith("#") or float(row.rpartition(" ")[2]) >= 0


def test_metrics_tell_agreement_with_people_and_messages_that_fail(
    web: Web, source: RigSource, db: InspectionDatabase
) -> None:
    for i in range(2):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    rule = NoticeRule(frozenset({"ng"}), "shift")
    due_messages(db, {("bottles", "shift"): rule}, "worker")
    record_told(db, Message("bottles", "shift", ()), "no answer", rule)
    address = web()
    until(lambda: db.count_predictions("bottles") == 2)
    for prediction_id, label in ((1, "OK"), (2, "NG")):
        record_label(db, prediction_id, label, by=Actor("Kim"))  # type: ignore[arg-type]
    text = requests.get(f"{address}/metrics", timeout=5).text
    assert 'vad_label_agreement{line="bottles"} 0.5' in text
    assert 'vad_message_failures{line="bottles",receiver="shift"} 1.0' in text
    assert 'vad_messages_given_up{line="bottles",receiver="shift"} 0.0' in text


def test_metrics_tell_who_scores_beside_the_champion_and_where_the_gate_stands(
    web: Web, source: RigSource, db: InspectionDatabase
) -> None:
    source.change("bottles", shadow=ShadowedBy("2", datetime(2026, 1, 1, tzinfo=UTC), 1.0, gate="refused"))
    write_image(source.lines["bottles"].folder / "a.png", 150)
    address = web()
    wanted = {
        'vad_shadow_images{line="bottles",version="2"} 1.0',
        'vad_version_agreement{line="bottles",version="2"} 1.0',
        'vad_gate{line="bottles",state="refused"} 1.0',
    }
    until(lambda: wanted <= set(requests.get(f"{address}/metrics", timeout=5).text.splitlines()))


@pytest.mark.spec("W1.09")
def test_an_alarm_of_drift_stands_on_the_page_of_lines_and_in_the_metrics(
    web: Web, source: RigSource, db: InspectionDatabase
) -> None:
    source.change("bottles", monitor=MonitorSettings(usual_ng=0.2))
    address = web()
    for i in range(10):
        write_image(source.lines["bottles"].folder / f"{i}.png", 150, nonce=i)
    until(lambda: db.count_predictions("bottles") == 10)
    told = "NG has become more frequent: 100.0% of images, 20.0% is usual since"
    assert told in requests.get(f"{address}/", timeout=5).text
    (line,) = requests.get(f"{address}/lines", timeout=5).json()
    assert line["drift"][0].startswith(told)
    text = requests.get(f"{address}/metrics", timeout=5).text
    assert 'vad_drift_alarm{chart="ng_rate",line="bottles"} 1.0' in text
    assert 'vad_drift_level{chart="ng_rate",line="bottles"} 1.0' in text


@pytest.mark.spec("S1.06")
def test_a_line_that_cannot_be_served_is_not_ready(web: Web, source: RigSource) -> None:
    address = web()

    def refuse(line: str, version: str) -> BrightnessModel:
        raise OSError("the model folder is gone")

    source.make = refuse
    source.add("caps")
    until(lambda: requests.get(f"{address}/ready", timeout=5).status_code == 503)
    until(lambda: "the model folder is gone" in requests.get(f"{address}/ready", timeout=5).text)
    assert requests.get(f"{address}/health", timeout=5).status_code == 200


def test_the_interface_describes_itself(web: Web) -> None:
    described = requests.get(f"{web()}/openapi.json", timeout=5).json()
    assert {"/lines/{line}/images", "/lines/{line}/heatmaps/{sha256}.png", "/metrics", "/ready"} <= set(
        described["paths"]
    )
    body = described["paths"]["/lines/{line}/images"]["post"]["requestBody"]
    assert set(body["content"]) == {f"image/{kind}" for kind in ("png", "jpeg", "bmp", "tiff", "webp")}


def test_the_page_of_the_interface_loads_nothing_from_elsewhere(web: Web) -> None:
    address = web()
    page = requests.get(f"{address}/docs", timeout=20)
    assert page.status_code == 200
    assert "://" not in page.text
    for name, kind in (("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css")):
        assert f'"docs/{name}"' in page.text
        asset = requests.get(f"{address}/docs/{name}", timeout=20)
        assert asset.headers["content-type"].startswith(kind)
        assert len(asset.content) > 100_000
    for other in ("index.html", "swagger-editor.js", "..%2f__init__.py", "oauth2-redirect"):
        assert requests.get(f"{address}/docs/{other}", timeout=20).status_code in (404, 422)
    assert requests.get(f"{address}/redoc", timeout=20).status_code == 404


def test_the_page_of_the_interface_asks_for_the_token(web: Web) -> None:
    address = web(token="a long random text")
    for path in ("/docs", "/docs/swagger-ui.css", "/openapi.json"):
        assert requests.get(address + path, timeout=20).status_code == 401
        assert requests.get(address + path, auth=("anybody", "a long random text"), timeout=20).status_code == 200


PAGES_AND_API = ("/", "/lines/bottles/results", "/lines", "/lines/bottles/predictions", "/metrics", "/docs")


@pytest.mark.parametrize("token", ["a long: random text", "gehäuse"])
def test_pages_and_programs_are_let_in_by_the_same_headers(web: Web, token: str) -> None:
    address = web(token=token)

    def status(path: str, authorization: bytes) -> int:
        return requests.get(address + path, headers={"Authorization": authorization}, timeout=20).status_code

    def basic(password: str) -> bytes:
        return b"Basic " + base64.b64encode(f"anybody:{password}".encode())

    for path in PAGES_AND_API:
        for right in (b"Bearer " + token.encode(), b"bearer  " + token.encode(), basic(token)):
            assert status(path, right) == 200
        for wrong in (
            b"",
            b"Bearer",
            token.encode(),
            b"Bearer x",
            basic("x"),
            b"Basic \xff",
            b"Digest " + token.encode(),
        ):
            assert status(path, wrong) == 401


def _raw(address: str, *lines: str) -> str:
    """Return the head of the answer to a request that is sent as it is written."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as client:
        client.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
        return client.makefile("rb").read().decode("latin-1").partition("\r\n\r\n")[0]


@pytest.mark.parametrize("settings", [{}, {"token": "a long random text"}])
def test_a_name_of_another_is_never_led_to(web: Web, settings: dict[str, str]) -> None:
    address = web(**settings)
    token = "Authorization: Bearer a long random text"
    for path in ("/lines/", "/lines/bottles/results/"):
        ask = f"GET {path} HTTP/1.1"
        assert "location: http://127.0.0.1/" in _raw(address, ask, "Host: 127.0.0.1", token).lower()
        for hosts in (
            ["Host: evil.example"],
            ["Host: evil.example", "Host: 127.0.0.1"],
            ["Host: 127.0.0.1", "Host: evil.example"],
            ["Host: 127.0.0.1@evil.example"],
            ["Host: 127.0.0.1:80@evil.example"],
            ["Host: 127.0.0.1, evil.example"],
            ["Host: 127.0.0.1:\xb2"],
            ["Host:"],
        ):
            told = _raw(address, ask, *hosts, token)
            assert told.partition(" ")[2][:3] in ("400", "421")
            assert "location" not in told.lower()
        forwarded = _raw(address, ask, "Host: 127.0.0.1", token, "X-Forwarded-Host: evil.example")
        assert "evil" not in forwarded


def test_log_lines_are_json_with_what_was_given() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        log_as_json("info", stream)
        logging.getLogger("vad.service").info("inspected", extra={"line": "bottles", "images": 3, "nothing": None})
        try:
            raise OSError("disk full")
        except OSError:
            logging.getLogger("vad.service").exception("trouble")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    first, second = (json.loads(row) for row in stream.getvalue().splitlines())
    assert (first["message"], first["line"], first["images"], first["level"]) == ("inspected", "bottles", 3, "info")
    assert "nothing" not in first
    assert "disk full" in second["exception"]


def test_the_first_page_shows_each_line_and_how_it_is_served(web: Web, source: RigSource) -> None:
    address = web()
    page = requests.get(address, timeout=20)
    assert page.status_code == 200
    assert 'href="/lines/bottles"' in page.text
    assert ">running<" in "".join(page.text.split())
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


def test_why_a_line_is_not_ready_is_told_to_those_who_bear_the_token_only(web: Web, source: RigSource) -> None:
    address = web(token="a long random text")

    def refuse(line: str, version: str) -> BrightnessModel:
        raise OSError("the folder /secret/place is gone")

    source.make = refuse
    source.add("caps")
    until(lambda: requests.get(f"{address}/ready", timeout=5).status_code == 503)
    token = {"Authorization": "Bearer a long random text"}
    until(lambda: "/secret/place" in requests.get(f"{address}/ready", headers=token, timeout=5).text)
    assert requests.get(f"{address}/ready", timeout=5).json()["reasons"] == {"caps": ""}


@pytest.mark.parametrize("number", [str(2**63), "-1", "1e30", "%00"])
def test_a_number_that_no_database_holds_is_refused(web: Web, number: str) -> None:
    address = web()
    assert requests.get(f"{address}/lines/bottles/results/{number}", timeout=5).status_code == 422
    assert requests.get(f"{address}/lines/bottles/results?first={number}", timeout=5).status_code == 422
    assert requests.get(f"{address}/lines/bottles/predictions?after={number}", timeout=5).status_code == 422


def test_uploads_are_bounded_together_and_their_room_comes_back(web: Web, source: RigSource, tmp_path: Path) -> None:
    address = web(max_upload_bytes=1000)
    loaded = _add_a_line_that_loads(source, address)
    images = [_bytes(tmp_path, 50, nonce) for nonce in range(100)]
    post = f"{address}/lines/caps/images?seconds=20"
    with ThreadPoolExecutor(len(images)) as pool:
        answers = [pool.submit(requests.post, post, data=data, timeout=40) for data in images]
        until(lambda: any(answer.done() and answer.result().status_code == 503 for answer in answers))
        loaded.set()
        assert {answer.result().status_code for answer in answers} == {200, 503}
    assert requests.post(post, data=images[0], timeout=40).status_code == 200
