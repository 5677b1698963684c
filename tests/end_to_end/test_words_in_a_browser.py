"""From two variables to words on a page: `vad dev`, a real server of a real model, and a browser.

The model is a tiny one of random numbers, so what it says has no meaning; everything else is real.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_processes import SMALL_PLAN, Place, free_ports, wait_for

from tests.words.tiny_vlm import VlmServer, tiny_vlm, vlm_server
from vad_dagster.cli.supervisor import answers
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.synthetic import make_demo_drop, make_demo_line
from vad_lib.words.describing import newest_description
from vad_lib.words.dialogue import newest_turns

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["tiny_vlm", "vlm_server"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

LINE = "bricks"


@dataclass(frozen=True)
class Plant:
    """The inference service as `vad dev` has started it, with an NG image."""

    service: str
    db: InspectionDatabase
    ng: int


@pytest.fixture
def plant(place: Place, tmp_path: Path, vlm_server: VlmServer) -> Iterator[Plant]:
    data = tmp_path / "data"
    make_demo_line(data, train_normal=24, valid_normal=6, valid_of_each_kind=2, side=64)
    drop = make_demo_drop(data / "drop", 5, normal=1, defective=3, broken=0, side=64)
    (data / "experimental_plan.yaml").write_text(SMALL_PLAN)
    place.vad("line", "add", LINE, "--plan", data / "experimental_plan.yaml")
    place.vad("train", LINE)
    place.environment |= {"VAD_VLM_URL": vlm_server.base_url, "VAD_VLM_MODEL": vlm_server.model}
    place.environment["VAD_VLM_SECONDS"] = "300"
    dagster, mlflow, service = free_ports(3)
    address = f"http://127.0.0.1:{service}"
    home = Home(place.home)
    db = InspectionDatabase.of(home)
    options = ["--port", dagster, "--mlflow-port", mlflow, "--service-port", service]
    with place.development(*options, log=tmp_path / "dev.log"):
        wait_for(lambda: answers(address), 240, "answer of the service")
        for file in drop["file"]:
            shutil.copyfile(file, home.line(LINE).inbox / Path(file).name)
        wait_for(lambda: db.count_predictions(LINE) == len(drop), 240, "prediction of every image")
        rows = db.predictions(LINE)
        yield Plant(address, db, int(rows.loc[rows["predicted"] == "NG", "prediction_id"].iloc[0]))


def fits(page: Page) -> bool:
    """Return whether nothing stands out of a page to the right."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@pytest.mark.spec("P4.06", "P7.10")
def test_a_person_reads_a_description_types_a_question_and_reads_the_answer(
    page: Page,
    plant: Plant,
    vlm_server: VlmServer,
) -> None:
    page.goto(f"{plant.service}/lines/{LINE}/results/{plant.ng}")
    page.get_by_role("button", name="Describe").click()
    description = page.locator("#description")
    description.get_by_text("The picture stayed on this machine.").wait_for(timeout=600_000)
    row = newest_description(plant.db, plant.ng)
    assert row is not None
    assert row.state == "done"
    assert row.raw_reply.split()[0] in description.inner_text()
    assert vlm_server.model in description.inner_text()

    # by the keyboard alone
    page.get_by_label("your question").focus()
    page.keyboard.type("What is wrong with this part?")
    page.keyboard.press("Enter")
    dialogue = page.locator("#dialogue")
    dialogue.locator(".question").get_by_text("What is wrong with this part?").wait_for()
    answer = dialogue.locator(".answer")
    answer.wait_for(timeout=600_000)
    turns = newest_turns(plant.db, LINE, plant.ng)
    assert [turn.role for turn in turns] == ["user", "assistant"]
    assert answer.locator("p").first.inner_text().split() == turns[1].text.split()
    assert fits(page)

    # a telephone
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    assert fits(page)

    page.goto(f"{plant.service}/lines/{LINE}/results")
    page.get_by_text("Ask about the line", exact=True).click()
    page.get_by_label("about how many hours").select_option("8")
    page.get_by_label("your question").fill("What was new this shift?")
    page.get_by_role("button", name="Ask").click()
    page.locator("#dialogue .answer").wait_for(timeout=600_000)
    assert fits(page)

    predictions = plant.db.predictions(LINE)
    assert predictions.set_index("prediction_id").loc[plant.ng, "predicted"] == "NG"
