"""What must hold after a storm."""

from __future__ import annotations

import filecmp
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from sqlalchemy import select, text

from benchmarks.storm.landing import content_of, sha256_of_drop
from benchmarks.storm.plan import COPY_WITH_TIMES, DUPLICATE, GOOD, RULES, Drop
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import kept_aside
from vad_lib.landing.scanning import RESULT_SUFFIX

if TYPE_CHECKING:
    from benchmarks.storm.storm import Storm

PASSING_RULES = ("changed", "unreadable_image", "vanished")
"""By which an earlier version of a file that was written slowly may have been refused."""
LEFTOVERS = (".part", ".partial", ".link", ".new")
FULL_MESSAGES = ("(sqlite3.OperationalError) database or disk is full", "(sqlite3.OperationalError) disk I/O error")
MOST_NAMED = 5


def judge_storm(storm: Storm) -> None:
    """Write what is wrong into ``storm.result.troubles``, and what happened beside it."""
    result = storm.result
    result.bad = sum(drop.kind != GOOD for drop in storm.plan.drops)
    drops = [*storm.plan.drops, *storm.extra]
    result.disk_full_met = disk_full_met(storm.plant.home.root)
    result.troubles += _database_troubles(storm.db)
    for line in storm.plan.shape.lines:
        of_line = [drop for drop in drops if drop.line == line]
        result.troubles += [f"{line}: {each}" for each in _line_troubles(storm, line, of_line)]
    result.troubles += _leftovers(storm.plant.home.root)
    result.troubles += _unreadable_results(storm.plant.home.root)
    with storm.db.reading() as connection:
        lanes = connection.execute(text("SELECT lane, count(*) FROM predictions GROUP BY lane"))
        result.lanes = {str(lane): int(number) for lane, number in lanes}


def disk_full_met(home: Path) -> int:
    """Return how often processes of a home wrote that the disk of the database was full."""
    logs = [file.read_text(encoding="utf-8", errors="replace") for file in home.glob("*.log")]
    return sum(log.count(message) for log in logs for message in FULL_MESSAGES)


def _database_troubles(db: InspectionDatabase) -> list[str]:
    with db.reading() as connection:
        integrity = connection.execute(text("PRAGMA integrity_check")).scalars().all()
        foreign = connection.execute(text("PRAGMA foreign_key_check")).all()
    troubles = [f"integrity check: {each}" for each in integrity if each != "ok"]
    return troubles + [f"foreign key check: {tuple(each)}" for each in foreign[:MOST_NAMED]]


def _line_troubles(storm: Storm, line: str, drops: list[Drop]) -> list[str]:
    seed = storm.plan.seed
    inbox = storm.plant.home.line(line).inbox
    contents = {drop.path: sha256_of_drop(seed, drop) for drop in drops}
    sizes = {drop.path: len(content_of(seed, drop)) for drop in drops}
    rows: dict[str, list[Any]] = defaultdict(list)
    for row in storm.db.landings(line).itertuples():
        rows[row.path].append(row)
    troubles = [f"{path} landed, but nobody wrote it" for path in set(rows) - set(contents)]
    with storm.db.reading() as connection:
        kept = {
            (row.path, row.size): row for row in connection.execute(select(kept_aside).where(kept_aside.c.line == line))
        }

    # Which of several paths with one content came first is a matter of chance.
    winners: dict[str, list[str]] = defaultdict(list)
    for drop in drops:
        final = [row for row in rows[drop.path] if row.size == sizes[drop.path]]
        last = [row for row in final if row.rule not in ("changed", "vanished")]
        if drop.way == COPY_WITH_TIMES and {(row.state, row.sha256) for row in last} == {("done", contents[drop.path])}:
            # Its times were set after it had been inspected. So it landed anew, and had the result that was there:
            # the contents of predictions are unique.
            touched, last = last[:-1], last[-1:]
        else:
            touched = []
        if len(last) != 1:
            found = [(row.size, row.state, row.rule) for row in rows[drop.path]]
            troubles.append(f"{drop.path} ({drop.kind}, {drop.way}) has {len(last)} decisions, not one: {found}")
            continue
        (row,) = last
        for other in rows[drop.path]:
            passed = other.state == "refused" and other.rule in PASSING_RULES
            if other is not row and other not in touched and not passed:
                troubles.append(f"an earlier version of {drop.path} is {other.state} ({other.rule})")
        if row.state == "done":
            winners[contents[drop.path]].append(drop.path)
            if row.sha256 != contents[drop.path]:
                troubles.append(f"{drop.path} was inspected as {row.sha256}, but it is {contents[drop.path]}")
        if drop.kind in (GOOD, DUPLICATE):
            if row.state == "refused" and row.rule != "duplicate":
                troubles.append(f"{drop.path} ({drop.kind}, {drop.way}) was refused: {row.rule}, {row.reason}")
        elif row.state != "refused" or row.rule != RULES[drop.kind] or not row.reason:
            troubles.append(f"{drop.path} ({drop.kind}) is {row.state}: {row.rule}, {row.reason}")
        if row.state == "refused":
            beside = kept.get((row.path, row.size))
            if beside is None:
                troubles.append(f"{drop.path} was refused and is not in kept_aside")
            elif not beside.kept_file and not beside.kept_note:
                troubles.append(f"{drop.path} was refused, and nobody kept it or said why not")
            elif beside.kept_file and not _is_same(Path(beside.kept_file), inbox / drop.path):
                troubles.append(f"{beside.kept_file} is not what landed as {drop.path}")

    good = {contents[drop.path] for drop in drops if drop.kind in (GOOD, DUPLICATE)}
    for sha in good:
        if len(winners[sha]) != 1:
            troubles.append(f"{sha} is the content of {len(winners[sha])} images that are done: {winners[sha][:3]}")
    troubles += _prediction_troubles(storm, line, good)
    return troubles


def _is_same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _prediction_troubles(storm: Storm, line: str, good: set[str]) -> list[str]:
    troubles = []
    thresholds = storm.plant.thresholds()
    table = storm.db.predictions(line)
    pairs = Counter(zip(table["sha256"], table["model_version"], strict=True))
    troubles += [f"{pair} has {number} predictions" for pair, number in pairs.items() if number > 1]
    found = set(table["sha256"])
    troubles += [f"{sha} has no prediction" for sha in list(good - found)[:MOST_NAMED]]
    troubles += [f"{sha} has a prediction, but nobody wrote it whole" for sha in list(found - good)[:MOST_NAMED]]
    for row in table.itertuples():
        wanted = thresholds.get(row.model_version)
        if wanted is None or abs(row.threshold - wanted) > 1e-9 * max(1.0, abs(wanted)):
            troubles.append(f"{row.sha256}: {row.model_version} decided with {row.threshold}, not with {wanted}")
        if (row.predicted == "NG") != (row.p >= row.inference_threshold):
            troubles.append(f"{row.sha256}: {row.predicted} with p {row.p}")
    champion = storm.plant.champion(line)
    if storm.extra and len(table) and table.iloc[-1]["model_version"] != champion:
        troubles.append(f"the last image was scored by {table.iloc[-1]['model_version']}, but {champion} serves")
    return troubles[: 3 * MOST_NAMED]


def _leftovers(root: Path) -> list[str]:
    left = [
        file
        for file in (root / "lines").rglob("*")
        if file.name.endswith(LEFTOVERS) or (file.name.endswith(".lock") and ".trees" in file.parts)
    ]
    return [f"left behind: {file.relative_to(root)}" for file in left[:MOST_NAMED]]


def _unreadable_results(root: Path) -> list[str]:
    """Every file of results that anybody may read is whole."""
    troubles = []
    for file in (root / "lines").rglob("*"):
        if file.is_symlink() and not file.exists():
            troubles.append(f"{file.relative_to(root)} leads nowhere")
        if not file.is_file() or "outside" in file.parts:
            continue
        try:
            if file.name.endswith(RESULT_SUFFIX):
                content = json.loads(file.read_text(encoding="utf-8"))
                if content["state"] not in ("done", "refused") or not (content["predicted"] or content["reason"]):
                    troubles.append(f"{file.relative_to(root)} says neither result nor reason")
                if content["state"] == "done" and content["predicted"] not in ("OK", "NG"):
                    troubles.append(f"{file.relative_to(root)} has no result")
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".yaml":
                yaml.safe_load(file.read_text(encoding="utf-8"))
            elif file.suffix == ".parquet":
                import pandas as pd

                pd.read_parquet(file)
            elif file.name == "output.csv":
                import pandas as pd

                pd.read_csv(file)
        except Exception as error:
            troubles.append(f"{file.relative_to(root)} is not whole: {type(error).__name__}: {error}")
    return troubles[: 3 * MOST_NAMED]
