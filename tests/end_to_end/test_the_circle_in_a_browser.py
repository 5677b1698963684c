"""The whole circle on a real line: images land, a person judges by keys, a training starts by itself with exactly these
labels, the challenger shadows, a person promotes it on the page, and goes back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from real_processes import SMALL_PLAN, Place, free_ports, wait_for
from sqlalchemy import func, select

from vad_dagster.cli.supervisor import answers
from vad_dagster.registry import CHAMPION, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import newest_changes
from vad_lib.inspection_db.labels import labels_that_hold
from vad_lib.inspection_db.schema import shadow_predictions
from vad_lib.lines import Home
from vad_lib.synthetic import make_demo_drop, make_demo_line

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

LINE = "bricks"
LANDED, JUDGED = 200, 100
ASKED = (
    f"operation: {{train_after_labels: {JUDGED}, retrain_interval_hours: 0, settle_seconds: 0.5, "
    "promotion: by_person, shadow_share: 1.0}\n"
)


@dataclass(frozen=True)
class Plant:
    """A line that was trained, its servers, and what the images that have landed are."""

    service: str
    db: InspectionDatabase
    registry: LineRegistry
    is_ng: dict[str, bool]
    inbox: Path
    more: pd.DataFrame

    def land(self, table: pd.DataFrame) -> None:
        for file in table["file"]:
            partial = self.inbox / f".{Path(file).name}.part"
            shutil.copyfile(file, partial)
            partial.rename(self.inbox / Path(file).name)

    def serving(self) -> str:
        found = self.registry.at(CHAMPION)
        return found.number if found else ""


@pytest.fixture
def plant(place: Place, tmp_path: Path) -> Iterator[Plant]:
    data = tmp_path / "data"
    make_demo_line(data, train_normal=40, valid_normal=12, valid_of_each_kind=3, side=64)
    drop = make_demo_drop(data / "drop", 5, normal=150, defective=50, broken=0, side=64)
    more = make_demo_drop(data / "more", 6, normal=30, defective=10, broken=0, side=64)
    (data / "experimental_plan.yaml").write_text(SMALL_PLAN + ASKED)
    place.vad("line", "add", LINE, "--plan", data / "experimental_plan.yaml")
    ports = dict(zip(("dagster", "mlflow", "service"), free_ports(3), strict=True))
    place.environment |= {f"{name.upper()}_UI_URL": f"http://127.0.0.1:{port}" for name, port in ports.items()}
    place.vad("train", LINE)
    home = Home(place.home)
    options = ["--port", ports["dagster"], "--mlflow-port", ports["mlflow"], "--service-port", ports["service"]]
    with place.development(*options, log=tmp_path / "dev.log"):
        for port in ports.values():
            wait_for(lambda port=port: answers(f"http://127.0.0.1:{port}"), 240, f"answer on port {port}")
        service, db = f"http://127.0.0.1:{ports['service']}", InspectionDatabase.of(home)
        is_ng = {Path(row.file).name: row.label != "good" for row in drop.itertuples()}
        made = Plant(service, db, LineRegistry(MLflowTracking(), LINE), is_ng, home.line(LINE).inbox, more)
        made.land(drop)
        wait_for(lambda: db.count_predictions(LINE) == LANDED, 400, "prediction of every image")
        yield made


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def judge(page: Page, plant: Plant, count: int) -> None:
    """Judge images by keys, as what they are."""
    paths = plant.db.predictions(LINE, limit=1000).set_index("prediction_id")["path"]
    screen = page.locator("#review[data-prediction]")
    for _ in range(count):
        screen.wait_for()
        number = int(str(screen.get_attribute("data-prediction")))
        page.keyboard.press("n" if plant.is_ng[Path(paths[number]).name] else "o")
        page.wait_for_function(
            "number => document.getElementById('review').dataset.prediction !== String(number)", arg=number
        )


def decide(page: Page, button: str, reason: str) -> None:
    """Write a reason and send it by the keyboard."""
    form = page.locator("form.decide", has=page.get_by_role("button", name=button))
    form.get_by_role("textbox").fill(reason)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def test_the_circle_from_an_image_to_the_version_that_learnt_from_it_and_back(page: Page, plant: Plant) -> None:
    page.add_init_script("localStorage.setItem('vad-person', 'Kim')")

    # half of the images on a telephone, half on a large screen
    for width, height in ((390, 800), (1400, 900)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{plant.service}/lines/{LINE}/review")
        judge(page, plant, JUDGED // 2)
        assert fits(page)
    wait_for(lambda: len(labels_that_hold(plant.db, LINE)) == JUDGED, 60, "label of every judged image")
    held = labels_that_hold(plant.db, LINE)
    assert set(held["person"]) == {"Kim"}

    # a training starts by itself, and takes exactly these labels
    wait_for(lambda: (last := plant.registry.last()) is not None and last.number == "2", 900, "second version")
    given = plant.registry.labels_of(plant.registry.version(2))
    assert sorted(given["label_id"]) == sorted(held["label_id"])
    assert plant.serving() == "1"

    # from the picture to the version and back, by clicks
    number = int(held["prediction_id"].iloc[0])
    page.goto(f"{plant.service}/lines/{LINE}/results/{number}")
    page.get_by_role("link", name="Versions that were given it").click()
    page.get_by_role("link", name="all labels of this version").click()
    page.wait_for_url(f"**/lines/{LINE}/versions/2/labels")
    assert page.locator("tr").count() == JUDGED + 1
    page.locator(f'a[href="/lines/{LINE}/results/{number}"]').click()
    page.wait_for_url(f"**/lines/{LINE}/results/{number}")

    # the challenger scores the same live images, and the page shows both
    plant.land(plant.more)
    wait_for(lambda: plant.db.count_predictions(LINE) == LANDED + len(plant.more), 300, "prediction of the new images")

    def shadowed() -> int:
        with plant.db.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(shadow_predictions)).scalar_one())

    wait_for(lambda: shadowed() >= 10, 400, "score of the challenger")
    for width, height in ((390, 800), (1400, 900)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{plant.service}/lines/{LINE}/versions")
        page.get_by_text("both say the same on").wait_for()
        assert fits(page)

    # a person opens the gate, and goes back
    decide(page, "Let it serve", "it has learnt from a hundred images")
    wait_for(lambda: plant.serving() == "2", 60, "promotion")
    page.get_by_text("it has learnt from a hundred images").first.wait_for()
    decide(page, "Go back to the version before", "to try the way back")
    wait_for(lambda: plant.serving() == "1", 60, "rollback")
    changes = newest_changes(plant.db, LINE, actions=["promote", "rollback"])
    assert list(zip(changes["action"], changes["person"], strict=True)) == [("rollback", "Kim"), ("promote", "Kim")]
