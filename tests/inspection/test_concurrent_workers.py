"""Workers at the same time, with files that arrive meanwhile, poison among them, and deaths."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable

import pytest
from brightness_model import POISON, write_image
from inspection_rig import Rig, register_what_is_there, worker_elsewhere
from mortal_database import NEVER, Death, MortalDatabase, MortalModel

from vad_lib.inspection import Served
from vad_lib.inspection.worker import Worker, work_on
from vad_lib.inspection_db.laws import check_database
from vad_lib.inspection_db.schema import BATCH, SUPERSEDED_RULES, notifications
from vad_lib.queue import expire, leases
from vad_lib.queue.outbox import open_sinks

GOOD = 60


def test_workers_that_die_beside_others_leave_each_image_one_result_and_each_file_one_notification(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead: set[str] = set()
    monkeypatch.setattr(leases, "is_dead", dead.__contains__)
    open_sinks(rig.db, {"bottles": ["webhook"]})
    url = rig.db.engine.url.render_as_string(hide_password=False)
    errors: list[BaseException] = []
    landed, over = threading.Event(), threading.Event()
    # A death before and one after its commit, for two of the processes; poison kills others.
    deaths = [(3, False), (4, True)]

    def in_thread(action: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                action()
            except BaseException as error:
                errors.append(error)
                over.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def land() -> None:
        for i in range(GOOD):
            write_image(rig.inbox / f"{i}.png", 50 + i, nonce=i)
            if i % 20 == 10:
                write_image(rig.inbox / f"poison {i}.png", POISON, nonce=i)
                (rig.inbox / f"broken {i}.png").write_bytes(f"broken {i}".encode())
                shutil.copy(rig.inbox / f"{i}.png", rig.inbox / f"{i} again.png")
            time.sleep(0.005)
        landed.set()

    def register() -> None:
        db = MortalDatabase(url)
        while not over.is_set():
            last = landed.is_set()
            register_what_is_there(db, rig.line)
            if last:
                break
            time.sleep(0.02)

    def process() -> None:
        """One process after the other, each until it dies or nothing is left."""
        while not over.is_set():
            transactions, after_commit = deaths.pop() if deaths else (NEVER, False)
            db, worker = MortalDatabase(url, transactions, after_commit), worker_elsewhere()
            served = Served(MortalModel(db), "1")
            try:
                while not over.is_set():
                    expire(db)
                    decided, more = work_on(db, rig.line, served, Worker(worker, BATCH), 4)
                    if not decided and not more:
                        time.sleep(0.02)
            except Death:
                dead.add(worker)

    threads = [in_thread(land), in_thread(register), in_thread(register)]
    threads += [in_thread(process) for _ in range(3)]
    deadline = time.monotonic() + 120
    while not over.is_set():
        counts = rig.db.file_counts("bottles")
        # A file that was seen while it was being written has a version that is superseded as well.
        decided_files = counts["done"] + len(rig.db.refused("bottles"))
        if landed.is_set() and decided_files == GOOD + 9 and not counts["pending"]:
            over.set()
        elif time.monotonic() > deadline:
            errors.append(AssertionError(f"it does not come to an end: {counts}"))
            over.set()
        time.sleep(0.05)
    for thread in threads:
        thread.join(60)
    assert errors == []
    states = rig.states()
    for i in range(GOOD):
        names = [f"{i}.png", f"{i} again.png"] if i % 20 == 10 else [f"{i}.png"]
        assert sorted(states[name] for name in names) == ["done", "duplicate"][: len(names)]
    for i in range(10, GOOD, 20):
        assert states[f"poison {i}.png"] == "poison_image"
        assert states[f"broken {i}.png"] == "unreadable_image"
    predicted = rig.db.predictions("bottles")
    assert (len(predicted), predicted["sha256"].is_unique) == (GOOD, True)
    told = rig.db.table(notifications.select())
    files = rig.db.incoming_files("bottles")
    assert sorted(told["file_id"]) == sorted(files[~files["rule"].isin(SUPERSEDED_RULES)]["file_id"])
    assert check_database(rig.db.engine) == []
