"""What must hold after a chaos test."""

from __future__ import annotations

import filecmp
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from sqlalchemy import func, select

from benchmarks.chaos.input_files import sha256_of
from benchmarks.chaos.plan import DUPLICATE, GOOD, LATER, RULES, TRAILER, InputFile
from vad_lib.ingest import FileVersion
from vad_lib.ingest.scan import RESULT_SUFFIX
from vad_lib.inspection_db.laws import check_database
from vad_lib.inspection_db.schema import DONE, PENDING, REFUSED, SUPERSEDED_RULES, incoming_files, notifications
from vad_lib.inspection_db.schema import predictions as predictions_table

if TYPE_CHECKING:
    from benchmarks.chaos.chaos_test import ChaosTest

PASSING_RULES = frozenset({*SUPERSEDED_RULES, "unreadable_image"})
"""By which an earlier version of a file that was written slowly may have been refused."""
GOOD_KINDS = (GOOD, DUPLICATE, *LATER)
LEFTOVERS = (".part", ".partial", ".link", ".new")
MOST_NAMED = 5


def judge(test: ChaosTest) -> None:
    """Write what is wrong into ``test.result.troubles``, and what happened beside it."""
    result = test.result
    result.bad = sum(file.kind not in (GOOD, *LATER) for file in test.plan.files)
    result.database_met = fault_met(test.rig.home.root, test.database.messages)
    result.troubles += [str(fault) for fault in check_database(test.db.engine)]
    for line in test.plan.shape.lines:
        of_line = [file for file in [*test.plan.files, *test.extra] if file.line == line]
        result.troubles += [f"{line}: {each}" for each in _line_troubles(test, line, of_line)]
    result.troubles += _leftovers(test.rig.home.root)
    result.troubles += _unreadable_results(test.rig.home.root)
    with test.db.reading() as connection:
        files, source = incoming_files.c, predictions_table.c.source
        held = connection.execute(select(files.line, files.path, files.leased_by).where(files.leased_by.is_not(None)))
        result.troubles += [f"{row.line}: {row.path} is leased by {row.leased_by}" for row in held.all()[:MOST_NAMED]]
        again = select(func.count()).select_from(incoming_files).where(files.deliveries > 0)
        result.delivered_again = int(connection.execute(again).scalar_one())
        counted = connection.execute(select(source, func.count()).group_by(source))
        result.sources = {str(name): int(number) for name, number in counted}


def fault_met(home: Path, messages: tuple[str, ...]) -> int:
    """Return how often processes of a home wrote that the database failed."""
    logs = [file.read_text(encoding="utf-8", errors="replace") for file in home.glob("*.log")]
    return sum(log.count(message) for log in logs for message in messages)


def _line_troubles(test: ChaosTest, line: str, files: list[InputFile]) -> list[str]:
    folder = test.rig.watch_folder(line)
    by_path: dict[str, list[InputFile]] = defaultdict(list)
    for file in files:
        by_path[file.path].append(file)
    rows: dict[str, list[Any]] = defaultdict(list)
    for row in test.db.incoming_files(line).itertuples():
        rows[row.path].append(row)
    troubles = [f"{path} was registered, but nobody wrote it" for path in set(rows) - set(by_path)]
    # Which of several paths with one content came first is a matter of chance.
    winners: dict[str, list[str]] = defaultdict(list)
    for path, versions in by_path.items():
        troubles += [f"{path} ({_words(versions)}): {each}" for each in _file_troubles(test, versions, rows[path])]
        for row in rows[path]:
            if row.state == DONE:
                winners[row.sha256].append(path)
    for sha, paths in winners.items():
        if len(paths) != 1:
            troubles.append(f"{sha} is the content of {len(paths)} images that are done: {paths[:3]}")
    troubles += _prediction_troubles(test, line, files, set(winners))
    troubles += _notification_troubles(test, line, folder, rows)
    return troubles


def _words(versions: list[InputFile]) -> str:
    return ", then ".join(f"{file.kind} by {file.way}" for file in versions)


def _file_troubles(test: ChaosTest, versions: list[InputFile], rows: list[Any]) -> Iterator[str]:
    """What is wrong with the rows of one path, in the order of being registered."""
    shas = [sha256_of(test.plan.seed, file) for file in versions]
    last = versions[-1]
    folder = test.rig.watch_folder(last.line)
    decisions = [row for row in rows if row.rule not in SUPERSEDED_RULES]
    if not decisions or any(row.state == PENDING for row in rows):
        yield f"it is not decided: {_states(rows)}"
        return
    newest = decisions[-1]
    lies_there = FileVersion.of(last.path, (folder / last.path).stat())
    if _version(newest) != lies_there:
        yield f"the newest decision is about {_version(newest)}, but {lies_there} lies there: {_states(rows)}"
    # A trailer changes no pixel, so nothing new is said where the image had been inspected before.
    named = [newest.sha256] if last.kind == TRAILER and newest.sha256 in shas else [shas[-1]]
    allowed = set(shas)
    about = Counter(row.sha256 for row in decisions if row.sha256 in allowed or row is newest)
    for sha, number in about.items():
        if number > 1:
            yield f"its content {sha} has {number} decisions, not one: {_states(rows)}"
    for row in decisions[:-1]:
        if row.sha256 not in allowed and not (row.state == REFUSED and row.rule in PASSING_RULES):
            yield f"an earlier version is {row.state} ({row.rule})"
    if (last.line, last.path) in test.decided_before and shas[0] not in about:
        yield f"the image that was there before, {shas[0]}, was decided and is forgotten: {_states(rows)}"
    yield from _decision_troubles(last, newest, named[0])
    for row in decisions:
        if row.state == REFUSED:
            yield from _quarantine_troubles(row, folder / last.path if row is newest else None)


def _decision_troubles(file: InputFile, row: Any, sha: str) -> Iterator[str]:
    if row.state == DONE and row.sha256 != sha:
        yield f"it was inspected as {row.sha256}, but it is {sha}"
    if file.kind in GOOD_KINDS:
        if row.state == REFUSED and row.rule != "duplicate":
            yield f"it was refused: {row.rule}, {row.reason}"
    elif row.state != REFUSED or row.rule != RULES[file.kind] or not row.reason:
        yield f"it is {row.state}: {row.rule}, {row.reason}"


def _quarantine_troubles(row: Any, file: Path | None) -> Iterator[str]:
    """Its quarantine holds the bytes of a refused file, or says why not."""
    if not row.quarantine_file:
        if not row.quarantine_note:
            yield "it was refused, and nobody kept it or said why not"
    elif file is not None and not _is_same(Path(row.quarantine_file), file):
        yield f"{row.quarantine_file} is not what arrived"
    elif row.sha256 and _sha_of(Path(row.quarantine_file)) != row.sha256:
        yield f"{row.quarantine_file} is not what was refused"


def _version(row: Any) -> FileVersion:
    return FileVersion(row.path, row.size, row.mtime_ns, row.inode, row.ctime_ns)


def _states(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [(row.file_id, row.size, row.state, row.rule, str(row.sha256)[:8]) for row in rows]


def _sha_of(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        return str(error)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _prediction_troubles(test: ChaosTest, line: str, files: list[InputFile], done: set[str]) -> list[str]:
    """Each good image has one prediction, and nothing else has any."""
    troubles = []
    thresholds = test.rig.thresholds()
    table = test.db.predictions(line)
    counts = Counter(table["sha256"])
    good = {sha256_of(test.plan.seed, file): file for file in files if file.kind in GOOD_KINDS}
    # What was replaced before anybody could look at it, and what only got a trailer, has none of its own.
    ends = {file.path: file for file in files}
    wanted = {
        sha
        for sha, file in good.items()
        if sha in done
        or ((ends[file.path] is file or (line, file.path) in test.decided_before) and file.kind != TRAILER)
    }
    troubles += [f"{sha} has {number} predictions" for sha, number in counts.items() if number > 1]
    troubles += [f"{sha} ({good[sha].path}) has no prediction" for sha in sorted(wanted - set(counts))[:MOST_NAMED]]
    strange = sorted(set(counts) - set(good))
    troubles += [f"{sha} has a prediction, but nobody wrote it whole" for sha in strange[:MOST_NAMED]]
    for row in table.itertuples():
        threshold = thresholds.get(row.model_version)
        if threshold is None or abs(row.threshold - threshold) > 1e-9 * max(1.0, abs(threshold)):
            troubles.append(f"{row.sha256}: {row.model_version} decided with {row.threshold}, not with {threshold}")
        if (row.predicted == "NG") != (row.p >= row.inference_threshold):
            troubles.append(f"{row.sha256}: {row.predicted} with p {row.p}")
    champion = test.rig.champion(line)
    if test.extra and len(table) and table.iloc[-1]["model_version"] != champion:
        troubles.append(f"the last image was scored by {table.iloc[-1]['model_version']}, but {champion} serves")
    return troubles[: 3 * MOST_NAMED]


def _notification_troubles(test: ChaosTest, line: str, folder: Path, rows: dict[str, list[Any]]) -> list[str]:
    """Each decided file has one notification, and the result file beside an image is about the image that lies there.

    What the extra files brought may wait: they come after the services have ended.
    """
    chosen = select(notifications).where(notifications.c.line == line)
    told: dict[int, list[Any]] = defaultdict(list)
    with test.db.reading() as connection:
        for row in connection.execute(chosen):
            told[row.file_id].append(row)
    troubles = []
    extra = {file.path for file in test.extra}
    for path, versions in rows.items():
        decisions = [row for row in versions if row.rule not in SUPERSEDED_RULES and row.state != PENDING]
        for row in decisions:
            found = told.pop(row.file_id, [])
            if [each.sink for each in found] != ["file"]:
                troubles.append(f"{path} ({row.state}, {row.rule}) has {len(found)} notifications, not one")
            elif found[0].state != "sent" and path not in extra:
                troubles.append(f"the notification about {path} is {found[0].state}: {found[0].error}")
        if decisions and path not in extra:
            troubles += _result_file_troubles(folder / (path + RESULT_SUFFIX), line, decisions[-1])
    troubles += [f"file {file_id} was notified, but is not decided" for file_id in told]
    return troubles[: 3 * MOST_NAMED]


def _result_file_troubles(file: Path, line: str, row: Any) -> list[str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{file.name}: {error}"]
    found = content.get("id"), content.get("state"), content.get("sha256")
    wanted = f"{line}-{row.file_id}", row.state, row.sha256
    return [] if found == wanted else [f"{file.name} says {found}, but {wanted} lies there"]


def _leftovers(root: Path) -> list[str]:
    left = [
        file
        for folder in root.rglob("lines")
        for file in folder.rglob("*")
        if file.name.endswith(LEFTOVERS) or (file.name.endswith(".lock") and ".trees" in file.parts)
    ]
    return [f"left behind: {file.relative_to(root)}" for file in left[:MOST_NAMED]]


def _unreadable_results(root: Path) -> list[str]:
    """Every file of results that anybody may read is whole."""
    troubles = []
    for file in (root / "lines").rglob("*"):
        if file.is_symlink() and not file.exists():
            troubles.append(f"{file.relative_to(root)} leads nowhere")
        if not file.is_file():
            continue
        try:
            if file.name.endswith(RESULT_SUFFIX):
                content = json.loads(file.read_text(encoding="utf-8"))
                if content["state"] not in (DONE, REFUSED) or not (content["predicted"] or content["reason"]):
                    troubles.append(f"{file.relative_to(root)} says neither result nor reason")
                if content["state"] == DONE and content["predicted"] not in ("OK", "NG"):
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
