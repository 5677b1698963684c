"""Whatever dies at whatever moment: nothing is lost, nothing is predicted twice, everything ends up decided.

A death is played by a database that stops working for good after a number of transactions: nothing that an inspection
does afterwards, clean-up included, reaches the disk, as with SIGKILL.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from brightness_model import POISON, BrightnessModel, write_image
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from inspection_plant import Plant
from sqlalchemy import Connection, select

from vad_lib.inspection import inspect_batch
from vad_lib.inspection.claims import _place
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import claims
from vad_lib.landing import BatchRequest, Limits, RunState, plan_landing_tick
from vad_lib.lines import Home

BROKEN = -1
LIMITS = Limits(settle_seconds=2.0, max_batch=5, max_active=2, retry_seconds=1.0, max_retry_seconds=4.0)


class Death(Exception):
    """The process is no more."""


class MortalDatabase(InspectionDatabase):
    """Dies in its n-th transaction that writes: before anything of it is committed, or right after."""

    def __init__(self, url: str, transactions: int, after_commit: bool) -> None:
        super().__init__(url)
        self.left = transactions
        self.after_commit = after_commit
        self.dead = False

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        if self.dead:
            raise Death
        self.left -= 1
        self.dead = self.left < 0
        if self.dead and not self.after_commit:
            raise Death
        with super().writing(durable=durable) as connection:
            yield connection
        if self.dead:
            raise Death

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        if self.dead:
            raise Death
        with super().reading() as connection:
            yield connection


class PoisonableModel(BrightnessModel):
    """A poisonous image takes the database of its process with it."""

    def __init__(self, db: MortalDatabase) -> None:
        super().__init__()
        self.db = db

    def predict_pixels(self, images: Any, *, with_maps: bool = False) -> Any:
        if any(round(float(pixels.mean())) == POISON for pixels in images):
            self.db.dead = True
            raise Death
        return super().predict_pixels(images, with_maps=with_maps)


@pytest.mark.parametrize("inspection_url", ["sqlite"], indirect=True)  # the database is copied with its folder
@pytest.mark.parametrize("after_commit", [False, True], ids=["before its commit", "after its commit"])
def test_a_death_in_any_transaction_of_an_inspection_leaves_what_the_next_can_finish(
    plant: Plant, tmp_path: Path, after_commit: bool
) -> None:
    for i in range(4):
        write_image(plant.inbox / f"{i}.png", 50 + 20 * i)
    shutil.copy(plant.inbox / "0.png", plant.inbox / "copy.png")
    (plant.inbox / "broken.png").write_bytes(b"broken")
    batch = plant.land_batch()
    untouched = Path(shutil.copytree(plant.line.folder.parent.parent, tmp_path / "untouched"))
    died = True
    transactions = 0
    while died:
        home = Home(Path(shutil.copytree(untouched, tmp_path / f"{transactions}")))
        url = f"sqlite:///{home.root}/inspection.db"
        settings = {"model_version": "1", "line": home.line("bottles"), "batch_id": batch, "batch_size": 2}
        # The batch knows its folder, which is the one of the first home: only the database is another.
        mortal = MortalDatabase(url, transactions, after_commit)
        try:
            with patch("vad_lib.inspection.core.new_owner", lambda: f"{_place()}:1:dead:0"):
                inspect_batch(mortal, BrightnessModel(), **settings)  # type: ignore[arg-type]
        except Death:
            pass
        died = mortal.dead
        db = InspectionDatabase(url)
        model = BrightnessModel()
        before = db.count_predictions("bottles")
        result = inspect_batch(db, model, **settings)  # type: ignore[arg-type]
        # Files that were in hand at a death come last, so either of the two equal ones may come first.
        assert {*result.predictions["image_path"]} | {"0.png", "copy.png"} == {
            "0.png",
            "1.png",
            "2.png",
            "3.png",
            "copy.png",
        }
        assert sorted(result.refused["rule"]) == ["duplicate", "unreadable_image"]
        assert len(result.predictions) == 4
        assert model.images == 4 - before
        assert db.count_predictions("bottles") == 4
        assert db.kept_aside("bottles")["kept_file"].notna().all()
        transactions += 1
    assert transactions > 8, "begin, claim and record of each chunk, and what is kept aside"


class Landing(RuleBasedStateMachine):
    """Files land, ticks look, runs work, and all of them die now and then."""

    @initialize()
    def open_plant(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.line = Home(self.folder).line("line")
        self.line.inbox.mkdir(parents=True)
        self.url = f"sqlite:///{self.folder}/inspection.db"
        self.db = InspectionDatabase(self.url)
        self.now = time.time() + 100
        self.runs: dict[str, RunState] = {}
        self.asked: dict[str, BatchRequest] = {}
        self.look: dict[str, list[float]] = {}
        self.version = 0
        # Nobody who died here has a process that could be seen to be gone.
        self.owners = patch("vad_lib.inspection.core.new_owner", lambda: f"{self._place}:1:dead:0")
        self._place = _place()
        self.owners.start()

    def teardown(self) -> None:
        if not hasattr(self, "db"):
            return
        try:
            self._settle()
            self._check()
        finally:
            self.owners.stop()
            shutil.rmtree(self.folder)

    @rule(name=st.sampled_from("abcdefgh"), content=st.sampled_from([20, 60, 120, 180, POISON, BROKEN]))
    def land(self, name: str, content: int) -> None:
        file = self.line.inbox / f"{name}.png"
        if content == BROKEN:
            file.write_bytes(b"broken" + name.encode())
        else:
            write_image(file, content, nonce=ord(name) % 2)
        # Each writing is a version of its own.
        self.version += 1
        os.utime(file, (self.version, self.version))

    @rule(name=st.sampled_from("abcdefgh"))
    def take_away(self, name: str) -> None:
        (self.line.inbox / f"{name}.png").unlink(missing_ok=True)

    @rule(deadly=st.none() | st.booleans(), heard=st.booleans())
    def tick(self, deadly: bool | None, heard: bool) -> None:
        """``deadly``: dies before or after its commit; ``heard``: its requests reach those who start runs."""
        self.now += 3
        db = self.db if deadly is None else MortalDatabase(self.url, 0, after_commit=deadly)
        try:
            tick = plan_landing_tick(
                db,
                "line",
                self.line.inbox,
                run_state=self.runs.get,
                limits=LIMITS,
                now=self.now,
                previous_look=self.look,
            )
        except Death:
            return
        self.look = tick.waiting
        if heard:
            for request in tick.requests:
                assert request.run_key not in self.runs, "a run is asked for although it is known"
                self.asked[request.run_key] = request

    @precondition(lambda self: self.asked)
    @rule(
        data=st.data(),
        transactions=st.none() | st.integers(0, 12),
        after_commit=st.booleans(),
        outcome=st.sampled_from(["failed", "cancelled"]),
        chunk=st.integers(1, 3),
    )
    def run(self, data: Any, transactions: int | None, after_commit: bool, outcome: Any, chunk: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.asked)))
        self._run(key, transactions, after_commit, outcome, chunk)

    def _run(
        self, key: str, transactions: int | None, after_commit: bool = False, outcome: Any = "failed", chunk: int = 2
    ) -> None:
        request = self.asked.pop(key)
        db = MortalDatabase(self.url, 10**9 if transactions is None else transactions, after_commit)
        try:
            result = inspect_batch(
                db,
                PoisonableModel(db),
                model_version="1",
                line=self.line,
                batch_id=request.batch_id,
                batch_size=chunk,
            )
        except Death:
            self.runs[key] = RunState(outcome)
            return
        self.runs[key] = RunState("succeeded")
        assert result.left == 0
        assert result.predictions["row"].is_unique

    def _settle(self) -> None:
        for _ in range(400):
            self.now += 60
            tick = plan_landing_tick(
                self.db, "line", self.line.inbox, run_state=self.runs.get, limits=LIMITS, now=self.now
            )
            self.asked.update({request.run_key: request for request in tick.requests})
            for key in sorted(self.asked):
                self._run(key, None)
            still_open = (self.db.batches("line")["state"] == "open").any()
            if not tick.requests and not still_open:
                return
        raise AssertionError(f"it does not come to an end: {tick.message}")

    def _check(self) -> None:
        landed = self.db.landings("line")
        assert set(landed["state"]) <= {"done", "refused"}
        predicted = self.db.predictions("line")
        assert predicted["sha256"].is_unique
        # Each result has a landing that owns it, each landing with a result has it.
        assert set(landed.query("state == 'done'")["sha256"]) == set(predicted["sha256"])
        state = {(row.path, row.mtime_ns): row for row in landed.itertuples()}
        for file in self.line.inbox.iterdir():
            row = state[file.name, file.stat().st_mtime_ns]
            if file.read_bytes().startswith(b"broken"):
                assert row.rule == "unreadable_image"
            elif row.state == "refused":
                assert row.rule in ("duplicate", "ends_its_inspection"), (row.rule, row.reason)
        for row in landed.query("rule == 'duplicate'").itertuples():
            # What it is a duplicate of was decided: predicted, or given up.
            first = row.reason.removeprefix("the same content as ").removesuffix(", which was taken up first")
            others = landed[landed["path"] == first]
            assert (others["state"].isin(["done", "refused"])).all()
            assert len(others) >= 1
        poisoned = [row for row in landed.itertuples() if row.rule == "ends_its_inspection"]
        for row in poisoned:
            assert "ended while they had only this file in hand" in row.reason
        # Only what was given up may still be claimed, by the dead.
        assert not set(self.db.table(select(claims))["sha256"]) & set(predicted["sha256"])


TestLanding = pytest.mark.filterwarnings("error::ResourceWarning")(Landing.TestCase)
TestLanding.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
