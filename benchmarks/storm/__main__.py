"""Storms, one a seed.

    python -m benchmarks.storm --seed 7            one storm: real scorer, daemon, code server, fork server, MLflow
    python -m benchmarks.storm --seeds 20          twenty in a row, and a table
    python -m benchmarks.storm --small --seed 7    without Dagster and torch, some seconds
    python -m benchmarks.storm --seed 7 --plan     only say what would happen

The same seed is the same storm. Ends with 1 where something was lost, done twice or left half done.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.storm.full_disk import DatabaseDisk, enter_own_mounts
from benchmarks.storm.plan import FULL, SMALL, StormPlan, plan_storm
from benchmarks.storm.small_plant import SmallPlant
from benchmarks.storm.storm import Storm, StormResult
from vad_lib.lines import Home


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the first storm")
    parser.add_argument("--seeds", type=int, default=1, help="how many storms, with seeds that follow each other")
    parser.add_argument("--small", action="store_true", help="the small plant")
    parser.add_argument("--files", type=int, help="how many files land")
    parser.add_argument("--times", type=int, default=1, help="so many times the faults of a storm")
    parser.add_argument("--plan", action="store_true", help="print the faults and end")
    parser.add_argument("--keep", type=Path, help="work here, and leave everything of the last storm")
    parser.add_argument("--json", type=Path, help="write the table here too")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    shape = SMALL if given.small else FULL
    if given.files:
        shape = replace(shape, files=given.files)
    if given.times > 1:
        shape = replace(shape, faults=tuple((kind, given.times * number) for kind, number in shape.faults))
    plans = [plan_storm(seed, shape) for seed in range(given.seed, given.seed + given.seeds)]
    if given.plan:
        for plan in plans:
            _print_plan(plan)
        return 0
    enter_own_mounts("benchmarks.storm")
    # Each storm has a fresh registry under the same path: a connection that is kept would be to the one before.
    os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING, format="%(asctime)s %(message)s")
    scratch = given.keep or Path(tempfile.mkdtemp(prefix="vad-storm-"))
    try:
        results = _storms(plans, scratch.resolve(), small=given.small)
    finally:
        if not given.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    if given.json:
        given.json.write_text(json.dumps([_row(result) for result in results], indent=2))
    failed = [str(result.plan.seed) for result in results if result.troubles]
    print(
        f"{len(results) - len(failed)} of {len(results)} storms passed"
        + (f"; not: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def _storms(plans: list[StormPlan], scratch: Path, *, small: bool) -> list[StormResult]:
    scratch.mkdir(parents=True, exist_ok=True)
    head = f"{'seed':>6} {'files':>6} {'bad':>4} {'faults':>6}  {'killed':<56} {'disk full':>10} {'lanes':<22}"
    print(f"{head} {'seconds':>7}  verdict", flush=True)
    results = []
    template = None
    if not small:
        from benchmarks.storm.template import make_template

        template = make_template(scratch, plans[0].shape.lines)
    for plan in plans:
        home, folder = scratch / "home", scratch / "database"
        shutil.rmtree(home, ignore_errors=True)
        if template is None:
            home.mkdir()
        else:
            shutil.copytree(template, home, symlinks=True)
        disk = DatabaseDisk(folder)
        try:
            results.append(_one(plan, Home(home), disk, small=small))
        finally:
            if disk.real:
                _save_database(folder, home)
            disk.unmount()
        _print_row(results[-1])
    return results


def _one(plan: StormPlan, home: Home, disk: DatabaseDisk, *, small: bool) -> StormResult:
    if small:
        return Storm(plan, SmallPlant(home, disk.url, plan.shape.lines), disk, patience=180).run()
    from benchmarks.storm.full_plant import FullPlant

    return Storm(plan, FullPlant(home, disk.url, plan.shape.lines), disk, patience=600).run()


def _save_database(folder: Path, home: Path) -> None:
    for file in folder.glob("inspection.db*"):
        shutil.copy(file, home / file.name)


def _row(result: StormResult) -> dict[str, object]:
    return {**asdict(result), "plan": None, "seed": result.plan.seed, "files": result.plan.shape.files}


def _print_row(result: StormResult) -> None:
    kills = ", ".join(f"{name} {number}" for name, number in sorted(result.kills.items()))
    lanes = ", ".join(f"{name} {number}" for name, number in sorted(result.lanes.items()))
    plan = result.plan
    numbers = f"{plan.seed:>6} {plan.shape.files:>6} {result.bad:>4} {len(plan.faults) - len(result.missed):>6}"
    full = f"{result.disk_full_seconds:>5.1f}s{result.disk_full_met:>4}" if result.disk_real else "  not real"
    outcome = f"{result.seconds:>7.1f}  {'FAILED' if result.troubles else 'passed'}"
    print(
        f"{numbers}  {kills:<56} {full} {lanes:<22} {outcome}",
        flush=True,
    )
    for fault in result.missed:
        print(f"       not done: {fault.kind} after {fault.after} files")
    if result.troubles:
        for trouble in result.troubles[:40]:
            print(f"       {trouble}")
        _print_plan(plan)
        words = sys.argv[1:]
        print(f"       again: python -m benchmarks.storm {' '.join(words)} --seed {plan.seed} --seeds 1", flush=True)


def _print_plan(plan: StormPlan) -> None:
    print(f"seed {plan.seed}: {plan.shape.files} files on {len(plan.shape.lines)} lines")
    for fault in plan.faults:
        print(f"  after {fault.after:>5} files: {fault.kind} ({fault.line}, {fault.down:.1f} s)")


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    sys.exit(main())
