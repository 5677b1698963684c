"""The way of every image, whichever lane it took: read once, claim by content, score, record.

A chunk of images goes through three short transactions: *begin* marks landed files as being in hand, *claim* takes
what nobody else scores, *record* writes results and reasons down together. Whoever dies in between leaves marks that
the next attempt reads: files that were in hand at a death are then taken one by one, after all others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from vad_lib.errors import InputError
from vad_lib.inspection.claims import claim, claimed_elsewhere, new_owner, release
from vad_lib.inspection.ledger import Ledger, PredictionFacts, Scored
from vad_lib.inspection.reading import ReadItem, read_item
from vad_lib.inspection.results import Item, Refusal
from vad_lib.inspection.scoring import Scorer, save_map, score_chunk
from vad_lib.inspection_db.database import InspectionDatabase, utc_now
from vad_lib.landing.ticking import VANISHED
from vad_lib.progress import Progress, ProgressMeter

MAX_DEATHS = 3
"""A file is refused after so many inspections died while they had only it in hand."""
WAIT_SECONDS = 0.2
MAX_READERS = 4


@dataclass
class Outcome:
    """Item -> content, or the reason why there is none; ``left`` items could not be decided now."""

    contents: dict[int, str] = field(default_factory=dict)
    refusals: dict[int, Refusal] = field(default_factory=dict)
    left: list[Refusal] = field(default_factory=list)
    scored: int = 0
    reused: int = 0


@dataclass(frozen=True)
class _Elsewhere:
    """In other hands; without its pixels."""

    item: Item
    sha256: str


class Inspection:
    """One call's work. Make a new one for each call."""

    def __init__(
        self,
        db: InspectionDatabase,
        model: Scorer,
        facts: PredictionFacts,
        ledger: Ledger,
        *,
        batch_size: int,
        maps_folder: Path | None,
        progress: Progress,
        vouched: bool = False,
    ) -> None:
        """``vouched``: this model version is known to score other files of the same batch."""
        self._db = db
        self._model = model
        self._facts = facts
        self._ledger = ledger
        self._batch_size = max(1, batch_size)
        self._maps_folder = maps_folder
        self._progress = progress
        self._owner = new_owner()
        self._outcome = Outcome()
        self._vouched = vouched
        self._read_any = False
        self._unread: list[Refusal] = []
        self._unscored: list[tuple[Item, str, Exception]] = []

    def run(self, items: Sequence[Item]) -> Outcome:
        """Inspect all items.

        Raises:
            InputError: nothing at all could be read (a share that went away): no file is blamed for it.
            Exception: what the detector raised, where it could score nothing at all.
        """
        with self._db.kept_open():
            return self._run(items)

    def _run(self, items: Sequence[Item]) -> Outcome:
        meter = ProgressMeter(self._progress, "inspecting", len(items))
        try:
            postponed: list[_Elsewhere] = []
            for chunk in self._chunks(items):
                elsewhere = self._do(chunk)
                meter.advance(len(chunk) - len(elsewhere))
                postponed += elsewhere
            # Somebody else scored these a moment ago: their result will do; should they die, the claim is taken over.
            while postponed:
                free, postponed = self._wait_for_one(postponed)
                elsewhere = self._do([each.item for each in free])
                meter.advance(len(free) - len(elsewhere))
                postponed += elsewhere
        except BaseException:
            doubtful = [refusal.item for refusal in self._unread] + [item for item, _, _ in self._unscored]
            with contextlib.suppress(Exception):
                self._ledger.give_back(doubtful)
            raise
        self._settle_doubtful(len(items))
        return self._outcome

    def _wait_for_one(self, postponed: Sequence[_Elsewhere]) -> tuple[list[_Elsewhere], list[_Elsewhere]]:
        """Wait until one content at least is recorded or free again; return those (at most a chunk), and the rest."""
        while True:
            with self._db.reading() as connection:
                held = claimed_elsewhere(
                    connection,
                    line=self._facts.line,
                    model_version=self._facts.model_version,
                    contents=[each.sha256 for each in postponed],
                    owner=self._owner,
                    now=utc_now(),
                )
            free = [each for each in postponed if each.sha256 not in held][: self._batch_size]
            if free:
                return free, [each for each in postponed if each not in free]
            time.sleep(WAIT_SECONDS)

    def _chunks(self, items: Sequence[Item]) -> list[list[Item]]:
        fresh = [item for item in items if not item.begun]
        suspects = sorted((item for item in items if item.begun), key=lambda item: item.begun_alone)
        size = self._batch_size
        return [fresh[start : start + size] for start in range(0, len(fresh), size)] + [[each] for each in suspects]

    def _do(self, chunk: Sequence[Item]) -> list[_Elsewhere]:
        """Take one chunk all the way; return the items that somebody else has in hand."""
        refusals = [_after_deaths(item) for item in chunk if item.begun_alone >= MAX_DEATHS]
        if refusals:
            self._record([], [], refusals)
            chunk = [item for item in chunk if item.begun_alone < MAX_DEATHS]
        if not chunk:
            return []
        self._ledger.begin(chunk)
        claimed: set[str] = set()
        try:
            read, refusals = self._read(chunk)
            ours, known, elsewhere, duplicates = self._claim(read, claimed)
            scored = self._score(ours)
            if self._maps_folder is not None:
                self._redraw(known)
            self._record(scored, known, refusals + duplicates, claimed)
        except BaseException:
            # Stopped or failed in good order: nobody is to blame. If even this cannot be written, the marks stay and
            # cost a little caution next time.
            with contextlib.suppress(Exception):
                self._ledger.give_back(chunk, self._release_of(claimed))
            raise
        if elsewhere:
            self._ledger.give_back([each.item for each in elsewhere])
        return [_Elsewhere(each.item, each.image.sha256) for each in elsewhere]

    def _read(self, chunk: Sequence[Item]) -> tuple[list[ReadItem], list[Refusal]]:
        with ThreadPoolExecutor(min(len(chunk), MAX_READERS)) as pool:
            results = list(pool.map(read_item, chunk))
        read = [result for result in results if isinstance(result, ReadItem)]
        self._read_any = self._read_any or bool(read)
        refusals = []
        for result in results:
            if isinstance(result, Refusal):
                if result.lasting:
                    # A file that was read and found broken shows as well that the folder can be read.
                    self._read_any = self._read_any or result.rule != VANISHED
                    refusals.append(result)
                else:
                    self._unread.append(result)
        return read, refusals

    def _claim(
        self, read: Sequence[ReadItem], claimed: set[str]
    ) -> tuple[list[ReadItem], list[ReadItem], list[ReadItem], list[Refusal]]:
        """Sort what was read: ours to score (each content once), recorded before, in other hands, duplicates."""
        ours: list[ReadItem] = []
        known: list[ReadItem] = []
        elsewhere: list[ReadItem] = []
        duplicates: list[Refusal] = []
        if not read:
            return ours, known, elsewhere, duplicates
        now = utc_now()
        with self._db.writing(durable=False) as connection:
            unique = []
            for each in read:
                first = self._ledger.own_content(connection, each.item, each.image, now)
                if first is None:
                    unique.append(each)
                else:
                    reason = f"the same content as {first}, which was taken up first"
                    duplicates.append(Refusal(each.item, "duplicate", reason, each.image.sha256))
            mine, recorded = claim(
                self._db,
                connection,
                line=self._facts.line,
                model_version=self._facts.model_version,
                contents=[each.image.sha256 for each in unique],
                owner=self._owner,
                now=now,
            )
        claimed |= mine
        for each in unique:
            sha = each.image.sha256
            (ours if sha in mine else known if sha in recorded else elsewhere).append(each)
        return ours, known, elsewhere, duplicates

    def _score(self, ours: Sequence[ReadItem]) -> list[Scored]:
        """Score each content once; the other items of the same content follow it."""
        first_of: dict[str, ReadItem] = {}
        for each in ours:
            first_of.setdefault(each.image.sha256, each)
        distinct = list(first_of.values())
        if not distinct:
            return []
        started = time.perf_counter()
        scores = score_chunk(self._model, [each.image.pixels for each in distinct], self._maps_folder is not None)
        seconds = (time.perf_counter() - started) / len(distinct)
        scored = []
        for each, result in zip(distinct, scores, strict=True):
            sha = each.image.sha256
            items = [other.item for other in ours if other.image.sha256 == sha]
            if isinstance(result, Exception):
                self._unscored += [(item, sha, result) for item in items]
                continue
            if self._maps_folder is not None and result.map is not None:
                save_map(self._maps_folder, sha, result.map)
            scored.append(Scored(items, sha, result.raw_score, seconds))
        return scored

    def _record(
        self,
        scored: Sequence[Scored],
        known: Sequence[ReadItem],
        refusals: Sequence[Refusal],
        claimed: set[str] | None = None,
    ) -> None:
        recorded = [*scored, *(Scored([each.item], each.image.sha256, None, 0.0) for each in known)]
        if recorded or refusals or claimed:
            self._ledger.record(recorded, refusals, self._facts, self._model, self._release_of(claimed or set()))
        for one in scored:
            self._outcome.scored += 1
            self._outcome.contents.update((item.row, one.sha256) for item in one.items)
        self._outcome.reused += len(known)
        self._outcome.contents.update((each.item.row, each.image.sha256) for each in known)
        self._outcome.refusals.update((refusal.item.row, refusal) for refusal in refusals)

    def _redraw(self, known: Sequence[ReadItem]) -> None:
        """Make the maps of images whose result was recorded by somebody who kept no maps."""
        assert self._maps_folder is not None
        missing = [each for each in known if not (self._maps_folder / f"{each.image.sha256}.npy").is_file()]
        if not missing:
            return
        for each, result in zip(
            missing, score_chunk(self._model, [each.image.pixels for each in missing], True), strict=True
        ):
            if not isinstance(result, Exception) and result.map is not None:
                save_map(self._maps_folder, each.image.sha256, result.map)

    def _release_of(self, claimed: set[str]) -> _Release:
        return _Release(self._facts.line, self._facts.model_version, claimed, self._owner)

    def _settle_doubtful(self, given: int) -> None:
        """Decide about files that could not be read or scored, now that it is known whether others could.

        Where no other could, the folder or the detector may be at fault, and no file is blamed. A file that was the
        only one given is blamed as one that ends its inspection: it is refused after some attempts.
        """
        if self._unread:
            unread = [refusal.item for refusal in self._unread]
            reasons = [(refusal.item, refusal.reason) for refusal in self._unread]
            if self._read_any or given == 1:
                self._ledger.blame(reasons)
            else:
                self._ledger.give_back(unread)
            if not self._read_any:
                raise InputError(f"No file can be read now; the first is {unread[0].file}: {reasons[0][1]}.")
            self._outcome.left += self._unread
        if self._unscored:
            broken = [item for item, _, _ in self._unscored]
            if not (self._outcome.scored or self._outcome.reused or self._vouched):
                if given == 1:
                    self._ledger.blame([(broken[0], f"the detector failed on it: {self._unscored[0][2]}")])
                else:
                    self._ledger.give_back(broken)
                raise self._unscored[0][2]
            reasons = [(item, f"the detector failed on it: {error}") for item, _, error in self._unscored]
            contents = [sha for _, sha, _ in self._unscored]
            self._record(
                [],
                [],
                [
                    Refusal(item, "detector_failed", reason, sha)
                    for (item, reason), sha in zip(reasons, contents, strict=True)
                ],
            )


@dataclass(frozen=True)
class _Release:
    line: str
    model_version: str
    contents: set[str]
    owner: str

    def __call__(self, connection: Connection) -> None:
        release(
            connection,
            line=self.line,
            model_version=self.model_version,
            contents=self.contents,
            owner=self.owner,
        )


def _after_deaths(item: Item) -> Refusal:
    reason = f"{item.begun_alone} inspections ended while they had only this file in hand"
    return Refusal(item, "ends_its_inspection", f"{reason}: {item.trouble}" if item.trouble else reason)
