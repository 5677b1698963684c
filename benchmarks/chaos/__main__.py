"""Chaos tests, one a seed.

    python -m benchmarks.chaos --seed 7                  one: real inference service, daemon, code server and MLflow
    python -m benchmarks.chaos --seeds 20                twenty in a row, and a table
    python -m benchmarks.chaos --small --seed 7          without Dagster and torch, some seconds
    python -m benchmarks.chaos --machines 2 --seed 7     two services that stand for two machines, on PostgreSQL
    python -m benchmarks.chaos --seed 7 --plan           only say what would happen

The same seed is the same chaos test. Ends with 1 where something was lost, done twice or left half done.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.chaos.chaos_test import ChaosResult, ChaosTest
from benchmarks.chaos.databases import Database, DatabaseDisk, DatabaseServer, enter_own_mounts
from benchmarks.chaos.plan import FULL, SMALL, TWO_MACHINES, ChaosPlan, Shape, on_server, plan_chaos
from benchmarks.chaos.small_rig import SmallRig, TwoMachines
from vad_lib.lines import Home

SQLITE, POSTGRESQL = "sqlite", "postgresql"


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the first chaos test")
    parser.add_argument("--seeds", type=int, default=1, help="how many, with seeds that follow each other")
    parser.add_argument("--small", action="store_true", help="the small test rig")
    parser.add_argument("--machines", type=int, choices=(1, 2), default=1, help="2: two services of the small test rig")
    parser.add_argument(
        "--database", default=SQLITE, help=f"{SQLITE}, {POSTGRESQL} (a server of its own), or a server's address"
    )
    parser.add_argument("--files", type=int, help="how many files arrive")
    parser.add_argument("--times", type=int, default=1, help="so many times the faults")
    parser.add_argument("--plan", action="store_true", help="print the faults and end")
    parser.add_argument("--keep", type=Path, help="work here, and leave everything of the last chaos test")
    parser.add_argument("--json", type=Path, help="write the table here too")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    if given.machines == 2 and given.database == SQLITE:
        given.database = POSTGRESQL
    plans = [plan_chaos(seed, _shape(given)) for seed in range(given.seed, given.seed + given.seeds)]
    if given.plan:
        for plan in plans:
            _print_plan(plan)
        return 0
    if given.database == SQLITE:
        enter_own_mounts("benchmarks.chaos")
    # Whoever ends it ends what it has started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Each chaos test has a fresh registry under the same path: a connection that is kept would be to the one before.
    os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING, format="%(asctime)s %(message)s")
    # What it says when its connections end is what is brought about here.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    scratch = given.keep or Path(tempfile.mkdtemp(prefix="vad-chaos-"))
    try:
        results = _run_all(plans, scratch.resolve(), given)
    finally:
        if not given.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    if given.json:
        given.json.write_text(json.dumps([_row(result) for result in results], indent=2))
    failed = [str(result.plan.seed) for result in results if result.troubles]
    print(
        f"{len(results) - len(failed)} of {len(results)} chaos tests passed"
        + (f"; not: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def _shape(given: argparse.Namespace) -> Shape:
    shape = TWO_MACHINES if given.machines == 2 else SMALL if given.small else FULL
    if given.files:
        shape = replace(shape, files=given.files)
    if given.times > 1:
        shape = replace(shape, faults=tuple((kind, given.times * number) for kind, number in shape.faults))
    return shape if given.database == SQLITE else on_server(shape)


def _run_all(plans: list[ChaosPlan], scratch: Path, given: argparse.Namespace) -> list[ChaosResult]:
    scratch.mkdir(parents=True, exist_ok=True)
    head = f"{'seed':>6} {'files':>6} {'bad':>4} {'faults':>6}  {'killed':<64} {'database failed':>15} {'again':>5}"
    print(f"{head}  {'sources':<24} {'seconds':>7}  outcome", flush=True)
    results = []
    template = None
    if not given.small and given.machines == 1:
        from benchmarks.chaos.home_template import make_template

        template = make_template(scratch, plans[0].shape.lines)
    for plan in plans:
        home, folder = scratch / "home", scratch / "database"
        shutil.rmtree(home, ignore_errors=True)
        if template is None:
            home.mkdir()
        else:
            shutil.copytree(template, home, symlinks=True)
        address = "" if given.database == POSTGRESQL else given.database
        database: Database = DatabaseDisk(folder) if given.database == SQLITE else DatabaseServer(address)
        try:
            results.append(_run(plan, Home(home), database, given))
        finally:
            if given.database == SQLITE and database.real:
                _save_database(folder, home)
            database.remove()
        _print_row(results[-1])
    return results


def _run(plan: ChaosPlan, home: Home, database: Database, given: argparse.Namespace) -> ChaosResult:
    if given.machines == 2:
        return ChaosTest(plan, TwoMachines(home, database.url, plan.shape.lines), database, patience=240).run()
    if given.small:
        return ChaosTest(plan, SmallRig(home, database.url, plan.shape.lines), database, patience=180).run()
    from benchmarks.chaos.full_rig import FullRig

    return ChaosTest(plan, FullRig(home, database.url, plan.shape.lines), database, patience=900).run()


def _save_database(folder: Path, home: Path) -> None:
    for file in folder.glob("inspection.db*"):
        shutil.copy(file, home / file.name)


def _row(result: ChaosResult) -> dict[str, object]:
    return {**asdict(result), "plan": None, "seed": result.plan.seed, "files": result.plan.shape.files}


def _print_row(result: ChaosResult) -> None:
    kills = ", ".join(f"{name} {number}" for name, number in sorted(result.kills.items()))
    sources = ", ".join(f"{name} {number}" for name, number in sorted(result.sources.items()))
    plan = result.plan
    numbers = f"{plan.seed:>6} {plan.shape.files:>6} {result.bad:>4} {len(plan.faults) - len(result.missed):>6}"
    failed = f"{result.database_seconds:>5.1f}s{result.database_met:>9}" if result.database_real else "       not real"
    outcome = f"{result.seconds:>7.1f}  {'FAILED' if result.troubles else 'passed'}"
    print(f"{numbers}  {kills:<64} {failed} {result.delivered_again:>5}  {sources:<24} {outcome}", flush=True)
    for fault in result.missed:
        print(f"       not done: {fault.kind} after {fault.after} files")
    if result.troubles:
        for trouble in result.troubles[:40]:
            print(f"       {trouble}")
        _print_plan(plan)
        words = sys.argv[1:]
        print(f"       again: python -m benchmarks.chaos {' '.join(words)} --seed {plan.seed} --seeds 1", flush=True)


def _print_plan(plan: ChaosPlan) -> None:
    print(f"seed {plan.seed}: {plan.shape.files} files on {len(plan.shape.lines)} lines")
    for fault in plan.faults:
        print(f"  after {fault.after:>5} files: {fault.kind} ({fault.line}, {fault.down:.1f} s)")


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    sys.exit(main())
