"""What versions that do not serve say about live images, beside the version that does.

An image gets a row of a version where it is of the version's random share, which its content decides, or where a person
has judged it. What arrived before the version was made has none: the version may have learnt from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, exists, func, or_, select

from vad_lib.inspection_db.database import InspectionDatabase, utc_now
from vad_lib.inspection_db.labels import labels_by_content
from vad_lib.inspection_db.schema import predictions, shadow_predictions

NEWEST = 1000
"""Images that were decided last, among which those to score are looked for."""


@dataclass(frozen=True)
class ToShadow:
    """An image that a version which does not serve is to score.

    Attributes:
        prediction_id: of the version that serves.
        sha256: of the image's bytes.
        path: absolute, where it was scored.
        sampled: whether it is of the random share; else a person has judged it.
    """

    prediction_id: int
    sha256: str
    path: str
    sampled: bool


@dataclass(frozen=True)
class ShadowPrediction:
    """What a version that does not serve says about an image; columns of the table ``shadow_predictions``."""

    line: str
    sha256: str
    model_version: str
    prediction_id: int
    sampled: bool
    raw_score: float
    p: float
    predicted: str
    threshold: float
    seconds: float


def is_sampled(sha256: str, model_version: str, share: float) -> bool:
    """Whether an image content is of the random share of a version: the same for everybody who asks.

    >>> is_sampled("ab", "vad-caps/2", 1.0), is_sampled("ab", "vad-caps/2", 0.0)
    (True, False)
    """
    digest = hashlib.sha256(f"{sha256} {model_version}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def images_to_shadow(
    db: InspectionDatabase, line: str, champion: str, version: str, *, share: float, since: datetime
) -> list[ToShadow]:
    """Return live images that a version is to score, judged ones first, then the newest first.

    Args:
        db: holds the predictions.
        line: of the images.
        champion: label of the version that serves.
        version: label of the version that scores them.
        share: of the images, in 0..1.
        since: when the version was made; what was decided before does not count.
    """
    columns = predictions.c
    chosen = select(columns.prediction_id, columns.sha256, columns.path).where(
        columns.line == line,
        columns.model_version == champion,
        columns.created_at > since,
        *_is_not_scored(line, version),
    )
    held = labels_by_content(line)
    numbers = select(columns.prediction_id).where(columns.line == line).order_by(columns.prediction_id.desc())
    oldest = select(func.min(numbers.limit(NEWEST).subquery().c.prediction_id)).scalar_subquery()
    with db.reading() as connection:
        judged = connection.execute(chosen.join(held, held.c.sha256 == columns.sha256)).all()
        newest = connection.execute(chosen.where(columns.prediction_id >= oldest)).all()
    judged, newest = (sorted(rows, key=lambda row: -row.prediction_id) for rows in (judged, newest))
    found: dict[str, ToShadow] = {}
    for row in (*judged, *(row for row in newest if is_sampled(row.sha256, version, share))):
        found.setdefault(row.sha256, ToShadow(*row, sampled=is_sampled(row.sha256, version, share)))
    return list(found.values())


def _is_not_scored(line: str, version: str) -> Iterable[ColumnElement[bool]]:
    own = predictions.alias("own")
    for table in (shadow_predictions, own):
        same = table.c.line == line, table.c.sha256 == predictions.c.sha256, table.c.model_version == version
        yield ~exists().where(*same)


def record_shadow(db: InspectionDatabase, made: ShadowPrediction) -> None:
    """Write down what a version says about an image. Where that is known already, nothing changes."""
    with db.writing(durable=False) as connection:
        connection.execute(db.insert_or_ignore(shadow_predictions).values(**asdict(made), created_at=utc_now()))


def shadow_counts(db: InspectionDatabase, versions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return how many images each of these versions has scored beside the champion; keys are line and version."""
    of_versions = [
        (shadow_predictions.c.line == line) & (shadow_predictions.c.model_version == version)
        for line, version in versions
    ]
    columns = shadow_predictions.c.line, shadow_predictions.c.model_version
    counted = select(*columns, func.count()).where(or_(False, *of_versions)).group_by(*columns)
    with db.reading() as connection:
        return {(row[0], row[1]): int(row[2]) for row in connection.execute(counted)}
