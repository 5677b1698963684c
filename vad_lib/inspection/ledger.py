"""What is written down about the items of an inspection: for landed files, and for files that lie anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, case, select, update

from vad_lib.images.decoding import DecodedImage
from vad_lib.inspection.owed import write_or_owe
from vad_lib.inspection.results import Item, Refusal
from vad_lib.inspection.scoring import Scorer, judge
from vad_lib.inspection_db.database import InspectionDatabase, chunks, insert_many, utc_now
from vad_lib.inspection_db.schema import DONE, PENDING, REFUSED, images, kept_aside, landings, predictions
from vad_lib.landing.ticking import VANISHED

UNKEPT_RULES = frozenset({VANISHED, "changed"})
"""Refusals of a version of a file that is no more: there is nothing to keep aside."""

Also = Callable[[Connection], None]
"""Something to do in the same transaction."""


@dataclass(frozen=True)
class PredictionFacts:
    """What all predictions of one call have in common."""

    line: str
    model_version: str
    inference_threshold: float
    lane: str
    batch_id: str | None
    run_id: str | None


@dataclass(frozen=True)
class Scored:
    """One content and the items that hold it; without a raw score where its prediction is recorded already."""

    items: Sequence[Item]
    sha256: str
    raw_score: float | None
    seconds: float


class Ledger(Protocol):
    """Marks and results of items. Each method is one transaction, but ``own_content``, which runs inside one."""

    def begin(self, chunk: Sequence[Item]) -> None:
        """Mark items as being in hand."""

    def give_back(self, chunk: Sequence[Item], also: Also | None = None) -> None:
        """Undo ``begin``."""

    def blame(self, items: Sequence[tuple[Item, str]]) -> None:
        """Leave marks as if an inspection had died with each of these alone in hand, with what was wrong."""

    def own_content(self, connection: Connection, item: Item, image: DecodedImage, now: datetime) -> str | None:
        """Note what an item holds. Return the path that holds the same already, if that makes it a duplicate."""

    def record(
        self,
        recorded: Sequence[Scored],
        refusals: Sequence[Refusal],
        facts: PredictionFacts,
        model: Scorer,
        also: Also,
    ) -> None:
        """Write down results and reasons, all or nothing. What was written down before stays as it is."""


class FreeLedger:
    """For files that did not land: predictions are recorded, the files themselves are not followed."""

    def __init__(self, db: InspectionDatabase, line: str) -> None:
        self._db = db
        self._line = line

    def begin(self, chunk: Sequence[Item]) -> None:
        """Nothing to mark."""

    def give_back(self, chunk: Sequence[Item], also: Also | None = None) -> None:
        """Run ``also``."""
        if also is not None:
            write_or_owe(self._db, also)

    def blame(self, items: Sequence[tuple[Item, str]]) -> None:
        """Nothing to mark."""

    def own_content(self, connection: Connection, item: Item, image: DecodedImage, now: datetime) -> str | None:
        """Note the content; here nothing is a duplicate: every row of a table gets its result."""
        _note_image(self._db, connection, self._line, item, image, now)
        return None

    def record(
        self,
        recorded: Sequence[Scored],
        refusals: Sequence[Refusal],
        facts: PredictionFacts,
        model: Scorer,
        also: Also,
    ) -> None:
        """Write down predictions. Reasons are only told, as the table is there to look at."""
        with self._db.writing() as connection:
            _insert_predictions(self._db, connection, recorded, facts, model)
            also(connection)


class LandedLedger:
    """For the landings of one batch."""

    def __init__(self, db: InspectionDatabase, line: str) -> None:
        self._db = db
        self._line = line
        self._alone: dict[int, bool] = {}

    def begin(self, chunk: Sequence[Item]) -> None:
        """Count one inspection more that may die with these in hand."""
        alone = len(chunk) == 1
        self._alone.update((item.row, alone) for item in chunk)
        with self._db.writing(durable=False) as connection:
            _of(connection, chunk, begun=landings.c.begun + 1, begun_alone=landings.c.begun_alone + int(alone))

    def give_back(self, chunk: Sequence[Item], also: Also | None = None) -> None:
        """Take back what ``begin`` counted."""
        parts = [(alone, [item for item in chunk if self._alone.get(item.row) is alone]) for alone in (True, False)]
        # Once only: a second call must not take back what another inspection's death left.
        for item in chunk:
            self._alone.pop(item.row, None)

        def take_back(connection: Connection) -> None:
            for alone, part in parts:
                _of(
                    connection,
                    part,
                    begun=case((landings.c.begun > 0, landings.c.begun - 1), else_=0),
                    begun_alone=case(
                        (landings.c.begun_alone >= int(alone), landings.c.begun_alone - int(alone)), else_=0
                    ),
                )
            if also is not None:
                also(connection)

        write_or_owe(self._db, take_back)

    def blame(self, items: Sequence[tuple[Item, str]]) -> None:
        """Keep the mark of ``begin`` as one that counts fully, and remember what was wrong."""
        with self._db.writing() as connection:
            for item, reason in items:
                more = 0 if self._alone.get(item.row, False) else 1
                _of(connection, [item], begun_alone=landings.c.begun_alone + more, reason=reason)

    def own_content(self, connection: Connection, item: Item, image: DecodedImage, now: datetime) -> str | None:
        """The first landed path that holds a content owns it; the same content at another path is a duplicate."""
        _note_image(self._db, connection, self._line, item, image, now)
        this = (images.c.line == self._line) & (images.c.sha256 == image.sha256)
        connection.execute(
            update(images).where(this, images.c.landed_path.is_(None)).values(landed_path=item.image_path)
        )
        owner: str = connection.execute(select(images.c.landed_path).where(this)).scalar_one()
        return None if owner == item.image_path else owner

    def record(
        self,
        recorded: Sequence[Scored],
        refusals: Sequence[Refusal],
        facts: PredictionFacts,
        model: Scorer,
        also: Also,
    ) -> None:
        """Write down predictions, what became of each landing, and what is kept aside."""
        now = utc_now()
        with self._db.writing() as connection:
            _insert_predictions(self._db, connection, recorded, facts, model)
            for one in recorded:
                _of(
                    connection,
                    one.items,
                    state=DONE,
                    sha256=one.sha256,
                    begun=0,
                    begun_alone=0,
                    reason=None,
                    decided_at=now,
                )
            for refusal in refusals:
                self._refuse(connection, refusal, facts, now)
            also(connection)

    def _refuse(self, connection: Connection, refusal: Refusal, facts: PredictionFacts, now: datetime) -> None:
        decided = _of(
            connection,
            [refusal.item],
            state=REFUSED,
            sha256=refusal.sha256,
            begun=0,
            begun_alone=0,
            rule=refusal.rule,
            reason=refusal.reason,
            decided_at=now,
        )
        key = refusal.item.key
        if not decided or key is None or refusal.rule in UNKEPT_RULES:
            return
        insert_many(
            connection,
            self._db.insert_or_ignore(kept_aside),
            [
                {
                    "line": self._line,
                    "path": key.path,
                    "sha256": refusal.sha256,
                    "size": key.size,
                    "mtime_ns": key.mtime_ns,
                    "rule": refusal.rule,
                    "reason": refusal.reason,
                    "batch_id": facts.batch_id,
                    "run_id": facts.run_id,
                    "created_at": now,
                }
            ],
        )


def _of(connection: Connection, items: Sequence[Item], **values: Any) -> int:
    """Change the landings of items, as far as they are not decided yet; return how many."""
    changed = 0
    for part in chunks([item.seq for item in items]):
        changed += connection.execute(
            update(landings).where(landings.c.seq.in_(part), landings.c.state == PENDING).values(**values)
        ).rowcount
    return changed


def _note_image(
    db: InspectionDatabase, connection: Connection, line: str, item: Item, image: DecodedImage, now: datetime
) -> None:
    insert_many(
        connection,
        db.insert_or_ignore(images),
        [
            {
                "line": line,
                "sha256": image.sha256,
                "first_path": str(item.file),
                "width": image.width,
                "height": image.height,
                "channels": image.channels,
                "first_seen": now,
            }
        ],
    )


def _insert_predictions(
    db: InspectionDatabase,
    connection: Connection,
    recorded: Sequence[Scored],
    facts: PredictionFacts,
    model: Scorer,
) -> None:
    new = [(one, one.raw_score) for one in recorded if one.raw_score is not None]
    if not new:
        return
    judged = judge([score for _, score in new], model.calibration, facts.inference_threshold)
    now = utc_now()
    insert_many(
        connection,
        db.insert_or_ignore(predictions),
        [
            {
                "line": facts.line,
                "sha256": one.sha256,
                "model_version": facts.model_version,
                "path": str(one.items[0].file),
                "raw_score": score,
                "p": p,
                "certainty": certainty,
                "predicted": predicted,
                "threshold": model.threshold.value,
                "threshold_version": model.threshold.version,
                "inference_threshold": facts.inference_threshold,
                "lane": facts.lane,
                "batch_id": facts.batch_id,
                "run_id": facts.run_id,
                "seconds": one.seconds,
                "created_at": now,
            }
            for (one, score), (p, certainty, predicted) in zip(new, judged, strict=True)
        ],
    )
