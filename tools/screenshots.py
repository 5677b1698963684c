"""Takes the pictures of the README from the running product: ``make screenshots``, after ``make demo``.

Starts both UIs on the home that the demo filled, drives Debian's chromium, and writes PNG files of at most 300 KB.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vad_dagster.cli.guard import stop
from vad_dagster.cli.supervisor import answers
from vad_dagster.home import prepare_home
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.heatmaps import contact_sheet
from vad_lib.lines import Home, Line

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LINE = "demo"
WIDTH, MOST_BYTES = 1400, 300_000
START_SECONDS, PAGE_SECONDS = 180, 90
BROWSER = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="names of pictures, such as report")
    parser.add_argument("--into", type=Path, default=IMAGES, metavar="FOLDER")
    options = parser.parse_args()
    line = Home.from_environment().line(LINE)
    if not line.train_artifacts.is_dir():
        sys.exit(f"There is no trained line {LINE!r} under {line.folder}: run `make demo` first, or set VAD_HOME.")
    options.into.mkdir(parents=True, exist_ok=True)
    wanted = set(options.only) or {*PAGES, "report", "heatmaps"}
    if "heatmaps" in wanted:
        save(heatmaps_of(line), options.into / "heatmaps.png")
    with browser() as page:
        if "report" in wanted:
            page.goto(next((line.train_artifacts / "report").glob("*.html")).as_uri())
            save(picture_of(page, height=1150), options.into / "report.png")
        if wanted & set(PAGES):
            with running_uis() as (dagster, mlflow):
                for name in PAGES:
                    if name in wanted:
                        save(PAGES[name](page, dagster, mlflow), options.into / f"{name}.png")


def graph(page: Page, dagster: str, _: str) -> Image.Image:
    page.set_viewport_size({"width": WIDTH, "height": 560})  # the graph is fitted to it when groups open
    page.goto(f"{dagster}/asset-groups")
    page.get_by_text("monitoring").last.wait_for()
    page.get_by_role("button", name="Hide navigation").click()
    page.locator("button[class*=filled]:has([aria-label=panel_show_right])").click()
    page.keyboard.press("Alt+e")
    page.get_by_text("drift_report").last.wait_for()
    return picture_of(page, height=560)


def checks(page: Page, dagster: str, _: str) -> Image.Image:
    page.goto(f"{dagster}/assets/inference_outputs?view=checks&checkDetail=all_images_decided")
    page.get_by_text("Latest execution").wait_for()
    return picture_of(page, height=760)


def model(page: Page, _: str, mlflow: str) -> Image.Image:
    number = LineRegistry(MLflowTracking(), LINE).versions()[0].number
    # else a panel for asking a language model covers a quarter of the page
    page.add_init_script(
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
    )
    page.goto(f"{mlflow}/#/models/vad-{LINE}/versions/{number}")
    page.get_by_text("On the validation rows").wait_for()
    return picture_of(page)


PAGES = {"dagster_graph": graph, "dagster_checks": checks, "mlflow_model": model}


def at(server: str, address: str) -> str:
    return re.sub("^https?://[^/]+", server, address)


def heatmaps_of(line: Line) -> Image.Image:
    """Return heatmaps of different kinds of defect on one sheet."""
    folder = line.train_artifacts / "extra_output" / "train" / "images"
    found = [next(iter(sorted(folder.glob(f"{kind}_NG_*")))) for kind in ("letters", "circle", "dots", "line")]
    return contact_sheet([Image.open(file).convert("RGB") for file in found], 2, WIDTH // 2 - 15)


def picture_of(page: Page, height: int = 900) -> Image.Image:
    page.set_viewport_size({"width": WIDTH, "height": height})
    # fonts, transitions and late queries
    page.wait_for_timeout(4000)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "page.png"
        page.screenshot(path=file, animations="disabled")
        return Image.open(file).convert("RGB")


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture with as many colours as its size allows; half of them for what is not grey, however small."""
    pixels = np.asarray(picture).reshape(-1, 3)
    colourful = np.ptp(pixels.astype(int), axis=1) > 24
    generator = np.random.default_rng(0)
    parts = [
        part[generator.integers(0, len(part), 40_000)] for part in (pixels[colourful], pixels[~colourful]) if len(part)
    ]
    sample = Image.fromarray(np.concatenate(parts).reshape(len(parts) * 200, 200, 3))
    for colours in (256, 128, 64, 48):
        palette = sample.quantize(colours)
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size <= MOST_BYTES:
            break
    print(f"{file} ({file.stat().st_size // 1000} kB)")


@contextmanager
def browser() -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("No chromium was found: apt-get install chromium.")
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=program, args=list(BROWSER))
        page = window.new_page(viewport={"width": WIDTH, "height": 900})
        page.set_default_timeout(PAGE_SECONDS * 1000)
        yield page
        window.close()


@contextmanager
def running_uis() -> Iterator[tuple[str, str]]:
    """Both UIs as ``vad dev`` starts them; yields their addresses."""
    ports = [free_port(), free_port()]
    command = [sys.executable, "-m", "vad_dagster.cli.app", "dev"]
    command += ["--port", str(ports[0]), "--mlflow-port", str(ports[1])]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        addresses = [f"http://127.0.0.1:{port}" for port in ports]
        try:
            deadline = time.monotonic() + START_SECONDS
            while not all(answers(address) for address in addresses):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"The UIs do not come up:\n{log.read().decode(errors='replace')[-3000:]}")
                time.sleep(0.5)
            yield addresses[0], addresses[1]
        finally:
            stop([process], seconds=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    os.environ.update(prepare_home())
    main()
