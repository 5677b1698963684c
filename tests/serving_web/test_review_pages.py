"""The review: people judge images one after the other, by keys or thumbs, and no answer is lost or written twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from brightness_model import BrightnessModel, write_image
from PIL import Image
from serving_rig import RigSource, until

from tests.browser import page
from tests.serving_web.conftest import Web
from vad_dagster.service.people import Tokens
from vad_lib.heatmaps import HeatmapScale
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import label_history, labels_that_hold, record_label

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["page"]


def with_maps(_: str, __: str) -> BrightnessModel:
    model = BrightnessModel()
    model.heatmap_scale = HeatmapScale(low=0, contour=100, high=255)  # type: ignore[attr-defined]
    return model


@pytest.fixture
def review(web: Web, source: RigSource, db: InspectionDatabase) -> Callable[..., str]:
    """Start a service whose line has that many images near the threshold; returns the address of its review."""

    def begin(count: int, **settings: Any) -> str:
        source.make = with_maps
        address = web(**settings)
        for number in range(count):
            write_image(source.lines["bottles"].folder / f"part{number}.png", 98 + number % 5, number, size=48)
        until(lambda: db.count_predictions("bottles") == count, seconds=120)
        return f"{address}/lines/bottles/review"

    return begin


def following(address: str, **wanted: Any) -> dict[str, Any]:
    answer = requests.post(f"{address}/next", json={"person": "Kim", **wanted}, timeout=20)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def open_review(page: Page, address: str) -> None:
    page.add_init_script("localStorage.setItem('vad-person', 'Kim')")
    page.goto(address)
    page.locator("#review[data-prediction]").wait_for()


def test_two_people_get_different_images_and_each_is_told_how_far_it_is(review: Callable[..., str]) -> None:
    address = review(5)
    kims, lees = following(address, count=3), following(address, person="Lee", count=3)
    numbers = [[one["prediction_id"] for one in found["items"]] for found in (kims, lees)]
    assert (len(numbers[0]), len(numbers[1])) == (3, 2)
    assert not set(numbers[0]) & set(numbers[1])
    assert (kims["judged_today"], kims["waiting"], kims["more_wait"]) == (0, 5, False)
    said = {"label": "NG", "kind": "crack", "person": "Kim", "key": "the first one"}
    here = address.replace("/review", f"/results/{numbers[0][0]}/labels")
    again = [requests.post(here, json=said, timeout=20) for _ in range(2)]
    assert [one.status_code for one in again] == [201, 201]
    assert again[0].json() == again[1].json()
    found = following(address, count=3, have=numbers[0][1:])
    assert (found["items"], found["judged_today"], found["waiting"]) == ([], 1, 4)
    assert 'data-kind="crack"' in requests.get(address, timeout=20).text


def test_an_undone_answer_is_ones_own_and_the_image_stays_with_who_undid_it(
    review: Callable[..., str], db: InspectionDatabase
) -> None:
    address = review(1)
    (item,) = following(address)["items"]
    results = address.replace("/review", f"/results/{item['prediction_id']}/labels")
    record_label(db, item["prediction_id"], "OK", by=Actor("Kim"))
    refused = requests.post(f"{results}/withdraw", json={"person": "Lee", "undo": True}, timeout=20)
    assert (refused.status_code, "Kim's" in refused.text) == (422, True)
    body = {"person": "Kim", "undo": True, "key": "back once"}
    assert [requests.post(f"{results}/withdraw", json=body, timeout=20).status_code for _ in range(2)] == [201, 201]
    assert list(label_history(db, "bottles")["label"]) == ["OK", "withdrawn"]
    assert following(address, person="Lee")["items"] == []
    record_label(db, item["prediction_id"], "NG", by=Actor("Kim"))
    taken = requests.post(f"{results}/withdraw", json={"person": "Lee", "note": "it is dust"}, timeout=20)
    assert taken.json()["label"] == "withdrawn"
    assert labels_that_hold(db, "bottles").empty


def test_who_only_looks_or_has_no_name_gets_no_image(review: Callable[..., str]) -> None:
    address = review(1, tokens=Tokens(approver="all secret", viewer="look secret"))
    looks, judges = ({"Authorization": f"Bearer {token}"} for token in ("look secret", "all secret"))
    assert requests.post(f"{address}/next", json={"person": "Kim"}, headers=looks, timeout=20).status_code == 403
    assert "needs the role reviewer" in requests.get(address, headers=looks, timeout=20).text
    nobody = requests.post(f"{address}/next", json={}, headers=judges, timeout=20)
    assert (nobody.status_code, "Say who you are" in nobody.text) == (422, True)


def test_pictures_are_such_as_browsers_show_and_keep(
    review: Callable[..., str], source: RigSource, db: InspectionDatabase
) -> None:
    address = review(0)
    Image.new("L", (60, 30), 120).save(source.lines["bottles"].folder / "part.tif")
    until(lambda: db.count_predictions("bottles") == 1)
    here = address.replace("/review", "/results/1")
    for what, size in (("picture", (60, 30)), ("overlay.jpg", (960, 480))):
        found = requests.get(f"{here}/{what}", timeout=20, stream=True)
        assert (found.headers["content-type"], "immutable" in found.headers["cache-control"]) == ("image/jpeg", True)
        with Image.open(found.raw) as picture:
            assert picture.size == size
    Path(source.lines["bottles"].folder / "part.tif").unlink()
    assert [requests.get(f"{here}/{what}", timeout=20).status_code for what in ("picture", "overlay.jpg")] == [410, 410]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_a_hundred_images_are_judged_by_keys_in_under_three_minutes(
    review: Callable[..., str], db: InspectionDatabase, page: Page, width: int
) -> None:
    address = review(105)
    page.set_viewport_size({"width": width, "height": 844})
    open_review(page, address)
    shown = page.locator("#review")
    picture = page.locator("#viewer .picture[data-state=shown] img")
    picture.wait_for()
    begun, judged, there = time.monotonic(), [], 0
    for number in range(100):
        judged.append(shown.get_attribute("data-prediction"))
        page.keyboard.down("n" if number % 3 else "o")
        there += picture.count() and picture.evaluate("image => image.complete && image.naturalWidth > 0")
        page.keyboard.up("n" if number % 3 else "o")
        page.wait_for_timeout(100)  # nobody looks at a picture for less
        picture.wait_for()
    assert time.monotonic() - begun < 180
    assert len(set(judged)) == 100
    assert there >= 95, "the next picture is there before the key is released"
    until(lambda: len(label_history(db, "bottles")) == 100)
    history = label_history(db, "bottles")
    assert list(map(str, history["prediction_id"])) == judged, "answers are sent in the order of being given"
    assert list(history["label"]) == ["NG" if number % 3 else "OK" for number in range(100)]
    assert fits(page)


def test_keys_judge_name_kinds_undo_and_go_back(review: Callable[..., str], db: InspectionDatabase, page: Page) -> None:
    address = review(6)
    record_label(db, 6, "NG", by=Actor("Lee"), kind="crack")
    open_review(page, address)
    shown = page.locator("#review")

    def press(key: str) -> str:
        before = shown.get_attribute("data-prediction") or ""
        page.keyboard.press(key)
        return before

    first, second, third = press("1"), press("u"), press("o")
    page.keyboard.press("z")
    assert shown.get_attribute("data-prediction") == third
    page.keyboard.press("k")
    page.keyboard.type("dent")
    page.keyboard.press("Enter")
    page.locator("#kinds button", has_text="dent").wait_for()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("You have said dent here").wait_for()
    page.keyboard.press("ArrowRight")
    fourth = press("2")
    expected = [
        (first, "NG", "crack"), (second, "unsure", None), (third, "OK", None), (third, "withdrawn", None),
        (third, "NG", "dent"), (fourth, "NG", "dent"),
    ]  # fmt: skip
    until(lambda: len(label_history(db, "bottles")) == 7)
    history = label_history(db, "bottles").iloc[1:]
    told = zip(history["prediction_id"].astype(str), history["label"], history["kind"], strict=True)
    assert [(number, label, kind or None) for number, label, kind in told] == expected
    page.keyboard.press("?")
    page.locator("#help[open]").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    page.get_by_text("Nothing waits for a look now").wait_for()


def test_boxes_are_drawn_by_mouse_and_by_keys_and_are_kept_in_pixels_of_the_image(
    review: Callable[..., str], db: InspectionDatabase, page: Page
) -> None:
    open_review(page, review(1))
    layer = page.locator("#viewer .picture .layer")
    page.locator("#viewer .picture[data-state=shown]").wait_for()
    around = layer.bounding_box()
    assert around is not None
    page.keyboard.press("b")
    scale = around["width"] / 48
    page.mouse.move(around["x"] + 6 * scale, around["y"] + 12 * scale)
    page.mouse.down()
    page.mouse.move(around["x"] + 18 * scale, around["y"] + 24 * scale, steps=3)
    page.mouse.up()
    for key in ("Enter", "ArrowLeft", "Shift+ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("n")
    until(lambda: len(label_history(db, "bottles")) == 1)
    assert label_history(db, "bottles")["boxes"][0] == "[[6, 12, 18, 24], [17, 18, 29, 31]]"


def test_an_answer_that_cannot_be_sent_is_shown_kept_and_sent_once(
    review: Callable[..., str], db: InspectionDatabase, page: Page
) -> None:
    address = review(4)
    open_review(page, address)
    page.route("**/labels", lambda route: route.abort())
    for key in "on":
        page.keyboard.press(key)
    page.get_by_text("2 answers wait to be sent").wait_for()
    page.once("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.get_by_text("2 answers wait to be sent").wait_for()
    assert label_history(db, "bottles").empty

    def written_but_not_told(route: Any) -> None:
        headers = {"Content-Type": "application/json"}
        requests.post(route.request.url, route.request.post_data, headers=headers, timeout=20)
        route.abort()

    page.unroute("**/labels")
    page.route("**/labels", written_but_not_told, times=1)
    page.locator("#review[data-unsent='0']").wait_for()
    page.locator("#sending").wait_for(state="hidden")
    assert list(label_history(db, "bottles")["label"]) == ["OK", "NG"]


def test_an_answer_that_is_refused_is_shown_with_the_reason_until_a_person_discards_it(
    review: Callable[..., str], db: InspectionDatabase, page: Page
) -> None:
    open_review(page, review(2))
    refusal = {"status": 422, "json": {"detail": "not like this"}}
    page.route("**/labels", lambda route: route.fulfill(**refusal), times=1)
    page.keyboard.press("n")
    page.get_by_text("NG was not taken. not like this").wait_for()
    page.keyboard.press("o")
    until(lambda: len(label_history(db, "bottles")) == 1)
    page.get_by_role("button", name="Send it again").click()
    until(lambda: len(label_history(db, "bottles")) == 2)
    page.locator("#unsent li").wait_for(state="detached")


def test_the_prediction_of_a_random_image_is_hidden_until_it_is_judged_or_asked_for(
    web: Web, source: RigSource, db: InspectionDatabase, page: Page
) -> None:
    from hashlib import sha256

    from vad_lib.inspection_db.monitoring import AUDIT

    source.make = with_maps
    address = web()
    folder, nonce = source.lines["bottles"].folder, 0
    while sha256(write_image(folder.parent / "part.png", 20, nonce, size=48).read_bytes()).hexdigest() >= AUDIT:
        nonce += 1
    (folder.parent / "part.png").rename(folder / "part.png")
    until(lambda: db.count_predictions("bottles") == 1)
    open_review(page, f"{address}/lines/bottles/review")
    page.get_by_text("What the detector says is hidden").wait_for()
    page.get_by_text("Press p to see it").wait_for()
    assert page.locator("#viewer .heatmap img").count() == 0
    page.keyboard.press("p")
    page.get_by_text("The detector says OK").wait_for()
    page.locator("#viewer .heatmap[data-state=shown] img").wait_for()
