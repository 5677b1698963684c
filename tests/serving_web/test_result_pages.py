"""Pages around one prediction, asked over a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
import uvicorn
from brightness_model import BrightnessModel, write_image
from serving_rig import RigSource, until

from tests.browser import page
from vad_dagster.service.people import Tokens
from vad_dagster.service.web_app import WebSettings, create_app
from vad_lib.heatmaps import HeatmapScale
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import label_history, record_label
from vad_lib.serving import InferenceService, ServiceLimits

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["page"]

Pages = Callable[..., str]


@pytest.fixture
def pages(db: InspectionDatabase, source: RigSource) -> Iterator[Pages]:
    """Start a service on two images, a dark one (OK) and a bright one (NG), and return the address of its results."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def begin(token: str = "") -> str:
        write_image(source.lines["bottles"].folder / "dark.png", 50)
        write_image(source.lines["bottles"].folder / "bright.png", 200)
        app = create_app(InferenceService(db, source, ServiceLimits(follow_seconds=0.1)), WebSettings(Tokens(token)))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        until(lambda: server.started)
        until(lambda: db.count_predictions("bottles") == 2)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/lines/bottles/results"

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join(20)


def _numbers(db: InspectionDatabase) -> dict[str, int]:
    rows = db.predictions("bottles")
    return {Path(path).stem: int(number) for path, number in zip(rows["path"], rows["prediction_id"], strict=True)}


@pytest.mark.spec("S1.07")
def test_a_result_shows_its_numbers_image_row_and_labels(
    pages: Pages, db: InspectionDatabase, source: RigSource
) -> None:
    address, numbers = pages(), _numbers(db)
    here = f"{address}/{numbers['bright']}"
    page = requests.get(here, timeout=20)
    assert page.status_code == 200
    assert "bright.png" in page.text
    assert 'class="NG"' in page.text
    row = requests.get(f"{here}/row", timeout=20).json()
    assert row["predictions"]["prediction_id"] == numbers["bright"]
    assert [file["path"] for file in row["incoming_files"]] == ["bright.png"]
    image = requests.get(f"{here}/image", timeout=20)
    assert image.content == (source.lines["bottles"].folder / "bright.png").read_bytes()
    assert image.headers["content-type"] == "image/png"
    said = requests.post(f"{here}/labels", json={"label": "OK", "person": "Kim <b>", "note": "dust"}, timeout=20)
    assert said.status_code == 201
    assert "Kim &lt;b&gt;" in requests.get(here, timeout=20).text
    listed = requests.get(address, timeout=20).text
    assert "2 predictions." in listed
    assert "1 false alarms" in listed


def test_the_list_is_narrowed_by_version_run_and_stretch(pages: Pages, db: InspectionDatabase) -> None:
    address, numbers = pages(), _numbers(db)
    first, last = sorted(numbers.values())

    def images(**chosen: object) -> set[str]:
        text = requests.get(address, params=chosen, timeout=20).text
        return {name for name in numbers if f"{name}.png" in text}

    assert images() == {"dark", "bright"}
    assert images(first=first, last=first) == {name for name, number in numbers.items() if number == first}
    assert images(first=last) == {name for name, number in numbers.items() if number == last}
    assert images(predicted="NG") == {"bright"}
    assert images(version="vad-other/1") == set()
    assert images(run="nothing") == set()


@pytest.mark.spec("L1.02")
def test_what_is_no_label_or_no_prediction_is_refused(pages: Pages, db: InspectionDatabase) -> None:
    address, numbers = pages(), _numbers(db)
    here = f"{address}/{numbers['dark']}/labels"
    for body in ({"label": "ok", "person": "Kim"}, {"label": "OK", "person": ""}, {"label": "OK", "person": " "}):
        assert requests.post(here, json=body, timeout=20).status_code == 422
    # a form, which a page elsewhere could send
    form = {"Content-Type": "text/plain"}
    assert requests.post(here, data='{"label": "OK", "person": "Kim"}', headers=form, timeout=20).status_code == 422
    assert requests.get(f"{address}/99", timeout=20).status_code == 404
    assert requests.get(address.replace("bottles", "caps"), timeout=20).status_code == 404
    assert requests.get(f"{address}/99/event", timeout=20, allow_redirects=False).status_code == 404


def test_an_image_that_was_replaced_is_not_shown(pages: Pages, db: InspectionDatabase, source: RigSource) -> None:
    address, numbers = pages(), _numbers(db)
    write_image(source.lines["bottles"].folder / "dark.png", 70)
    for what in ("image", "heatmap.png"):
        assert requests.get(f"{address}/{numbers['dark']}/{what}", timeout=20).status_code == 410


def test_a_browser_brings_the_token_as_password(pages: Pages, db: InspectionDatabase) -> None:
    address = pages("secret")
    refused = requests.get(address, timeout=20)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert requests.get(address, auth=("anybody", "wrong"), timeout=20).status_code == 401
    assert requests.get(address, auth=("anybody", "secret"), timeout=20).status_code == 200
    assert requests.get(address, headers={"Authorization": "Bearer secret"}, timeout=20).status_code == 200


def test_a_heatmap_is_drawn_by_the_version_that_scored_the_image(
    pages: Pages, db: InspectionDatabase, source: RigSource
) -> None:
    def make(line: str, version: str) -> BrightnessModel:
        model = BrightnessModel()
        model.heatmap_scale = HeatmapScale(low=0, contour=100, high=255)  # type: ignore[attr-defined]
        return model

    source.make = make
    address, numbers = pages(), _numbers(db)
    source.change("bottles", model_version="2")
    until(lambda: ("bottles", "2") in source.loaded)
    until(lambda: requests.get(address.replace("/bottles/results", ""), timeout=20).json()[0]["warm"] == "2")
    for _ in range(2):
        picture = requests.get(f"{address}/{numbers['dark']}/heatmap.png", timeout=20)
        assert picture.status_code == 200
        assert picture.content.startswith(b"\x89PNG")
    # the old version once for its images, once for the pictures
    assert source.loaded.count(("bottles", "1")) == 2


@pytest.mark.spec("L1.01")
def test_labels_given_elsewhere_are_on_the_page(pages: Pages, db: InspectionDatabase) -> None:
    address, numbers = pages(), _numbers(db)
    record_label(db, numbers["dark"], "NG", by=Actor("Lee"), note="crack")
    text = requests.get(f"{address}/{numbers['dark']}", timeout=20).text
    assert "Lee" in text
    assert "crack" in text


def test_the_page_of_one_image_judges_it_takes_it_back_and_leads_to_its_neighbours(
    pages: Pages, db: InspectionDatabase, page: Page
) -> None:
    address = pages()
    first, second = sorted(_numbers(db).values())
    page.add_init_script("localStorage.setItem('vad-person', 'Kim')")
    page.goto(f"{address}/{first}")
    page.locator("#viewer .picture[data-state=shown] img").wait_for()
    page.get_by_text("Nobody has said yet what this part is").wait_for()
    page.locator("#kind").fill("dent")
    page.get_by_role("button", name="NG n").click()
    page.get_by_text("Kim said NG").wait_for()
    page.get_by_role("button", name="dent").wait_for()
    page.get_by_role("button", name="take it back").click()
    page.get_by_text("Nobody has said yet what this part is").wait_for()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"{address}/{second}")
    page.keyboard.press("o")
    page.get_by_text("Kim said OK").wait_for()
    assert list(label_history(db, "bottles")["label"]) == ["NG", "withdrawn", "OK"]
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
