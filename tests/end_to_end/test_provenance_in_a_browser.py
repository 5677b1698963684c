"""From a picture to the database row, the Dagster event, the MLflow version and the threshold, and back, by clicks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_processes import SMALL_PLAN, Place, free_ports, wait_for

from vad_dagster.cli.supervisor import answers
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.synthetic import make_demo_drop, make_demo_line

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LINE = "bricks"


@dataclass(frozen=True)
class Plant:
    """Three servers on one home, with a line that was trained, and images that its inference service has scored."""

    dagster: str
    mlflow: str
    service: str
    db: InspectionDatabase


@pytest.fixture
def plant(place: Place, tmp_path: Path) -> Iterator[Plant]:
    data = tmp_path / "data"
    make_demo_line(data, train_normal=24, valid_normal=6, valid_of_each_kind=2, side=64)
    drop = make_demo_drop(data / "drop", 5, normal=2, defective=1, broken=0, side=64)
    (data / "experimental_plan.yaml").write_text(SMALL_PLAN)
    place.vad("line", "add", LINE, "--plan", data / "experimental_plan.yaml")
    ports = dict(zip(("dagster", "mlflow", "service"), free_ports(3), strict=True))
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    # the version is registered before the servers run: it must know where they will be
    place.environment |= {f"{name.upper()}_UI_URL": address for name, address in addresses.items()}
    place.vad("train", LINE)
    options = ["--port", ports["dagster"], "--mlflow-port", ports["mlflow"], "--service-port", ports["service"]]
    home = Home(place.home)
    db = InspectionDatabase.of(home)
    with place.development(*options, log=tmp_path / "dev.log"):
        for address in addresses.values():
            wait_for(lambda address=address: answers(address), 240, f"answer of {address}")
        inbox = home.line(LINE).inbox
        for file in drop["file"]:
            partial = inbox / f".{Path(file).name}.part"
            shutil.copyfile(file, partial)
            partial.rename(inbox / Path(file).name)
        wait_for(lambda: db.count_predictions(LINE) == len(drop), 240, "prediction of every image")
        yield Plant(addresses["dagster"], addresses["mlflow"], addresses["service"], db)


def follow(page: Page, name: str) -> None:
    folded = page.locator("#internals:not([open]) > summary")
    if folded.count():
        folded.click()
    page.get_by_role("link", name=name, exact=True).first.click()


def click_here(link: Locator) -> None:
    """Click a link that would open a page of its own, so that it opens in this one."""
    link.wait_for()
    link.evaluate("one => one.removeAttribute('target')")
    link.click()


def test_a_result_is_followed_from_any_end_by_clicks(page: Page, plant: Plant) -> None:
    predictions = plant.db.predictions(LINE)
    assert set(predictions["source"]) == {"online"}
    chosen = predictions.iloc[0]
    result = f"{plant.service}/lines/{LINE}/results/{chosen['prediction_id']}"
    name = Path(chosen["path"]).name

    # from the list to the picture
    page.goto(f"{plant.service}/lines/{LINE}/results")
    follow(page, name)
    page.wait_for_url(result)
    picture = page.get_by_role("img", name="where the detector looks")
    wait_for(lambda: picture.evaluate("one => one.complete && one.naturalWidth > 0"), 120, "heatmap")
    assert str(picture.get_attribute("src")).endswith("/overlay.jpg")

    # to the row, and back by the link that stands in it
    follow(page, "Database row")
    page.wait_for_url(f"{result}/row")
    row = page.evaluate("JSON.parse(document.body.innerText)")
    assert row["predictions"]["sha256"] == chosen["sha256"]
    assert row["links"]["page"] == result

    # to the event in Dagster, once its sensor has told it, and back
    page.goto(result)
    deadline = time.monotonic() + 180
    while True:
        follow(page, "Dagster event")
        page.wait_for_url(f"{plant.dagster}/assets/inference_outputs?**")
        if "view=events" in page.url:
            break
        assert time.monotonic() < deadline, f"the event is not told: {page.url}"
        page.wait_for_timeout(3000)
        page.goto(result)
    event = page.url
    click_here(page.locator(f'a[href*="/#/models/vad-{LINE}/versions/1"]').first)
    page.wait_for_url(f"{plant.mlflow}/#/models/vad-{LINE}/versions/1")
    page.goto(event)
    click_here(page.locator(f'a[href*="/lines/{LINE}/results?"]').first)
    page.wait_for_url(f"{plant.service}/lines/{LINE}/results?**")
    follow(page, name)
    page.wait_for_url(result)

    # to the version in MLflow, and on by its description
    follow(page, "MLflow version")
    page.wait_for_url(f"{plant.mlflow}/#/models/vad-{LINE}/versions/1")
    click_here(page.get_by_role("link", name="run in MLflow", exact=True).first)
    page.wait_for_url(f"{plant.mlflow}/#/experiments/**/runs/**")
    page.goto(result)

    # to the threshold that decided
    follow(page, str(chosen["threshold_version"]))
    page.wait_for_url(f"{plant.mlflow}/#/experiments/**/threshold/threshold.json")
    page.get_by_text(str(chosen["threshold_version"])[:12]).first.wait_for()

    # a person says what it is
    page.goto(result)
    page.get_by_placeholder("your name").fill("Kim")
    page.get_by_role("button", name="NG").click()
    page.get_by_role("cell", name="Kim").first.wait_for()
