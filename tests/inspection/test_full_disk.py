"""A full disk is no death: what an inspection could not take back, it takes back later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from brightness_model import write_image
from inspection_plant import Plant
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import OperationalError

from vad_lib.inspection_db.schema import claims


@pytest.fixture
def full(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """While it holds True, there is room for marks and claims, but none for results, nor to take marks back."""
    holds = [True]
    writing: Callable[..., AbstractContextManager[Connection]] = plant.db.writing

    @contextmanager
    def with_little_room(**options: Any) -> Iterator[Connection]:
        if holds[0] and options.get("durable", True):
            raise OperationalError("a transaction", {}, Exception("database or disk is full"))
        with writing(**options) as connection:
            yield connection

    monkeypatch.setattr(plant.db, "writing", with_little_room)
    yield holds
    holds[0] = False


def _claims(plant: Plant) -> int:
    with plant.db.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(claims)).scalar_one())


@pytest.mark.parametrize("images", [1, 3])
def test_images_of_a_disk_that_stayed_full_are_inspected_when_there_is_room_again(
    plant: Plant, full: list[bool], images: int
) -> None:
    full[0] = False
    for i in range(images):
        write_image(plant.inbox / f"{i}.png", 50 + i, nonce=i)
    batch = plant.land_batch()
    full[0] = True
    with pytest.raises(OperationalError):
        plant.inspect(batch)
    assert _claims(plant) == images
    for _ in range(4):
        with pytest.raises(OperationalError):
            plant.inspect(batch)
    full[0] = False
    # neither refused for deaths that were none, nor held up by claims that nobody works on
    result = plant.inspect(batch)
    assert (len(result.predictions), len(result.refused), result.left) == (images, 0, 0)
    assert _claims(plant) == 0
    assert set(plant.db.landings("bottles")["begun"]) == {0}
