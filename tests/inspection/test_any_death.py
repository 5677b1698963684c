"""Whatever dies at whatever moment: nothing is lost, nothing is predicted twice, everything ends up decided."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness_model import POISON, BrightnessModel, write_image
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from inspection_rig import Rig, dead_worker, register_what_is_there, until_ctime_differs, worker_elsewhere
from mortal_database import NEVER, Clock, Death, MortalDatabase, MortalModel
from PIL import Image

from vad_lib.errors import InputError
from vad_lib.ingest import FileVersion
from vad_lib.inspection import Served
from vad_lib.inspection.worker import MAX_DELIVERIES, Worker, work_on
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.laws import check_database
from vad_lib.inspection_db.schema import BATCH, SUPERSEDED_RULES, notifications
from vad_lib.lines import Home, Line
from vad_lib.queue import LEASE_SECONDS, expire
from vad_lib.queue.leases import SUSPECT
from vad_lib.queue.outbox import open_sinks

BROKEN = -1


@pytest.mark.parametrize("inspection_url", ["sqlite"], indirect=True)  # the database is copied with its folder
@pytest.mark.parametrize("after_commit", [False, True], ids=["before its commit", "after its commit"])
@pytest.mark.spec("Q1.05")
def test_a_death_in_any_transaction_of_a_worker_leaves_what_the_next_can_finish(
    rig: Rig, tmp_path: Path, after_commit: bool
) -> None:
    for i in range(4):
        write_image(rig.inbox / f"{i}.png", 50 + 20 * i)
    shutil.copy(rig.inbox / "0.png", rig.inbox / "copy.png")
    (rig.inbox / "broken.png").write_bytes(b"broken")
    rig.register()
    untouched = Path(shutil.copytree(rig.line.folder.parent.parent, tmp_path / "untouched"))
    died, transactions = True, 0
    while died:
        assert transactions < 100, "it does not come to an end"
        root = Path(shutil.copytree(untouched, tmp_path / f"{transactions}"))
        url, line = f"sqlite:///{root}/inspection.db", Home(root).line("bottles")
        mortal = MortalDatabase(url, transactions, after_commit)
        died = _work(mortal, line, dead_worker(), chunk=2)
        db = InspectionDatabase(url)
        before = db.count_predictions("bottles")
        model = BrightnessModel()
        later = Rig(db, line)
        later.work(model)
        # Files that were in hand at a death come last, so either of the two equal ones may come first.
        states = later.states()
        assert sorted(state for path, state in states.items() if path in ("0.png", "copy.png")) == ["done", "duplicate"]
        assert {states[f"{i}.png"] for i in range(1, 4)} == {"done"}
        assert states["broken.png"] == "unreadable_image"
        assert db.count_predictions("bottles") == 4
        assert model.images == 4 - before
        assert Path(later.file("broken.png").quarantine_file).read_bytes() == b"broken"
        assert check_database(db.engine) == []
        transactions += 1
    assert transactions > 6, "lease and finish of each chunk"


def _work(
    db: MortalDatabase,
    line: Line,
    worker: str,
    *,
    chunk: int = 2,
    calls: int = 99,
    meanwhile: Callable[[], None] | None = None,
) -> bool:
    """Do as a process does; return whether it died. ``meanwhile`` happens while it scores for the first time."""
    model = _Interrupted(db, meanwhile)
    try:
        expire(db)
        for _ in range(calls):
            if not work_on(db, line, Served(model, "1"), Worker(worker, BATCH, "run"), chunk).more:
                break
    except Death:
        return True
    return False


class _Interrupted(MortalModel):
    def __init__(self, db: MortalDatabase, meanwhile: Callable[[], None] | None) -> None:
        super().__init__(db)
        self.meanwhile = meanwhile

    def predict_pixels(self, images: Any, *, with_maps: bool = False) -> Any:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().predict_pixels(images, with_maps=with_maps)


@pytest.mark.spec("Q1.06")
def test_two_threads_that_die_together_again_and_again_end_in_the_refusal_of_the_poison_alone(rig: Rig) -> None:
    """Whoever is in hand beside the poison at each death would else be blamed as often as the poison."""
    for i in range(4):
        write_image(rig.inbox / f"{i}.png", 100 + i)
    write_image(rig.inbox / "1 poison.png", POISON)
    rig.register()
    served: dict[str, int] = {}
    for _ in range(20):
        worker = dead_worker()
        db = MortalDatabase(rig.db.engine.url.render_as_string(hide_password=False))

        def other_thread(db: MortalDatabase = db, worker: str = worker) -> None:
            # It has files in hand, too, when the first one dies.
            leased = work_on(db, rig.line, Served(_Stuck(db), "1"), Worker(worker, BATCH), 2)
            served["by the other thread"] = served.get("by the other thread", 0) + len(leased.decided)

        if not _work(db, rig.line, worker, meanwhile=other_thread):
            break
    assert rig.states() == {**{f"{i}.png": "done" for i in range(4)}, "1 poison.png": "poison_image"}
    assert rig.file("1 poison.png").deliveries == MAX_DELIVERIES
    assert rig.db.incoming_files("bottles").query("state == 'done'")["deliveries"].max() <= SUSPECT


class _Stuck(BrightnessModel):
    """The other thread is still reading or waiting for its turn when the process dies."""

    def __init__(self, db: MortalDatabase) -> None:
        super().__init__()
        self.db = db

    def predict_pixels(self, images: Any, *, with_maps: bool = False) -> Any:
        self.db.dead = True
        raise Death


class Workshop(RuleBasedStateMachine):
    """Files land and change, services and runs on two machines work, and all of them die now and then."""

    @initialize()
    def open_rig(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.line = Home(self.folder).line("line")
        self.line.inbox.mkdir(parents=True)
        self.clock = Clock()
        self.url = f"sqlite:///{self.folder}/inspection.db"
        self.db = self._database()
        open_sinks(self.db, {"line": ["webhook", "file"]})
        self.content: dict[FileVersion, int] = {}
        """What each version of a file that ever was held."""
        self.bad_luck: Counter[FileVersion] = Counter()
        """How often a version was in hand when a process died, or hung for too long, of something else than poison."""

    def _database(self, transactions: int = NEVER, after_commit: bool = False) -> MortalDatabase:
        return MortalDatabase(self.url, transactions, after_commit, self.clock)

    def teardown(self) -> None:
        if not hasattr(self, "db"):
            return
        try:
            self._finish_everything()
            self._check()
        finally:
            shutil.rmtree(self.folder)

    # --- files -----------------------------------------------------------------------------------------------------

    def _note(self, file: Path, content: int) -> None:
        self.content[FileVersion.of(file.name, file.stat())] = content

    def _content(self, file: Path) -> int:
        return self.content[FileVersion.of(file.name, file.stat())]

    @rule(
        name=st.sampled_from("abcdef"),
        content=st.sampled_from([20, 60, 120, 180, POISON, BROKEN]),
        in_place=st.booleans(),
    )
    def land(self, name: str, content: int, in_place: bool) -> None:
        """Each image has one size and one time of modification: only inode and ctime tell another part."""
        file = self.line.inbox / f"{name}.png"
        target = file if in_place else self.folder / "new.png"
        before = file.stat().st_ctime_ns if file.exists() else 0
        if content == BROKEN:
            target.write_bytes(b"broken" + name.encode())
        else:
            pixels = np.full((16, 16), content, np.uint8)
            pixels[0, :2] = [content - 1 - ord(name) % 2, content + 1 + ord(name) % 2]
            Image.fromarray(pixels).save(target, "PNG", compress_level=0)
        os.utime(target, (1, 1))
        if target is not file:
            target.rename(file)
        until_ctime_differs(file, before)
        self._note(file, content)

    @rule(name=st.sampled_from("abcdef"), way=st.sampled_from(["touch", "mode", "copy", "away and back"]))
    def touch(self, name: str, way: str) -> None:
        """It holds what it held."""
        file = self.line.inbox / f"{name}.png"
        if not file.exists():
            return
        content, before, aside = self._content(file), file.stat().st_ctime_ns, self.folder / "aside.png"
        if way == "touch":
            os.utime(file)
        elif way == "mode":
            file.chmod(0o640)
        elif way == "copy":
            shutil.copy2(file, aside)
            aside.rename(file)
        else:
            file.rename(aside)
            aside.rename(file)
        until_ctime_differs(file, before)
        self._note(file, content)

    @rule(name=st.sampled_from("abcdef"))
    def take_away(self, name: str) -> None:
        (self.line.inbox / f"{name}.png").unlink(missing_ok=True)

    # --- processes -------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 20.0, LEASE_SECONDS + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(deadly=st.none() | st.booleans())
    def register(self, deadly: bool | None) -> None:
        """``deadly``: dies before or after its commit."""
        db = self._database() if deadly is None else self._database(0, after_commit=deadly)
        with contextlib.suppress(Death):
            register_what_is_there(db, self.line)

    @rule(
        here=st.booleans(),
        transactions=st.none() | st.integers(0, 8),
        after_commit=st.booleans(),
        chunk=st.integers(1, 3),
        meanwhile=st.sampled_from(["nothing", "nothing", "a second thread", "it hangs", "files change"]),
        data=st.data(),
    )
    def work(
        self, here: bool, transactions: int | None, after_commit: bool, chunk: int, meanwhile: str, data: Any
    ) -> None:
        """A process of this machine, whose death is seen at once, or of another, whose leases have to run out."""
        db = self._database(NEVER if transactions is None else transactions, after_commit)
        worker = dead_worker() if here else worker_elsewhere()

        def happens() -> None:
            if meanwhile == "a second thread":
                work_on(db, self.line, Served(MortalModel(db), "1"), Worker(worker, BATCH), chunk)
            elif meanwhile == "it hangs":
                self._note_bad_luck(worker)
                self.clock.advance(LEASE_SECONDS + 1)
                self._run(self._database(), worker_elsewhere(), chunk)
            elif meanwhile == "files change":
                self.touch(data.draw(st.sampled_from("abcdef")), "away and back")
                self.land(data.draw(st.sampled_from("abcdef")), 120, False)
                register_what_is_there(self._database(), self.line)

        self._run(db, worker, chunk, happens)

    def _run(self, db: MortalDatabase, worker: str, chunk: int, meanwhile: Callable[[], None] | None = None) -> None:
        died = _work(db, self.line, worker, chunk=chunk, calls=3, meanwhile=meanwhile)
        held = self._held(worker)
        if died:
            if not any(self.content[version] == POISON for version in held):
                self._note_bad_luck(worker)
        else:
            assert not held, "a worker that ends in good order leaves no lease"

    def _held(self, worker: str) -> list[FileVersion]:
        files = self.db.incoming_files("line").query("leased_by == @worker")
        return [self._version(row) for row in files.itertuples()]

    def _note_bad_luck(self, worker: str) -> None:
        self.bad_luck.update(self._held(worker))

    @staticmethod
    def _version(row: Any) -> FileVersion:
        return FileVersion(row.path, row.size, row.mtime_ns, row.inode, row.ctime_ns)

    @rule(here=st.booleans())
    def work_while_the_share_is_away(self, here: bool) -> None:
        away = self.folder / "away"
        self.line.inbox.rename(away)
        try:
            self._run(self._database(), dead_worker() if here else worker_elsewhere(), 2)
        except InputError:
            """It says that the folder cannot be read."""
        finally:
            away.rename(self.line.inbox)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _finish_everything(self) -> None:
        for _ in range(200):
            self.clock.advance(LEASE_SECONDS + 1)
            new = register_what_is_there(self.db, self.line)
            self._run(self._database(), dead_worker(), 2)
            if not new and not self.db.file_counts("line")["pending"]:
                return
        raise AssertionError("it does not come to an end")

    def _check(self) -> None:
        files = self.db.incoming_files("line")
        predicted = self.db.predictions("line")
        assert check_database(self.db.engine) == []
        assert set(files["state"]) <= {"done", "refused"}
        assert predicted["sha256"].is_unique
        assert set(files.query("state == 'done'")["sha256"]) == set(predicted["sha256"])
        rows = {self._version(row): row for row in files.itertuples()}
        for file in self.line.inbox.iterdir():
            row, content = rows[FileVersion.of(file.name, file.stat())], self._content(file)
            sha = hashlib.sha256(file.read_bytes()).hexdigest()
            if self._is_refused_for_bad_luck(row):
                continue
            assert row.sha256 == sha
            if content == BROKEN:
                assert row.rule == "unreadable_image"
            elif content == POISON:
                assert row.rule == "poison_image"
            else:
                assert row.state == "done" or row.rule == "duplicate", (row.path, row.rule, row.reason)
                assert sha in set(predicted["sha256"])
        for row in files.query("rule == 'duplicate'").itertuples():
            owners = files[(files["path"] == row.duplicate_of) & (files["sha256"] == row.sha256)]
            assert (owners["state"] == "done").any()
        for row in files.query("rule == 'poison_image'").itertuples():
            assert self.content[self._version(row)] == POISON or self._is_refused_for_bad_luck(row)
        for row in files.query("quarantine_file.notna()").itertuples():
            assert hashlib.sha256(Path(row.quarantine_file).read_bytes()).hexdigest() == row.sha256
        self._check_that_what_was_touched_has_one_result(files)
        self._check_notifications(files)

    def _is_refused_for_bad_luck(self, row: Any) -> bool:
        """Beside poison, it was in hand at most ``SUSPECT`` times; what is missing must have come from elsewhere."""
        return row.rule == "poison_image" and self.bad_luck[self._version(row)] >= MAX_DELIVERIES - SUSPECT

    def _check_that_what_was_touched_has_one_result(self, files: Any) -> None:
        settled = files[~files["rule"].isin([*SUPERSEDED_RULES, "poison_image"])]
        for _, versions in settled.groupby("path"):
            contents = versions["sha256"].tolist()
            assert all(a != b for a, b in itertools.pairwise(contents)), versions[["path", "sha256"]]

    def _check_notifications(self, files: Any) -> None:
        told = self.db.table(notifications.select())
        heard = files[~files["rule"].isin(SUPERSEDED_RULES)]
        expected = {(number, sink) for number in heard["file_id"] for sink in ("webhook", "file")}
        assert {*zip(told["file_id"], told["sink"], strict=True)} == expected
        assert len(told) == len(expected)


TestWorkshop = pytest.mark.filterwarnings("error::ResourceWarning")(Workshop.TestCase)
TestWorkshop.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
