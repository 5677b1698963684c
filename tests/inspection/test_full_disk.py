"""A full disk, or a server that is away, is no death: nothing is lost and nobody is blamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from brightness_model import BrightnessModel, write_image
from inspection_rig import Rig
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from test_incoming_files import offer_everything

from vad_lib.inspection import Served, worker
from vad_lib.inspection.worker import Worker, work_on
from vad_lib.inspection_db.laws import check_database
from vad_lib.inspection_db.schema import ONLINE
from vad_lib.queue import new_worker

Full = Callable[[int], None]


@pytest.fixture
def full(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Full]:
    """So many results that cannot be written: there is room for marks such as leases, but none for anything else."""
    left = 0
    writing: Callable[..., AbstractContextManager[Connection]] = rig.db.writing

    @contextmanager
    def with_little_room(**options: Any) -> Iterator[Connection]:
        nonlocal left
        if left and options.get("durable", True):
            left -= 1
            raise OperationalError("a transaction", {}, Exception("database or disk is full"))
        with writing(**options) as connection:
            yield connection

    def fill(times: int) -> None:
        nonlocal left
        left = times

    monkeypatch.setattr(rig.db, "writing", with_little_room)
    yield fill
    left = 0


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.spec("Q1.12")
def test_images_of_a_disk_that_stayed_full_are_inspected_when_there_is_room_again(
    rig: Rig, full: Full, images: int
) -> None:
    for i in range(images):
        write_image(rig.inbox / f"{i}.png", 50 + i, nonce=i)
    rig.register()
    for _ in range(6):
        full(1)
        with pytest.raises(OperationalError):
            rig.work()
        files = rig.db.incoming_files("bottles")
        assert files["leased_by"].isna().all()
        assert files["deliveries"].sum() == 0
        assert files["reason"].str.contains("database or disk is full").all()
        offer_everything(rig)
    assert rig.work() == images
    assert set(rig.states().values()) == {"done"}
    assert check_database(rig.db.engine) == []


@pytest.mark.spec("Q1.12")
def test_a_worker_that_stays_writes_its_results_as_soon_as_there_is_room_and_scores_nothing_again(
    rig: Rig, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "FINISH_PAUSE_SECONDS", 0.01)
    for i in range(3):
        write_image(rig.inbox / f"{i}.png", 50 + i, nonce=i)
    rig.register()
    full(5)
    model = BrightnessModel()
    stays = Worker(new_worker(), ONLINE, goes_on=lambda: True)
    decided, _ = work_on(rig.db, rig.line, Served(model, "1"), stays, 8)
    assert [each.state for each in decided] == ["done"] * 3
    assert model.images == 3
    assert rig.db.incoming_files("bottles")["deliveries"].sum() == 0
