"""Lists of the results of a line: what a person wants to see of it, page by page, over any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    asc,
    desc,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)

from vad_lib.errors import InputError
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import said_by_content
from vad_lib.inspection_db.recent_results import first_since
from vad_lib.inspection_db.schema import REFUSED, incoming_files, is_not_superseded, labels, predictions

Order = Literal["newest", "oldest", "anomalous", "uncertain"]
ToldByPeople = Literal["", "judged", "unjudged", "OK", "NG", "unsure", "differs"]
AT_THRESHOLD = 0.5
"""The calibrated score at the trained threshold."""
UNCERTAIN = 0.1
"""Predictions whose calibrated score is at most so far from it are uncertain."""
MOST_COUNTED = 1000
MOST_VERSIONS = 200
_ROW = predictions.c
_FILE = incoming_files.c


@dataclass(frozen=True)
class Wanted:
    """What a person wants to see of a line's results; what is empty does not matter.

    Attributes:
        predicted: ``OK`` or ``NG``.
        told: what people said about the image: anything, nothing, this label, or another than was predicted.
        kind: of defect, as people said.
        model_version: label of the version that predicted.
        run_id: the Dagster run that did.
        first, last: lowest and highest ``prediction_id``.
        since, until: when it was scored; ``until`` itself is left out.
        is_uncertain: only scores that are at most ``UNCERTAIN`` from the threshold.
        name: a text in the name of the file, in any letter case.
        order: which come first.
    """

    predicted: Literal["", "OK", "NG"] = ""
    told: ToldByPeople = ""
    kind: str = ""
    model_version: str = ""
    run_id: str = ""
    first: int | None = None
    last: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    is_uncertain: bool = False
    name: str = ""
    order: Order = "newest"

    @property
    def is_searched(self) -> bool:
        """Whether rows have to be looked at one by one: then to count all that fit may take long."""
        return bool(self.told or self.kind or self.is_uncertain or self.name)


class Results(NamedTuple):
    """A page of results.

    Attributes:
        rows: all columns of ``predictions``, with ``said`` and ``kind``: what a person said last about the image.
        after: from where the next page goes on; empty: this is the last one.
    """

    rows: list[Row[Any]]
    after: str


class _Walk(NamedTuple):
    """One way through the predictions of a line along an index: by ``key`` and then by number."""

    key: Column[Any]
    is_down: bool
    within: ColumnElement[bool] | None = None

    def after(self, place: tuple[float, int]) -> ColumnElement[bool]:
        here, there = tuple_(self.key, _ROW.prediction_id), tuple_(*place)
        return here < there if self.is_down else here > there

    def ordered(self, chosen: Select[Any], by_index: bool) -> Select[Any]:
        way = desc if self.is_down else asc
        key = self.key if by_index or self.key is _ROW.prediction_id else func.coalesce(self.key, 0)
        return chosen.order_by(way(key), way(_ROW.prediction_id))


def _worth(row: Row[Any]) -> tuple[float, int]:
    return abs(row.p - AT_THRESHOLD), row.prediction_id


_WALKS: dict[str, tuple[_Walk, ...]] = {
    "newest": (_Walk(_ROW.prediction_id, is_down=True),),
    "oldest": (_Walk(_ROW.prediction_id, is_down=False),),
    "anomalous": (_Walk(_ROW.p, is_down=True),),
    # from the threshold up, and from the threshold down
    "uncertain": (
        _Walk(_ROW.p, False, _ROW.p >= AT_THRESHOLD),
        _Walk(_ROW.p, True, _ROW.p < AT_THRESHOLD),
    ),
}


def find_results(
    db: InspectionDatabase, line: str, wanted: Wanted | None = None, *, after: str = "", limit: int = 60
) -> Results:
    """Return a page of predictions. Its cost does not grow with the number of the page.

    Args:
        db: the inspection database.
        line: its name.
        wanted: which, and in which order; None: all, newest first.
        after: ``Results.after`` of the page before; empty: the first page.
        limit: at most so many.

    Raises:
        InputError: ``after`` is of no page of this order.
    """
    wanted = wanted or Wanted()
    walks = _WALKS[wanted.order]
    places = _places(after, len(walks))
    with db.reading() as connection:
        chosen = select(predictions).where(*_conditions(db, connection, line, wanted))
        # where few rows fit, to look at all in the order of the table costs less than in the order of an index
        by_index = not wanted.name
        found = [
            _walked(connection, chosen, walk, place, limit, by_index) for walk, place in zip(walks, places, strict=True)
        ]
        # one row more than is shown tells whether there is a next page
        some = list(islice(merge(*found, key=_worth), limit + 1)) if len(walks) > 1 else found[0]
        numbers = [row.prediction_id for row in some[:limit]]
        said = said_by_content(line, [row.sha256 for row in some[:limit]])
        of_image = said.c.sha256 == _ROW.sha256
        with_labels = select(predictions, said.c.label.label("said"), said.c.kind).join(said, of_image, isouter=True)
        by_number = {
            row.prediction_id: row for row in connection.execute(with_labels.where(_ROW.prediction_id.in_(numbers)))
        }
    goes_on = ""
    if len(some) > limit:
        goes_on = "~".join(_place_of(walk, some[:limit], place) for walk, place in zip(walks, places, strict=True))
    return Results([by_number[number] for number in numbers], goes_on)


def _walked(
    connection: Connection,
    chosen: Select[Any],
    walk: _Walk,
    place: tuple[float, int] | None,
    limit: int,
    by_index: bool,
) -> Sequence[Row[Any]]:
    if walk.within is not None:
        chosen = chosen.where(walk.within)
    if place is not None:
        chosen = chosen.where(walk.after(place))
    return connection.execute(walk.ordered(chosen, by_index).limit(limit + 1)).all()


def _places(after: str, count: int) -> list[tuple[float, int] | None]:
    if not after:
        return [None] * count
    try:
        places = [
            (float(key), int(number)) if part else None
            for part in after.split("~")
            for key, _, number in [part.partition("_")]
        ]
    except ValueError:
        places = []
    if len(places) != count:
        raise InputError("The address is of no page in this order. Begin at the first page.")
    return places


def _place_of(walk: _Walk, shown: Sequence[Row[Any]], before: tuple[float, int] | None) -> str:
    """Return how far a walk has come: to the last row that it shows, or as far as it was."""
    mine = [row for row in shown if walk.within is None or (row.p < AT_THRESHOLD) == walk.is_down]
    if mine:
        return f"{getattr(mine[-1], walk.key.name)!r}_{mine[-1].prediction_id}"
    return "" if before is None else f"{before[0]!r}_{before[1]}"


def count_results(db: InspectionDatabase, line: str, wanted: Wanted, *, most: int = MOST_COUNTED) -> int:
    """Return how many predictions there are, and ``most + 1`` where there are more than ``most``."""
    with db.reading() as connection:
        some: Select[Any] = (
            select(literal_column("1")).select_from(predictions).where(*_conditions(db, connection, line, wanted))
        )
        counted = select(func.count()).select_from(some.limit(most + 1).subquery())
        return int(connection.execute(counted).scalar_one())


def _conditions(db: InspectionDatabase, connection: Connection, line: str, wanted: Wanted) -> list[ColumnElement[bool]]:
    chosen: list[ColumnElement[bool]] = [_ROW.line == line]
    for text, field in (
        (wanted.predicted, _ROW.predicted),
        (wanted.model_version, _ROW.model_version),
        (wanted.run_id, _ROW.run_id),
    ):
        if text:
            chosen.append(field == text)
    if wanted.first is not None:
        chosen.append(_ROW.prediction_id >= wanted.first)
    if wanted.last is not None:
        chosen.append(_ROW.prediction_id <= wanted.last)
    if wanted.since is not None:
        chosen.append(_ROW.prediction_id >= first_since(connection, line, wanted.since))
    if wanted.until is not None:
        chosen.append(_ROW.prediction_id < first_since(connection, line, wanted.until))
    if wanted.is_uncertain:
        chosen.append(_ROW.p.between(AT_THRESHOLD - UNCERTAIN, AT_THRESHOLD + UNCERTAIN))
    if wanted.name:
        chosen.append(_in_name(db, _ROW.path, wanted.name))
    if wanted.told or wanted.kind:
        chosen.append(_told(line, wanted))
    return chosen


def _told(line: str, wanted: Wanted) -> ColumnElement[bool]:
    said = said_by_content(line)
    if wanted.told == "unjudged":
        return _ROW.sha256.not_in(select(said.c.sha256).where(said.c.label != "unsure"))
    chosen = []
    if wanted.told in ("OK", "NG", "unsure"):
        chosen.append(said.c.label == wanted.told)
    elif wanted.told:
        chosen.append(said.c.label != "unsure")
    if wanted.kind:
        chosen.append(said.c.kind == wanted.kind)
    judged = _ROW.sha256.in_(select(said.c.sha256).where(*chosen))
    if wanted.told != "differs":
        return judged
    return or_(
        *(
            and_(
                _ROW.predicted == predicted,
                _ROW.sha256.in_(select(said.c.sha256).where(*chosen, said.c.label == other)),
            )
            for predicted, other in (("OK", "NG"), ("NG", "OK"))
        )
    )


def _in_name(db: InspectionDatabase, path: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """That a text is in the part of a path after the last slash, in any case; SQLite knows that of English letters."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    like = "%" + escaped + "%"
    name = func.substr(path, func.length(func.rtrim(path, func.replace(path, "/", ""))) + 1)
    # the whole path first: it costs less
    both = (each.ilike(like, "\\") if db.is_postgresql else each.like(like, "\\") for each in (path, name))
    return and_(*both)


def find_refused(
    db: InspectionDatabase,
    line: str,
    *,
    name: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 60,
) -> list[Row[Any]]:
    """Return files that were refused, those registered last first, but for versions of a file that are no more.

    Args:
        db: the inspection database.
        line: its name.
        name: a text in the name of the file, in any letter case.
        since, until: when they were refused; ``until`` itself is left out.
        before: only files of a lower ``file_id``, for the next page.
        limit: at most so many.
    """
    chosen = select(incoming_files).where(_FILE.line == line, _FILE.state == REFUSED, is_not_superseded(_FILE.rule))
    if name:
        chosen = chosen.where(_in_name(db, literal_column("'/'").concat(_FILE.path), name))
    if since is not None:
        chosen = chosen.where(_FILE.decided_at >= since)
    if until is not None:
        chosen = chosen.where(_FILE.decided_at < until)
    if before is not None:
        chosen = chosen.where(_FILE.file_id < before)
    with db.reading() as connection:
        return list(connection.execute(chosen.order_by(desc(_FILE.file_id)).limit(limit)).all())


def refused_file(db: InspectionDatabase, line: str, file_id: int) -> Row[Any] | None:
    """Return a refused file of a line; None where there is none of that number."""
    chosen = select(incoming_files).where(_FILE.line == line, _FILE.file_id == file_id, _FILE.state == REFUSED)
    with db.reading() as connection:
        return connection.execute(chosen).one_or_none()


def versions_of(db: InspectionDatabase, line: str) -> list[str]:
    """Return the model versions that predicted on a line, the one that did last first."""
    found: dict[str, int] = {}
    with db.reading() as connection:
        version: str | None = ""
        while len(found) < MOST_VERSIONS:
            # one step along the index for each version, however many rows each has
            mine = _ROW.line == line, _ROW.model_version > version
            version = connection.execute(select(func.min(_ROW.model_version)).where(*mine)).scalar()
            if version is None:
                break
            last = select(func.max(_ROW.prediction_id)).where(_ROW.line == line, _ROW.model_version == version)
            found[version] = connection.execute(last).scalar_one()
    return sorted(found, key=lambda version: -found[version])


def kinds_of(db: InspectionDatabase, line: str) -> list[str]:
    """Return the kinds of defect that people ever named on a line, by name."""
    of_label = select(_ROW.line).where(_ROW.prediction_id == labels.c.prediction_id).scalar_subquery()
    named = select(labels.c.kind).where(labels.c.kind.is_not(None), of_label == line)
    with db.reading() as connection:
        return sorted(connection.execute(named.distinct()).scalars())
