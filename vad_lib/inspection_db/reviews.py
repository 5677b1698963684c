"""What people should look at next on a line, in the order of worth, and who looks at what.

Four sources take turns, so that none of them starves another:

==============  ======================================================================================
source          why an image is worth a look
==============  ======================================================================================
disagreement    two look at it differently: detector and description, or two versions of the model
near            its ``p`` is close to the inference threshold
new             nobody has judged an image with such a ``p`` yet
random          it belongs to the random sample (``AUDIT``) by which missed defects are estimated
==============  ======================================================================================

After all of them comes what somebody was unsure about, for one other person, and then the rest that nobody has judged,
what is nearest to the threshold first: who has time may go on. What is judged does not come again. No vector of an
image is stored, so *new* is a distance between scores and not between pictures.

An image that a person gets is leased for ``LEASE_SECONDS`` in the table ``reviews``; asking for more renews the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise, zip_longest
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, exists, func, or_, select

from vad_lib.inspection_db.database import InspectionDatabase, insert_many, utc_now
from vad_lib.inspection_db.monitoring import AUDIT
from vad_lib.inspection_db.schema import (
    DONE,
    UNSURE,
    WITHDRAWN,
    descriptions,
    images,
    labels,
    predictions,
    reviews,
    shadow_predictions,
)

DISAGREEMENT, NEAR, NEW, RANDOM, SOMEBODY_UNSURE = "disagreement", "near", "new", "random", "unsure"
REST = "rest"
"""Of images for which none of these speaks."""
SOURCES = (DISAGREEMENT, NEAR, NEW, RANDOM)
"""In the order of their turns."""
DESCRIPTION = "description"
"""Stands as ``ToReview.other`` where it is a description that disagrees, and no version of the model."""
LEASE_SECONDS = 120.0
NEAR_DISTANCE = 0.1
"""Of ``p`` to the inference threshold."""
NEW_DISTANCE = 0.05
"""Of ``p`` to that of the nearest judged image."""
MOST_COUNTED = 500
_WIDEST_GAPS = 6
_NEWEST_JUDGED = 2000
_TRIES = 5


@dataclass(frozen=True)
class ToReview:
    """One image that somebody is to look at.

    Attributes:
        prediction_id: the newest prediction of the image.
        sha256: of the image's bytes.
        path: absolute, where it was scored.
        source: why it comes: one of ``SOURCES``, ``SOMEBODY_UNSURE``, or ``REST``.
        predicted: what the detector says.
        p: its calibrated score.
        inference_threshold: on ``p``.
        width, height: of the upright image in pixels; 0 where they are not known.
        nearest: of ``new``: ``p`` of the judged image whose score is nearest; None where none was judged.
        other: of ``disagreement``: who says something else: ``description``, or the label of a model version.
        person: of ``unsure``: who was.
    """

    prediction_id: int
    sha256: str
    path: str
    source: str
    predicted: str
    p: float
    inference_threshold: float
    width: int
    height: int
    nearest: float | None = None
    other: str = ""
    person: str = ""

    @property
    def is_blind(self) -> bool:
        """Whether the image is of the random sample, whose judges should not be led by the prediction."""
        return self.sha256 < AUDIT


@dataclass(frozen=True)
class NextReviews:
    """What a person gets.

    Attributes:
        given: leased to the person, in order.
        lost: numbers of those the person had that somebody else has by now.
    """

    given: list[ToReview]
    lost: list[int]


def next_to_review(
    db: InspectionDatabase, line: str, person: str, *, count: int = 3, turn: int = 0, have: Sequence[int] = ()
) -> NextReviews:
    """Lease the next images of a line to a person.

    Args:
        db: holds the predictions.
        line: whose images.
        person: who looks at them.
        count: at most so many.
        turn: how many the person has had: which source comes first.
        have: numbers of predictions that the person has on the screen; their leases are renewed, and they do not come.
    """
    given: list[ToReview] = []
    lost: list[int] = []
    for _ in range(_TRIES):
        held = [*have, *(one.prediction_id for one in given)]
        with db.reading() as connection:
            now = db.clock(connection)
            free = [_free(now, person), predictions.c.prediction_id.not_in(held)]
            wanted = list(_in_turn(connection, line, person, turn + len(given), count - len(given), free))
        taken, lost = _lease(db, line, person, wanted, have)
        given += taken
        if len(given) >= count or len(taken) == len(wanted):  # else others were faster
            break
    return NextReviews(given, [number for number in lost if number in have])


def hold(db: InspectionDatabase, line: str, person: str, prediction_id: int) -> None:
    """Lease an image to a person who goes back to it, where nobody else has it."""
    _lease(db, line, person, [], [prediction_id])


def count_waiting(db: InspectionDatabase, line: str, person: str) -> int:
    """Return how many images are worth a look of a person, those on screens included; at most ``MOST_COUNTED``."""
    found: set[str] = set()
    with db.reading() as connection:
        for source in (*SOURCES, SOMEBODY_UNSURE):
            # of those with new scores a few are enough: judging one makes its neighbours known
            most = _WIDEST_GAPS if source == NEW else MOST_COUNTED
            rows = _SOURCES[source](connection, line, person, most, [])
            found.update(one.sha256 for one in rows)
            if len(found) >= MOST_COUNTED:
                break
    return min(len(found), MOST_COUNTED)


def count_judged_today(db: InspectionDatabase, line: str) -> int:
    """Return on how many images of a line somebody has said something since midnight (UTC) that was not withdrawn."""
    midnight = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
    of_line = select(predictions.c.sha256, labels.c.label).join(
        labels, labels.c.prediction_id == predictions.c.prediction_id
    )
    today = of_line.where(labels.c.created_at >= midnight, predictions.c.line == line).order_by(labels.c.label_id)
    with db.reading() as connection:
        last = {row.sha256: row.label for row in connection.execute(today)}
    return sum(label != WITHDRAWN for label in last.values())


def kinds_said(db: InspectionDatabase, line: str) -> list[str]:
    """Return the kinds of defect that people named on a line, the usual ones first."""
    of_line = labels.join(predictions, predictions.c.prediction_id == labels.c.prediction_id)
    named = select(labels.c.kind).select_from(of_line).where(predictions.c.line == line, labels.c.kind.is_not(None))
    with db.reading() as connection:
        found = connection.execute(named.group_by(labels.c.kind).order_by(func.count().desc(), labels.c.kind))
        return list(found.scalars())


def _in_turn(
    connection: Connection, line: str, person: str, turn: int, count: int, free: list[ColumnElement[bool]]
) -> Iterator[ToReview]:
    """Yield at most ``count`` images, one of each source after the other, each content once."""
    start = turn % len(SOURCES)
    seen: set[str] = set()
    for sources in ([*SOURCES[start:], *SOURCES[:start]], [SOMEBODY_UNSURE], [REST]):
        rows = [_SOURCES[source](connection, line, person, 3 * count, free) for source in sources]
        for one in (each for level in zip_longest(*rows) for each in level if each is not None):
            if len(seen) < count and one.sha256 not in seen:
                seen.add(one.sha256)
                yield one
        if len(seen) >= count:
            return


def _disagreeing(
    connection: Connection, line: str, person: str, limit: int, free: list[ColumnElement[bool]]
) -> list[ToReview]:
    """Return images about which a description, or a version that does not serve, says something else than the detector.

    Each newest first, those of descriptions and of versions in turn.
    """
    columns, shadows = descriptions.c, shadow_predictions.c
    said = columns.line == line, columns.agrees.is_(False), columns.state == DONE
    described = select(columns.prediction_id).where(*said)
    conditions, newest = [*free, _is_unjudged()], predictions.c.prediction_id.desc()
    chosen = _chosen(line, [*conditions, predictions.c.prediction_id.in_(described)]).order_by(newest)
    of_words = [
        _to_review(row, DISAGREEMENT, other=DESCRIPTION) for row in connection.execute(chosen.limit(limit)).all()
    ]
    decided = predictions.alias("decided")
    differ = (
        select(shadows.prediction_id)
        .join(decided, decided.c.prediction_id == shadows.prediction_id)
        .where(shadows.line == line, shadows.predicted != decided.c.predicted)
    )
    other = select(func.max(shadows.model_version)).where(
        shadows.prediction_id == predictions.c.prediction_id, shadows.predicted != predictions.c.predicted
    )
    chosen = _chosen(line, [*conditions, predictions.c.prediction_id.in_(differ)]).order_by(newest).limit(limit)
    chosen = chosen.add_columns(other.correlate(predictions).scalar_subquery().label("other_version"))
    of_versions = [_to_review(row, DISAGREEMENT, other=row.other_version) for row in connection.execute(chosen)]
    pairs = zip_longest(of_versions, of_words)
    return [one for pair in pairs for one in pair if one is not None][:limit]


def _near_threshold(
    connection: Connection, line: str, person: str, limit: int, free: list[ColumnElement[bool]]
) -> list[ToReview]:
    """Return images close to the threshold that decides now, the closest first."""
    return _nearest(connection, line, limit, free, NEAR, NEAR_DISTANCE)


def _rest(
    connection: Connection, line: str, person: str, limit: int, free: list[ColumnElement[bool]]
) -> list[ToReview]:
    """Return whatever nobody has judged, the closest to the threshold first."""
    return _nearest(connection, line, limit, free, REST, 1.0)


def _nearest(
    connection: Connection, line: str, limit: int, free: list[ColumnElement[bool]], source: str, reach: float
) -> list[ToReview]:
    newest = select(predictions.c.inference_threshold).where(predictions.c.line == line)
    threshold = connection.execute(newest.order_by(predictions.c.prediction_id.desc()).limit(1)).scalar()
    if threshold is None:
        return []
    rows = _around(connection, line, limit, [*free, _is_unjudged()], float(threshold), reach)
    return [_to_review(row, source) for row in sorted(rows, key=lambda row: abs(row.p - threshold))[:limit]]


def _new(connection: Connection, line: str, person: str, limit: int, free: list[ColumnElement[bool]]) -> list[ToReview]:
    """Return images whose score lies farthest from those of judged images, the farthest first.

    Normal parts have been seen in training: 0 counts as judged.
    """
    judged = (
        select(predictions.c.p)
        .join(labels, labels.c.prediction_id == predictions.c.prediction_id)
        .where(predictions.c.line == line, labels.c.label != WITHDRAWN)
        .order_by(labels.c.label_id.desc())
        .limit(_NEWEST_JUDGED)
    )
    known = sorted({0.0, *(float(p) for p in connection.execute(judged).scalars())})
    conditions = [*free, _is_unjudged()]
    above = predictions.c.p >= known[-1] + NEW_DISTANCE
    highest = _chosen(line, [*conditions, above]).order_by(predictions.c.p.desc()).limit(limit)
    rows = list(connection.execute(highest))
    widest = sorted(((high - low) / 2, low, high) for low, high in pairwise(known))[-_WIDEST_GAPS:]
    for half, low, high in reversed(widest):
        if half > NEW_DISTANCE:
            rows += _around(connection, line, limit, conditions, (low + high) / 2, half - NEW_DISTANCE)

    def nearest(p: float) -> float:
        return min(known, key=lambda other: abs(other - p))

    rows.sort(key=lambda row: -abs(row.p - nearest(row.p)))
    return [_to_review(row, NEW, nearest=nearest(row.p) if len(known) > 1 else None) for row in rows[:limit]]


def _random(
    connection: Connection, line: str, person: str, limit: int, free: list[ColumnElement[bool]]
) -> list[ToReview]:
    """Return images of the random sample of what is called OK, newest first."""
    of_sample = predictions.c.sha256 < AUDIT, predictions.c.predicted == "OK"
    chosen = _chosen(line, [*free, _is_unjudged(), *of_sample])
    rows = connection.execute(chosen.order_by(predictions.c.prediction_id.desc()).limit(limit))
    return [_to_review(row, RANDOM) for row in rows]


def _somebody_unsure(
    connection: Connection, line: str, person: str, limit: int, free: list[ColumnElement[bool]]
) -> list[ToReview]:
    """Return images about which one other person was unsure, longest ago first."""
    said = predictions.c.prediction_id.in_(select(labels.c.prediction_id).where(labels.c.label == UNSURE))
    chosen = _chosen(line, [*free, said, _is_unsure_of_another(person)])
    chosen = chosen.add_columns(_of_last_word("person").label("unsure_person"))
    rows = connection.execute(chosen.order_by(predictions.c.prediction_id).limit(limit))
    return [_to_review(row, SOMEBODY_UNSURE, person=row.unsure_person) for row in rows]


_Source = Callable[[Connection, str, str, int, list[ColumnElement[bool]]], list[ToReview]]
_SOURCES: dict[str, _Source] = {
    DISAGREEMENT: _disagreeing,
    NEAR: _near_threshold,
    NEW: _new,
    RANDOM: _random,
    SOMEBODY_UNSURE: _somebody_unsure,
    REST: _rest,
}


def _around(
    connection: Connection, line: str, limit: int, conditions: list[ColumnElement[bool]], middle: float, reach: float
) -> list[Row[Any]]:
    """Return images whose ``p`` is nearest to a value, at most ``limit`` on each side of it."""
    p = predictions.c.p
    over = _chosen(line, [*conditions, p >= middle, p <= middle + reach]).order_by(p).limit(limit)
    under = _chosen(line, [*conditions, p < middle, p >= middle - reach]).order_by(p.desc()).limit(limit)
    return [*connection.execute(over), *connection.execute(under)]


def _chosen(line: str, conditions: Iterable[ColumnElement[bool]]) -> Select[Any]:
    """The newest prediction of each content that fits, with its size."""
    newer = predictions.alias("newer")
    has_newer = exists().where(
        newer.c.line == line,
        newer.c.sha256 == predictions.c.sha256,
        newer.c.prediction_id + 0 > predictions.c.prediction_id,  # else SQLite looks through all that are newer
    )
    of_image = and_(images.c.line == predictions.c.line, images.c.sha256 == predictions.c.sha256)
    return (
        select(predictions, images.c.width, images.c.height)
        .join(images, of_image, isouter=True)
        .where(predictions.c.line == line, ~has_newer, *conditions)
    )


def _labels_of_image() -> tuple[Any, ColumnElement[bool]]:
    """The labels on the image of a prediction: found by the image, never by looking through all labels."""
    given, judged = labels.alias(), predictions.alias()
    of_image = select(judged.c.prediction_id).where(
        judged.c.line == predictions.c.line, judged.c.sha256 == predictions.c.sha256
    )
    return given, given.c.prediction_id.in_(of_image.correlate(predictions))


def _of_last_word(column: str) -> ColumnElement[Any]:
    """A column of the last thing said about the image of a prediction."""
    given, of_image = _labels_of_image()
    newest = select(func.max(given.c.label_id)).where(of_image).correlate(predictions).scalar_subquery()
    last = labels.alias()
    return select(last.c[column]).where(last.c.label_id == newest).correlate(predictions).scalar_subquery()


def _is_unjudged() -> ColumnElement[bool]:
    return func.coalesce(_of_last_word("label"), WITHDRAWN) == WITHDRAWN


def _is_unsure_of_another(person: str) -> ColumnElement[bool]:
    """That the last word is that of one person who was unsure, and of nobody before."""
    given, of_image = _labels_of_image()
    said = select(func.count()).select_from(given).where(of_image, given.c.label == UNSURE)
    unsure = said.correlate(predictions).scalar_subquery()
    is_last = _of_last_word("label") == UNSURE
    return and_(is_last, _of_last_word("person") != person, unsure == 1)


def _free(now: Any, person: str) -> ColumnElement[bool]:
    return ~exists().where(
        reviews.c.line == predictions.c.line,
        reviews.c.sha256 == predictions.c.sha256,
        reviews.c.person != person,
        reviews.c.leased_until > now,
    )


def _to_review(row: Row[Any], source: str, **more: Any) -> ToReview:
    return ToReview(
        prediction_id=row.prediction_id,
        sha256=row.sha256,
        path=row.path,
        source=source,
        predicted=row.predicted,
        p=row.p,
        inference_threshold=row.inference_threshold,
        width=row.width or 0,
        height=row.height or 0,
        **more,
    )


def _lease(
    db: InspectionDatabase, line: str, person: str, wanted: Sequence[ToReview], have: Sequence[int]
) -> tuple[list[ToReview], list[int]]:
    """Lease what nobody else has and nobody has judged meanwhile; return it, and what of ``have`` another one has."""
    numbers = {one.prediction_id: one.sha256 for one in wanted}
    with db.writing(line=line, durable=False) as connection:
        now = db.clock(connection)
        of_have = select(predictions.c.prediction_id, predictions.c.sha256).where(
            predictions.c.line == line, predictions.c.prediction_id.in_([int(number) for number in have])
        )
        contents = {row.prediction_id: row.sha256 for row in connection.execute(of_have)}
        connection.execute(delete(reviews).where(reviews.c.line == line, reviews.c.leased_until <= now))
        concerned = sorted({*numbers.values(), *contents.values()})
        leases = select(reviews.c.sha256).where(
            reviews.c.line == line, reviews.c.person != person, reviews.c.sha256.in_(concerned)
        )
        of_others = set(connection.execute(leases).scalars())
        still = select(predictions.c.prediction_id).where(
            predictions.c.prediction_id.in_(list(numbers)), or_(_is_unjudged(), _is_unsure_of_another(person))
        )
        open_ones = set(connection.execute(still).scalars())
        taken = [one for one in wanted if one.prediction_id in open_ones and one.sha256 not in of_others]
        mine = sorted({*(one.sha256 for one in taken), *contents.values()} - of_others)
        connection.execute(delete(reviews).where(reviews.c.line == line, reviews.c.sha256.in_(mine)))
        until = now + timedelta(seconds=LEASE_SECONDS)
        rows = [{"line": line, "sha256": sha256, "person": person, "leased_until": until} for sha256 in mine]
        insert_many(connection, reviews.insert(), rows)
    return taken, [number for number, sha256 in contents.items() if sha256 in of_others]
