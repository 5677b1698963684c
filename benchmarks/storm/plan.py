"""What lands in a storm and what breaks, as a pure function of the seed.

Faults are tied to how many files have landed, not to the clock, so that a seed gives the same storm on any machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

KILL_SCORER, KILL_DAEMON, KILL_CODE_SERVER = "kill scorer", "kill daemon", "kill code server"
KILL_RUN, KILL_FORK_SERVER = "kill run", "kill fork server"
FILL_DISK, PROMOTE = "fill disk", "promote"

COPY, COPY_WITH_TIMES, RENAME, MOVE_IN, SLOW = "copy", "copy with times", "rename", "move in", "slow write"
WAYS = (COPY, COPY_WITH_TIMES, RENAME, MOVE_IN, SLOW)
GOOD, TRUNCATED, EMPTY, TEXT, OTHER_TYPE, DUPLICATE = "good", "truncated", "empty", "text", "other type", "duplicate"
BAD = (TRUNCATED, EMPTY, TEXT, OTHER_TYPE, DUPLICATE)
RULES = {
    TRUNCATED: "unreadable_image",
    EMPTY: "unreadable_image",
    TEXT: "unreadable_image",
    OTHER_TYPE: "not_an_image",
    DUPLICATE: "duplicate",
}
"""By which rule each bad kind is refused."""
FOLDERS = ("", "", "", "a/", "a/b/", "schicht früh/")


@dataclass(frozen=True)
class Shape:
    """How large a storm is.

    Attributes:
        lines: names of the lines.
        files: how many land, bad ones included.
        bad: share of bad ones.
        faults: kind -> how many.
        rate: files a second, outside of bursts.
        down: the longest that what was killed stays down, or the disk full, in seconds.
    """

    lines: tuple[str, ...]
    files: int
    faults: tuple[tuple[str, int], ...]
    rate: float
    down: float
    bad: float = 0.08


SMALL = Shape(
    lines=("bottles", "caps"),
    files=200,
    faults=((KILL_SCORER, 2), (KILL_DAEMON, 1), (KILL_RUN, 1), (FILL_DISK, 1), (PROMOTE, 1)),
    rate=40.0,
    down=1.0,
)
FULL = Shape(
    lines=("bottles", "caps", "tiles"),
    files=2000,
    faults=(
        (KILL_SCORER, 3),
        (KILL_DAEMON, 1),
        (KILL_CODE_SERVER, 1),
        (KILL_RUN, 2),
        (KILL_FORK_SERVER, 1),
        (FILL_DISK, 2),
        (PROMOTE, 2),
    ),
    rate=50.0,
    down=6.0,
)


@dataclass(frozen=True)
class Fault:
    """``after`` so many files this happens; ``down``: seconds until what was killed starts again, or room is made."""

    after: int
    kind: str
    down: float
    line: str


@dataclass(frozen=True)
class Drop:
    """One file that lands.

    Attributes:
        number: in order of landing.
        line: where it lands.
        path: relative to the landing folder.
        kind: ``GOOD`` or one of ``BAD``.
        way: how it is written.
        content: number of its content; that of an earlier one for a duplicate.
        pause: seconds before it.
    """

    number: int
    line: str
    path: str
    kind: str
    way: str
    content: int
    pause: float


@dataclass(frozen=True)
class StormPlan:
    """A storm."""

    seed: int
    shape: Shape
    drops: tuple[Drop, ...]
    faults: tuple[Fault, ...]


def plan_storm(seed: int, shape: Shape) -> StormPlan:
    """Return the storm of a seed.

    >>> plan_storm(3, SMALL) == plan_storm(3, SMALL)
    True
    """
    chance = random.Random(f"{seed} {shape}")
    return StormPlan(seed, shape, tuple(_drops(chance, shape)), tuple(_faults(chance, shape)))


def _drops(chance: random.Random, shape: Shape) -> list[Drop]:
    drops: list[Drop] = []
    good_of: dict[str, list[int]] = {line: [] for line in shape.lines}
    burst = 0
    for number in range(shape.files):
        line = chance.choice(shape.lines)
        kind = chance.choice(BAD) if chance.random() < shape.bad else GOOD
        content = number
        if kind == DUPLICATE and good_of[line]:
            content = chance.choice(good_of[line])
        elif kind == DUPLICATE:
            kind = GOOD
        if kind == GOOD:
            good_of[line].append(content)
        if not burst and chance.random() < 0.005:
            burst = chance.randint(20, 120)
        burst = max(0, burst - 1)
        suffix = chance.choice((".bmp", ".txt", ".tiff")) if kind == OTHER_TYPE else chance.choice((".png", ".jpg"))
        drops.append(
            Drop(
                number=number,
                line=line,
                path=f"{chance.choice(FOLDERS)}{number:05}{suffix}",
                kind=kind,
                way=chance.choice(WAYS),
                content=content,
                pause=0.0 if burst else chance.uniform(0.0, 2.0) / shape.rate,
            )
        )
    return drops


def _faults(chance: random.Random, shape: Shape) -> list[Fault]:
    kinds = [kind for kind, count in shape.faults for _ in range(count)]
    faults = [
        Fault(
            after=chance.randint(shape.files // 20, shape.files * 9 // 10),
            kind=kind,
            down=round(chance.uniform(0.1, 1.0) * shape.down, 3),
            line=chance.choice(shape.lines),
        )
        for kind in kinds
    ]
    return sorted(faults, key=lambda fault: (fault.after, fault.kind))
