"""What arrives in a chaos test and what breaks, as a pure function of the seed.

Faults are tied to how many files have arrived, not to the clock, so that a seed gives the same test on any machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

KILL_SERVICE, KILL_DAEMON, KILL_CODE_SERVER = "kill inference service", "kill daemon", "kill code server"
KILL_RUN = "kill run"
KILL_OTHER_SERVICE, KILL_BOTH_SERVICES = "kill inference service of machine 2", "kill both inference services"
FILL_DISK, RESTART_DATABASE, PROMOTE = "fill disk", "restart database", "promote"

COPY, COPY_WITH_TIMES, RENAME, MOVE_IN, SLOW = "copy", "copy with times", "rename", "move in", "slow write"
WAYS = (COPY, COPY_WITH_TIMES, RENAME, MOVE_IN, SLOW)
GOOD, TRUNCATED, EMPTY, TEXT, OTHER_TYPE, DUPLICATE = "good", "truncated", "empty", "text", "other type", "duplicate"
BAD = (TRUNCATED, EMPTY, TEXT, OTHER_TYPE, DUPLICATE)
REPLACEMENT, TRAILER = "replacement", "trailer"
"""Files that come to a path where an image lies: another image of the same size and modification time is renamed over
it, or a program appends something behind its end."""
LATER = (REPLACEMENT, TRAILER)
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
    """How large a chaos test is.

    Attributes:
        lines: names of the lines.
        files: how many arrive, bad ones included.
        faults: kind -> how many.
        rate: files a second, outside of bursts.
        down: the longest that what was killed stays down, or the disk full, in seconds.
        service_down: the longest that an inference service stays down; 0: as ``down``.
        bad: share of bad files.
        later: share of files that come to a path where an image lies.
    """

    lines: tuple[str, ...]
    files: int
    faults: tuple[tuple[str, int], ...]
    rate: float
    down: float
    service_down: float = 0.0
    bad: float = 0.08
    later: float = 0.06


SMALL = Shape(
    lines=("bottles", "caps"),
    files=200,
    faults=((KILL_SERVICE, 2), (KILL_DAEMON, 1), (KILL_RUN, 1), (FILL_DISK, 1), (PROMOTE, 1)),
    rate=20.0,
    down=1.0,
)
FULL = Shape(
    lines=("bottles", "caps", "tiles"),
    files=2000,
    faults=(
        (KILL_SERVICE, 3),
        (KILL_DAEMON, 1),
        (KILL_CODE_SERVER, 1),
        (KILL_RUN, 3),
        (FILL_DISK, 2),
        (PROMOTE, 2),
    ),
    rate=50.0,
    down=6.0,
    # Runs begin only where no service works on a line, and that is looked at every few seconds.
    service_down=60.0,
)
TWO_MACHINES = Shape(
    lines=("bottles", "caps"),
    files=500,
    faults=((KILL_SERVICE, 3), (KILL_OTHER_SERVICE, 3), (KILL_BOTH_SERVICES, 1), (RESTART_DATABASE, 1), (PROMOTE, 2)),
    rate=12.0,
    down=4.0,
    # Longer than a lease of this test, so that it runs out while its worker is away.
    service_down=10.0,
)


def on_server(shape: Shape) -> Shape:
    """Return the shape for a database server: it is started again where a disk would have been full."""
    faults = tuple((RESTART_DATABASE if kind == FILL_DISK else kind, number) for kind, number in shape.faults)
    return replace(shape, faults=faults)


@dataclass(frozen=True)
class Fault:
    """``after`` so many files this happens; ``down``: seconds until what was killed starts again, or room is made."""

    after: int
    kind: str
    down: float
    line: str


@dataclass(frozen=True)
class InputFile:
    """One file that arrives.

    Attributes:
        number: in order of arriving.
        line: where it arrives.
        path: relative to the watch folder.
        kind: ``GOOD``, or one of ``BAD`` or ``LATER``.
        way: how it is written.
        content: number of its content; that of an earlier file for a duplicate or a trailer.
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
class ChaosPlan:
    """A chaos test."""

    seed: int
    shape: Shape
    files: tuple[InputFile, ...]
    faults: tuple[Fault, ...]


def plan_chaos(seed: int, shape: Shape) -> ChaosPlan:
    """Return the chaos test of a seed.

    >>> plan_chaos(3, SMALL) == plan_chaos(3, SMALL)
    True
    """
    chance = random.Random(f"{seed} {shape}")
    return ChaosPlan(seed, shape, tuple(_input_files(chance, shape)), tuple(_faults(chance, shape)))


def _input_files(chance: random.Random, shape: Shape) -> list[InputFile]:
    files: list[InputFile] = []
    good_of: dict[str, list[int]] = {line: [] for line in shape.lines}
    untouched: dict[str, list[InputFile]] = {line: [] for line in shape.lines}
    burst = 0
    for number in range(shape.files):
        line = chance.choice(shape.lines)
        kind = chance.choice(BAD) if chance.random() < shape.bad else GOOD
        content = number
        if kind == DUPLICATE and good_of[line]:
            content = chance.choice(good_of[line])
        elif kind == DUPLICATE:
            kind = GOOD
        if not burst and chance.random() < 0.005:
            burst = chance.randint(20, 120)
        burst = max(0, burst - 1)
        suffix = chance.choice((".gif", ".txt", ".raw")) if kind == OTHER_TYPE else chance.choice((".png", ".jpg"))
        path, way = f"{chance.choice(FOLDERS)}{number:05}{suffix}", chance.choice(WAYS)
        if kind == GOOD and chance.random() < shape.later and untouched[line]:
            kind = way = chance.choice(LATER)
            before = untouched[line].pop(chance.randrange(len(untouched[line])))
            path = before.path
            # All odd contents have one size.
            content = before.content if kind == TRAILER else 2 * (shape.files + number) + 1
        if kind == GOOD:
            good_of[line].append(content)
        file = InputFile(
            number, line, path, kind, way, content, pause=0.0 if burst else chance.uniform(0.0, 2.0) / shape.rate
        )
        if kind == GOOD and content % 2:
            untouched[line].append(file)
        files.append(file)
    return files


def _faults(chance: random.Random, shape: Shape) -> list[Fault]:
    kinds = [kind for kind, count in shape.faults for _ in range(count)]
    services = (KILL_SERVICE, KILL_OTHER_SERVICE, KILL_BOTH_SERVICES)
    faults = [
        Fault(
            after=chance.randint(shape.files // 20, shape.files * 9 // 10),
            kind=kind,
            down=round(
                chance.uniform(0.1, 1.0) * ((kind in services and shape.service_down) or shape.down),
                3,
            ),
            line=chance.choice(shape.lines),
        )
        for kind in kinds
    ]
    return sorted(faults, key=lambda fault: (fault.after, fault.kind))
