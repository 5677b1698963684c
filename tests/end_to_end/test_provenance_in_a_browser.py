"""From a picture to the database row, the Dagster event, the MLflow version and the threshold, and back, by clicks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_processes import Place, wait_for

from vad_dagster.cli.development import answers
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.synthetic import make_demo_drop, make_demo_line

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LINE = "bricks"
PLAN = """
external_path:
    - load_train_data_path: ./train/
    - load_inference_data_path: ./drop/
user_parameters:
    - train_pipeline:
        - step: readiness
          args:
            - ok_class: good
              train_validate_column: train_val_split
        - step: train
          args:
            - model_name: patchcore
              img_size: [64, 64]
              model_parameters: {patchcore_backbone: resnet18, patchcore_coreset_sampling_ratio: 0.05}
"""


@dataclass(frozen=True)
class Plant:
    """Three servers on one home, with a line that was trained, and images that its scorer has scored."""

    dagster: str
    mlflow: str
    scorer: str
    db: InspectionDatabase


@pytest.fixture
def plant(place: Place, tmp_path: Path) -> Iterator[Plant]:
    data = tmp_path / "data"
    make_demo_line(data, train_normal=24, valid_normal=6, valid_of_each_kind=2, side=64)
    drop = make_demo_drop(data / "drop", 5, normal=2, defective=1, broken=0, side=64)
    (data / "experimental_plan.yaml").write_text(PLAN)
    place.vad("line", "add", LINE, "--plan", data / "experimental_plan.yaml")
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = dict(zip(("dagster", "mlflow", "scorer"), (one.getsockname()[1] for one in sockets), strict=True))
    for one in sockets:
        one.close()
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    # the version is registered before the servers run: it must know where they will be
    place.environment |= {f"{name.upper()}_UI_URL": address for name, address in addresses.items()}
    place.vad("train", LINE)
    options = ["--port", ports["dagster"], "--mlflow-port", ports["mlflow"], "--scorer-port", ports["scorer"]]
    command = [sys.executable, "-m", "vad_dagster.cli.app", "dev", *map(str, options)]
    process = place.start(command, tmp_path / "dev.log")
    home = Home(place.home)
    db = InspectionDatabase.of(home)
    try:
        for address in addresses.values():
            wait_for(lambda address=address: answers(address), 240, f"answer of {address}")
        inbox = home.line(LINE).inbox
        for file in drop["file"]:
            partial = inbox / f".{Path(file).name}.part"
            shutil.copyfile(file, partial)
            partial.rename(inbox / Path(file).name)
        wait_for(lambda: db.count_predictions(LINE) == len(drop), 240, "prediction of every image")
        yield Plant(addresses["dagster"], addresses["mlflow"], addresses["scorer"], db)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(Exception):
                process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def follow(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).first.click()


def test_a_result_is_followed_from_any_end_by_clicks(page: Page, plant: Plant) -> None:
    predictions = plant.db.predictions(LINE)
    assert set(predictions["lane"]) == {"fast"}
    chosen = predictions.iloc[0]
    result = f"{plant.scorer}/lines/{LINE}/results/{chosen['prediction_id']}"
    name = Path(chosen["path"]).name

    # from the list to the picture
    page.goto(f"{plant.scorer}/lines/{LINE}/results")
    follow(page, name)
    page.wait_for_url(result)
    picture = page.get_by_role("img", name="Image beside its heatmap")
    wait_for(lambda: picture.evaluate("one => one.complete && one.naturalWidth > 0"), 120, "heatmap")
    assert str(picture.get_attribute("src")).endswith("/heatmap.png"), "the heatmap itself, not what stands in for it"

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
    back = page.locator(f'a[href*="/lines/{LINE}/results?"]').first
    back.wait_for()
    address = str(back.get_attribute("href"))
    version_link = page.locator(f'a[href*="/#/models/vad-{LINE}/versions/1"]').first
    version_link.wait_for()
    assert address.startswith(plant.scorer)
    page.goto(address)
    follow(page, name)
    page.wait_for_url(result)

    # to the version in MLflow, and back by its description
    follow(page, "MLflow version")
    page.wait_for_url(f"{plant.mlflow}/#/models/vad-{LINE}/versions/1")
    link = page.get_by_role("link", name="Predictions", exact=True).first
    link.wait_for()
    assert str(link.get_attribute("href")).startswith(plant.scorer)
    assert page.get_by_role("link", name="Run in Dagster").first.get_attribute("href") is not None
    page.goto(str(link.get_attribute("href")))
    follow(page, name)
    page.wait_for_url(result)

    # to the threshold that decided
    follow(page, str(chosen["threshold_version"]))
    page.wait_for_url(f"{plant.mlflow}/#/experiments/**/threshold/threshold.json")
    page.get_by_text(str(chosen["threshold_version"])[:12]).first.wait_for()

    # a person says what it is
    page.goto(result)
    page.get_by_placeholder("your name").fill("Kim")
    page.get_by_role("button", name="NG").click()
    page.get_by_role("cell", name="Kim").wait_for()
