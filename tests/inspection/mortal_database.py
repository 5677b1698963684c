"""A database that stops working for good after some transactions: whatever its process does afterwards, clean-up
included, reaches nothing, as with SIGKILL. And a clock of the database that a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from brightness_model import POISON, BrightnessModel
from sqlalchemy import Connection

from vad_lib.inspection_db import InspectionDatabase

NEVER = 10**9


class Death(Exception):
    """The process is no more."""


class Clock:
    """The time that all databases of a test share."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class MortalDatabase(InspectionDatabase):
    """Dies in its n-th transaction that writes: before anything of it is committed, or right after."""

    def __init__(
        self, url: str, transactions: int = NEVER, after_commit: bool = False, clock: Clock | None = None
    ) -> None:
        super().__init__(url)
        self.left = transactions
        self.after_commit = after_commit
        self.dead = False
        self._clock = clock

    def clock(self, connection: Connection) -> datetime:
        return super().clock(connection) if self._clock is None else self._clock.now

    @contextmanager
    def writing(self, *, line: str = "", durable: bool = True) -> Iterator[Connection]:
        if self.dead:
            raise Death
        self.left -= 1
        dies = self.left < 0
        if dies and not self.after_commit:
            self.dead = True
            raise Death
        with super().writing(line=line, durable=durable) as connection:
            yield connection
        if dies:
            self.dead = True
            raise Death

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        if self.dead:
            raise Death
        with super().reading() as connection:
            yield connection


class MortalModel(BrightnessModel):
    """A poisonous image takes the database of its process with it."""

    def __init__(self, db: MortalDatabase) -> None:
        super().__init__()
        self.db = db

    def predict_pixels(self, images: Any, *, with_maps: bool = False) -> Any:
        if any(round(float(pixels.mean())) == POISON for pixels in images):
            self.db.dead = True
            raise Death
        return super().predict_pixels(images, with_maps=with_maps)
