"""Dagster's UI in a headless browser: a line is materialized by clicks, and a wrong table is told in its checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from real_processes import SMALL_PLAN, Place, free_ports, wait_for

from vad_dagster.cli.supervisor import answers
from vad_lib.lines import Home
from vad_lib.synthetic import make_demo_drop, make_demo_line

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LINE = "bricks"


@pytest.fixture
def dagster(place: Place, tmp_path: Path) -> Iterator[str]:
    """A line whose table has two faults that training survives, and the address of Dagster's UI."""
    data = tmp_path / "data"
    make_demo_line(data, train_normal=30, valid_normal=8, valid_of_each_kind=2, side=64)
    make_demo_drop(data / "drop", 5, normal=4, defective=2, broken=0, side=64)
    table = next((data / "train").glob("*.csv"))
    rows = pd.read_csv(table)
    rows.loc[0, "label"] = None
    rows.loc[1, "image_path"] = "./good/nowhere.png"
    rows.to_csv(table, index=False)
    (data / "experimental_plan.yaml").write_text(SMALL_PLAN)
    place.vad("line", "add", LINE, "--plan", data / "experimental_plan.yaml")
    (port,) = free_ports(1)
    with place.development("--only", "dagster", "--port", port, log=tmp_path / "dev.log"):
        wait_for(lambda: answers(f"http://127.0.0.1:{port}"), 180, "answer of Dagster's UI")
        yield f"http://127.0.0.1:{port}"


def materialize(page: Page, address: str) -> None:
    """Click through to a launched run of all assets of a page, for all lines (there is one)."""
    page.goto(address)
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Partition selection").wait_for()
    dialog.get_by_role("button", name="All", exact=True).click()
    dialog.get_by_text("1 partition", exact=False).first.wait_for()
    dialog.get_by_role("button", name="Launch").click()
    dialog.wait_for(state="hidden")


def shows(page: Page, address: str, text: str) -> bool:
    """True where a page that is loaded anew shows a text within some seconds."""
    page.goto(address)
    with suppress(Exception):
        page.get_by_text(text, exact=True).first.wait_for(timeout=15_000)
        return True
    return False


@pytest.mark.spec("V1.01", "V3.01", "V3.02", "V3.03", "V9.02")
def test_a_line_is_materialized_by_clicks_and_a_wrong_table_is_told_in_its_checks(
    page: Page, dagster: str, place: Place, tmp_path: Path
) -> None:
    materialize(page, f"{dagster}/asset-groups")
    summary = Home(place.home).line(LINE).inference_artifacts / "score" / "inference_summary.yaml"
    wait_for(summary.is_file, 420, "summary of the inference")
    wait_for(lambda: shows(page, f"{dagster}/runs", "Success"), 120, "run that the page calls a success")
    assert shows(page, f"{dagster}/assets/inference_summary?view=partitions&partition={LINE}", "Materialized")

    page.goto(f"{dagster}/assets/model_evaluation?view=partitions&partition={LINE}")
    page.get_by_text("anomalous images are found").wait_for()
    links = page.get_by_role("link", name="training report")
    assert "/#/experiments/" in str(links.get_attribute("href"))

    # what was dropped stands in the check as a table, beside what to do
    page.goto(f"{dagster}/assets/validated_dataset?view=checks&checkDetail=missing_file")
    page.get_by_text("./good/nowhere.png").first.wait_for()
    assert "Traceback" not in page.inner_text("body")

    table = next((tmp_path / "data" / "train").glob("*.csv"))
    pd.read_csv(table).rename(columns={"label": "lable"}).to_csv(table, index=False)
    materialize(page, f"{dagster}/assets/ground_truth")
    page.goto(f"{dagster}/assets/ground_truth?view=checks&checkDetail=missing_columns")
    page.get_by_text("no column 'label'").first.wait_for(timeout=180_000)
    shown = page.inner_text("body")
    assert "'lable'" in shown
    assert "Failed" in shown
    assert "Traceback" not in shown
