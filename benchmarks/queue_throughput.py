"""How many micro-batches go through the queue on PostgreSQL, with many writers: beside another checkout's code.

    python -m benchmarks.queue_throughput [--other CHECKOUT] [--writers 16] [--seconds 10] [--quick]

A micro-batch is 2 small files, all the way: registered, leased, read, scored by a model that costs nothing, and
finished. All writers are processes. ``network``: each transaction that writes takes so much longer before it ends, as
it does where the database is on another machine. Both checkouts are measured in turn, on one server that is started
for it, and the medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.homes import REPOSITORY
from tests.postgres_server import ABSENT, OwnServer, new_database, postgres_programs

WRITERS = Path(__file__).with_name("queue_writers.py")
OURS, OTHER = "ours", "other"
WANTED = 2.5


def measure(server: OwnServer, checkout: Path, writers: int, lines: int, seconds: float, network: float) -> Any:
    """Return what ``queue_writers`` printed, on a new database."""
    with new_database(server.url) as url, tempfile.TemporaryDirectory(prefix="vad-queue-") as folder:
        words = [url, folder, writers, lines, seconds, network]
        answer = subprocess.run(
            [sys.executable, "-P", str(WRITERS), *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            timeout=seconds + 400,
            check=True,
        )
        return json.loads(answer.stdout)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="another checkout of this project, measured in turn")
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--lines", type=int, nargs="+", help="how many lines they write to; 16 and 1 by default")
    parser.add_argument("--network", type=float, nargs="+", default=[0.0, 10.0], help="milliseconds")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.seconds, given.rounds = 2.0, 1
    # Whoever ends it ends the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    programs = postgres_programs()
    if programs is None:
        raise SystemExit(ABSENT)
    sides = {OURS: REPOSITORY} | ({OTHER: given.other.resolve()} if given.other else {})
    server = OwnServer(programs)
    rows = []
    try:
        server.start()
        print(f"{given.writers} writers, {given.rounds} rounds of {given.seconds:g} s in turn; {_machine()}")
        print(
            f"  {'lines':>5} {'network':>8} {'side':<6} {'micro-batches/s':>15} {'transactions each':>18} {'/s':>8}",
            end="",
        )
        print("   ours / other (micro-batches a second)")
        for lines in given.lines or (given.writers, 1):
            for network in given.network:
                rows += _compare(server, sides, lines, network, given)
    finally:
        server.remove()
    if given.json:
        given.json.write_text(json.dumps({"machine": _machine(), "rows": rows}, indent=2), encoding="utf-8")


def _compare(
    server: OwnServer, sides: dict[str, Path], lines: int, network: float, given: argparse.Namespace
) -> list[dict[str, Any]]:
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for turn in range(given.rounds):
        for name in sides if turn % 2 else reversed(sides):
            found[name].append(measure(server, sides[name], given.writers, lines, given.seconds, network))
    rows = []
    for name, results in found.items():
        row = {
            "lines": lines,
            "network_ms": network,
            "side": name,
            "batches_per_second": statistics.median(each["batches"] / each["seconds"] for each in results),
            "transactions_per_second": statistics.median(each["transactions"] / each["seconds"] for each in results),
            "transactions_per_batch": statistics.median(each["transactions"] / each["batches"] for each in results),
        }
        ratio = ""
        if name == OURS and OTHER in found:
            row["ratio"] = statistics.median(
                ours["batches"] / theirs["batches"] for ours, theirs in zip(found[OURS], found[OTHER], strict=True)
            )
            ratio = f"   {row['ratio']:.2f}   wanted: at least {WANTED:g}"
        print(
            f"  {lines:>5} {network:>5g} ms {name:<6} {row['batches_per_second']:>15.1f} "
            f"{row['transactions_per_batch']:>18.2f} {row['transactions_per_second']:>8.0f}{ratio}",
            flush=True,
        )
        rows.append(row)
    return rows


def _machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
