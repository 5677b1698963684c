"""Live and the gallery in a real browser: pictures come by themselves, and all works by keyboard and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from brightness_model import write_image
from serving_rig import RigSource, until

from tests.browser import page
from tests.serving_web.conftest import Web
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.queue import pauses

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["page"]


def _fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("width", [390, 1400])
def test_results_come_by_themselves_and_a_line_is_paused_by_keyboard(
    page: Page, web: Web, source: RigSource, db: InspectionDatabase, width: int
) -> None:
    address, inbox = web(), Path(source.lines["bottles"].folder)
    page.set_default_timeout(20_000)
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"{address}/lines/bottles")
    page.get_by_text("No image has been inspected yet").wait_for()
    write_image(inbox / "good.png", 50)
    page.get_by_role("link", name="good.png").wait_for()
    write_image(inbox / "bad.png", 200)
    newest = page.locator(".tile").first
    newest.get_by_role("link", name="bad.png").wait_for()
    assert newest.locator(".verdict").inner_text() == "NG"
    picture = newest.locator("img")
    page.wait_for_function("one => one.complete && one.naturalWidth > 0", arg=picture.element_handle())
    assert page.get_by_text("No image has been inspected yet").is_hidden()
    assert _fits(page)

    page.get_by_label("your name").fill("Kim")
    page.get_by_text("Pause or resume this line").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("the lamp flickers")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("the lamp flickers").wait_for()
    until(lambda: pauses(db)["bottles"].person == "Kim")
    assert _fits(page)

    page.get_by_role("link", name="Gallery").first.click()
    page.get_by_label("NG", exact=True).check()
    page.wait_for_url("**/results?predicted=NG")
    page.get_by_role("link", name="bad.png").wait_for()
    assert page.get_by_role("link", name="good.png").count() == 0
    assert _fits(page)
