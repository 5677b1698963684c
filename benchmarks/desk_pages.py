"""How long the pages of the desk take with many predictions, and what open pages cost the inference service.

    python -m benchmarks.desk_pages [--rows 100000] [--images 1500] [--only pages|live] [--url postgresql://…]

``pages``: the time until each page has come, from a service whose line has so many predictions; wanted: < 300 ms.
``live``: images a second, and processor time of the service for each, without open pages and with ten; wanted: < 5 %.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from sqlalchemy import insert

from benchmarks.burst import small_images
from benchmarks.homes import REPOSITORY, call, environment_of
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.database import chunks, utc_now
from vad_lib.inspection_db.schema import DONE, REFUSED, images, incoming_files, labels, predictions
from vad_lib.lines import Home

LINE = "line0"
WANTED_SECONDS, WANTED_COST = 0.3, 0.05
PATIENCE_SECONDS = 900.0
PAGES = (
    "/",
    f"/lines/{LINE}",
    f"/lines/{LINE}/results",
    f"/lines/{LINE}/results?view=table",
    f"/lines/{LINE}/results?predicted=NG",
    f"/lines/{LINE}/results?predicted=refused",
    f"/lines/{LINE}/results?told=judged",
    f"/lines/{LINE}/results?told=unjudged",
    f"/lines/{LINE}/results?told=differs",
    f"/lines/{LINE}/results?kind=kind2",
    f"/lines/{LINE}/results?version=1",
    f"/lines/{LINE}/results?order=anomalous",
    f"/lines/{LINE}/results?order=uncertain&predicted=OK",
    f"/lines/{LINE}/results?order=oldest&uncertain=true",
    f"/lines/{LINE}/results?name=000042",
    f"/lines/{LINE}/results?name=in-no-name",
    f"/lines/{LINE}/results?name=in-no-name&order=anomalous",
    f"/lines/{LINE}/results/MIDDLE",
    f"/lines/{LINE}/review",
    f"/lines/{LINE}/review/next",
    f"/lines/{LINE}/performance",
    f"/lines/{LINE}/threshold",
    f"/lines/{LINE}/versions",
    f"/lines/{LINE}/changes",
    "/changes",
)
"""``MIDDLE`` is a prediction in the middle. A page that is not there is passed over."""

POSTS = (f"/lines/{LINE}/review/next",)
"""Pages that ask by a POST."""


def fill(db: InspectionDatabase, count: int) -> None:
    """Write so many predictions of a line, a day's work of one, with labels of every fiftieth and refused files."""
    random, now = np.random.default_rng(0), utc_now()
    is_ng = random.random(count) < 0.03
    scores = np.where(is_ng, random.beta(5, 2, count) / 2 + 0.5, random.beta(2, 5, count) / 2)
    numbers = range(count)
    for some in chunks(numbers, 5000):
        files, contents, rows, said = [], [], [], []
        for number in some:
            moment = now - timedelta(days=1) * ((count - number) / count)
            sha = hashlib.sha256(str(number).encode()).hexdigest()
            of_image: dict[str, Any] = {"line": LINE, "sha256": sha}
            contents.append(
                of_image | {"first_file": "x", "width": 64, "height": 64, "channels": 3, "first_seen": moment}
            )
            file: dict[str, Any] = of_image | {
                "folder": "/in",
                "path": f"{number:06}.jpg",
                "size": 1,
                "mtime_ns": number,
            }
            file |= {
                "inode": number,
                "ctime_ns": number,
                "deliveries": 0,
                "arrived_at": moment,
                "registered_at": moment,
            }
            is_refused = number % 200 == 0
            file |= {"state": REFUSED if is_refused else DONE, "decided_at": moment + timedelta(seconds=0.4)}
            file |= (
                {"rule": "unreadable_image", "reason": "truncated"} if is_refused else {"rule": None, "reason": None}
            )
            files.append(file)
            row = of_image | {"model_version": f"vad-{LINE}/{1 + 3 * number // count}", "path": f"/in/{number:06}.jpg"}
            row |= {"raw_score": scores[number] * 10, "p": float(scores[number]), "certainty": 0.5, "threshold": 5.0}
            row |= {"predicted": "NG" if scores[number] >= 0.5 else "OK", "threshold_version": "t" * 64}
            row |= {"inference_threshold": 0.5, "source": "online", "seconds": 0.01, "created_at": moment}
            rows.append(row)
            if number % 50 == 0:
                is_wrong = number % 500 == 0
                label = {"OK": "NG", "NG": "OK"}[row["predicted"]] if is_wrong else row["predicted"]
                kind = f"kind{number % 7}" if label == "NG" else None
                said.append({"label": label, "kind": kind, "person": "Kim", "created_at": moment})
        with db.writing(line=LINE) as connection:
            connection.execute(insert(images), contents)
            connection.execute(insert(incoming_files), files)
            connection.execute(insert(predictions), rows)
            judged = connection.execute(
                predictions.select().with_only_columns(predictions.c.prediction_id)
                .where(predictions.c.path.in_([row["path"] for row in rows[::50]]))
                .order_by(predictions.c.prediction_id)
            ).scalars()  # fmt: skip
            given = [one | {"prediction_id": number} for one, number in zip(said, judged, strict=True)]
            connection.execute(insert(labels), given)
    if db.is_postgresql:
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")


class Service:
    """A service with its pages, as a process."""

    def __init__(self, home: Home, model: Path, url: str | None = None) -> None:
        command = [sys.executable, "-m", "benchmarks.desk_pages", "--serve", str(model)]
        self.process = subprocess.Popen(
            command,
            env=environment_of(home.root, url),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        told = self.process.stdout.readline().decode().split()
        if not told:
            raise SystemExit("the inference service did not start")
        self.address = f"http://127.0.0.1:{told[0]}"
        self._seen = psutil.Process(self.process.pid)

    def cpu_seconds(self) -> float:
        """Return the processor time so far."""
        times = self._seen.cpu_times()
        return times.user + times.system

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(60)


def serve(model: Path) -> None:
    """Be that process, on a free port that is printed."""
    import signal
    import socket

    from benchmarks.service_process import OneModel
    from vad_dagster.service.process import ServiceSettings, serve_and_end
    from vad_dagster.service.web_app import create_app
    from vad_lib.serving import InferenceService

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = Home.from_environment()
    service = InferenceService(InspectionDatabase.of(home), OneModel(home, model, 1))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app = create_app(service)

    def tell() -> None:
        while not service.followed_at or service.not_ready():
            time.sleep(0.05)
        print(port, flush=True)

    threading.Thread(target=tell, daemon=True).start()
    serve_and_end(app, ServiceSettings(port=port, log_level="error"))


def measure_pages(scratch: Path, model: Path, rows: int, url: str | None) -> dict[str, Any]:
    """Print the time of each page from a line with so many predictions."""
    home = Home(scratch / "many")
    home.line(LINE).inbox.mkdir(parents=True)
    db = InspectionDatabase(url or f"sqlite:///{home.root / 'inspection.db'}")
    began = time.perf_counter()
    fill(db, rows)
    print(f"{rows} predictions, {db.engine.dialect.name}, written in {time.perf_counter() - began:.0f} s; {_machine()}")
    service, found = Service(home, model, url), {}
    middle = str(rows // 2 + 1)
    try:
        with requests.Session() as session:
            for page in PAGES:
                times = []
                for _ in range(6):
                    began = time.perf_counter()
                    address = service.address + page.replace("MIDDLE", middle)
                    asks = {"person": "Kim"} if page in POSTS else None
                    reply = session.request("POST" if asks else "GET", address, json=asks, timeout=60)
                    times.append(time.perf_counter() - began)
                if reply.status_code != 200:
                    print(f"  {page:<62} {reply.status_code}")
                    continue
                found[page] = {"first": times[0], "median": statistics.median(times[1:]), "most": max(times[1:])}
                mark = "" if found[page]["median"] < WANTED_SECONDS else "   more than wanted"
                told = "   ".join(f"{name} {seconds * 1000:6.0f} ms" for name, seconds in found[page].items())
                print(f"  {page:<62} {told}{mark}", flush=True)
    finally:
        service.end()
    return found


@contextmanager
def open_pages(address: str, count: int) -> Iterator[list[int]]:
    """Let so many pages follow a line, each fetching the pictures that it is told of; yields how many each fetched."""
    ended, fetched = threading.Event(), [0] * count

    def follow(number: int) -> None:
        with requests.Session() as session:
            session.get(f"{address}/lines/{LINE}", timeout=60)
            with requests.get(f"{address}/events", params={"line": LINE}, stream=True, timeout=60) as stream:
                for line in map(bytes.decode, stream.iter_lines(chunk_size=1)):
                    if ended.is_set():
                        return
                    if line.startswith("data: ") and isinstance(told := json.loads(line[6:])["html"], list):
                        for tile in told:
                            picture = tile.partition('<img src="')[2].partition('"')[0]
                            fetched[number] += session.get(address + picture, timeout=60).status_code == 200

    threads = [threading.Thread(target=follow, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    yield fetched
    ended.set()


def measure_live(scratch: Path, model: Path, count: int, browsers: int = 10, rounds: int = 3) -> dict[str, Any]:
    """Print the rate and the cost of an image without open pages and with some, in turn on one service."""
    home = Home(scratch / "live")
    inbox = home.line(LINE).inbox
    inbox.mkdir(parents=True)
    files = small_images(scratch / "camera", count * (2 * rounds + 1))
    db, service = InspectionDatabase(f"sqlite:///{home.root / 'inspection.db'}"), Service(home, model)
    done, results = 0, dict[int, list[tuple[float, float]]]()

    def inspect() -> tuple[float, float]:
        nonlocal done
        began, cpu = time.perf_counter(), service.cpu_seconds()
        for file in files[done : done + count]:
            file.rename(inbox / file.name)
        done += count
        while db.count_predictions(LINE) < done:
            if time.perf_counter() - began > PATIENCE_SECONDS:
                raise SystemExit("images have no result")
            time.sleep(0.1)
        return count / (time.perf_counter() - began), (service.cpu_seconds() - cpu) / count

    try:
        inspect()  # what is slow at first is in no figure
        for _ in range(rounds):
            results.setdefault(0, []).append(inspect())
            with open_pages(service.address, browsers) as fetched:
                time.sleep(1.0)
                results.setdefault(browsers, []).append(inspect())
                pictures = sum(fetched)
    finally:
        service.end()
    print(f"{rounds} times {count} images of 64 px, in turn without and with {browsers} open pages; {_machine()}")
    middle = {}
    for open_count, each in results.items():
        rate, cpu = (statistics.median(values) for values in zip(*each, strict=True))
        middle[open_count] = {"images_per_second": rate, "cpu_seconds_per_image": cpu}
        rates = ", ".join(f"{one:.1f}" for one, _ in each)
        print(
            f"  {open_count:>2} open pages: {rate:6.1f} images/s ({rates}), {1000 * cpu:6.1f} ms of processor an image"
        )
    less = 1 - middle[browsers]["images_per_second"] / middle[0]["images_per_second"]
    more = middle[browsers]["cpu_seconds_per_image"] / middle[0]["cpu_seconds_per_image"] - 1
    print(
        f"  cost: {less:+.1%} of the rate, {more:+.1%} processor (wanted: < {WANTED_COST:.0%}); "
        f"{pictures} pictures were fetched in the last round"
    )
    return {"without": middle[0], "with": middle[browsers], "cost": less, "processor": more}


def _machine() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--only", choices=["pages", "live"])
    parser.add_argument("--url", help="an empty PostgreSQL database for the pages")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return
    result = {}
    with tempfile.TemporaryDirectory(prefix="vad-desk-") as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        call("small-models", environment_of(home), Path(scratch) / "models")
        model = Path(scratch) / "models" / "a"
        if given.only != "live":
            result["pages"] = measure_pages(Path(scratch), model, given.rows, given.url)
        if given.only != "pages":
            result["live"] = measure_live(Path(scratch), model, given.images)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
