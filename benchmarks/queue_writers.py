"""Writers that pass made-up files through the queue of a PostgreSQL database, as processes of any checkout's code.

Run by ``benchmarks.queue_throughput`` as a file, so that ``vad_lib`` is the one of ``PYTHONPATH``:

    python benchmarks/queue_writers.py URL FOLDER WRITERS LINES SECONDS NETWORK_MS

Prints JSON: how many micro-batches ended, and how many transactions that write they took.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.thresholds import Calibration, Threshold

FILES = 2
"""Of one micro-batch."""


class Answer(NamedTuple):
    """What the model says about an image."""

    raw_score: float
    map: Any = None


class MeanModel:
    """Costs nothing: an image is the more anomalous the brighter it is."""

    threshold = Threshold(value=100.0, method="chosen", n_normal=1, n_anomalous=1, rows_digest="0" * 64)
    calibration = Calibration(threshold=100.0, scale=20.0)

    def predict_pixels(self, images: Any, *, with_maps: bool = False) -> list[Answer]:
        """Return one answer an image."""
        return [Answer(float(pixels.mean())) for pixels in images]


class Files:
    """New images of 8 x 8 pixels in a folder, each of another content."""

    def __init__(self, folder: Path, writer: int) -> None:
        self._folder = folder
        self._writer = writer
        self._number = 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self) -> list[tuple[str, os.stat_result]]:
        """Write the files of a micro-batch; return their names and facts."""
        made = []
        for _ in range(FILES):
            self._number += 1
            name = f"{self._writer:02}-{self._number:07}.png"
            pixels = np.random.default_rng((self._writer, self._number)).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(self._folder / name)
            made.append((name, (self._folder / name).stat()))
        return made

    def remove(self, made: list[tuple[str, os.stat_result]]) -> None:
        """Remove them again."""
        for name, _ in made:
            (self._folder / name).unlink()


def one_queue(db: Any, line: Any, folder: Path) -> Callable[[list[tuple[str, os.stat_result]]], int]:
    """Register, lease and finish: return what does it, and says how many files were decided."""
    from vad_lib.ingest import Arrival, FileVersion
    from vad_lib.inspection import Served
    from vad_lib.inspection.worker import Worker, work_on
    from vad_lib.queue import new_worker, register

    worker, served = Worker(new_worker(), "online", goes_on=lambda: True), Served(MeanModel(), "1")

    def pass_through(made: list[tuple[str, os.stat_result]]) -> int:
        register(db, line.name, folder, [Arrival(FileVersion.of(name, facts), time.time()) for name, facts in made])
        return len(work_on(db, line, served, worker, FILES).decided)

    return pass_through


def batches_and_claims(db: Any, line: Any, folder: Path) -> Callable[[list[tuple[str, os.stat_result]]], int]:
    """As checkouts before the one queue do it: take up, inspect with claims, finish."""
    from vad_lib.inspection.claims import new_owner
    from vad_lib.landing.scanning import FileKey
    from vad_lib.scorer.taking_up import Candidate, finish, take_up

    from vad_lib.inspection import inspect_pending

    owner = new_owner()

    def pass_through(made: list[tuple[str, os.stat_result]]) -> int:
        found = [Candidate(FileKey(name, facts.st_size, facts.st_mtime_ns), time.time()) for name, facts in made]
        taken = take_up(db, line.name, folder, found, owner)
        assert taken is not None
        inspect_pending(
            db, MeanModel(), model_version="1", line=line, batch_id=taken.batch_id, lane="fast", batch_size=FILES
        )
        return len(finish(db, taken.batch_id, owner) or ())

    return pass_through


def slow_network(seconds: float) -> list[float]:
    """Let each transaction that writes take so much longer before it ends, as over a network.

    Returns:
        When each ended, on the monotonic clock; it grows.
    """
    writing = InspectionDatabase.writing
    ended: list[float] = []

    @contextmanager
    def slowly(self: InspectionDatabase, **how: Any) -> Iterator[Any]:
        with writing(self, **how) as connection:
            yield connection
            time.sleep(seconds)
        ended.append(time.monotonic())

    InspectionDatabase.writing = slowly  # type: ignore[method-assign]
    return ended


def write(
    number: int, url: str, root: Path, lines: int, network: float, seconds: float, start: Any, counts: list[Any]
) -> None:
    """Be one writer for so long."""
    batches, files, transactions = counts
    line = Home(root).line(f"line{number % lines}")
    made_files = Files(line.folder / "arriving", number)
    db = InspectionDatabase(url)
    try:
        import vad_lib.queue  # noqa: F401

        pass_through = one_queue(db, line, line.folder / "arriving")
    except ImportError:
        pass_through = batches_and_claims(db, line, line.folder / "arriving")
    pass_through(made_files.write())  # connects, and imports what is imported late
    ended = slow_network(network)
    start.wait(120)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        made = made_files.write()
        ended.clear()
        decided = pass_through(made)
        if time.monotonic() < deadline:
            with files.get_lock():
                files.value += decided
                batches.value += 1
                transactions.value += len(ended)
        made_files.remove(made)


def main(url: str, folder: str, writers: int, lines: int, seconds: float, network_ms: float) -> None:
    """Let all writers run, and print what they did."""
    root = Path(folder)
    InspectionDatabase(url).engine.dispose()
    context = multiprocessing.get_context("fork")
    start = context.Barrier(writers)
    counts = [context.Value("q", 0) for _ in range(3)]
    processes = [
        context.Process(target=write, args=(number, url, root, lines, network_ms / 1000, seconds, start, counts))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds + 300)
    if any(process.exitcode != 0 for process in processes):
        raise SystemExit(f"writers ended with {[process.exitcode for process in processes]}")
    batches, files, transactions = (count.value for count in counts)
    print(json.dumps({"batches": batches, "files": files, "transactions": transactions, "seconds": seconds}))


if __name__ == "__main__":
    address, place, how_many, on_lines, for_seconds, network = sys.argv[1:]
    main(address, place, int(how_many), int(on_lines), float(for_seconds), float(network))
