"""Two versions of a line's model beside each other on the same live images: one decided them, the other shadowed.

Which of the two served does not matter. Figures without labels are those of the random share only, since people judge
what is doubtful first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Row, Select, and_, case, func, or_, select

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.labels import Agreement, labels_by_content
from vad_lib.inspection_db.schema import predictions, shadow_predictions
from vad_lib.paired_tests import PairedDifference, delong, newcombe, wilson


@dataclass(frozen=True)
class OnLiveImages:
    """Two versions on the random share of the live images, without labels.

    Attributes:
        images: that both have scored.
        both_ok, both_ng: what both say.
        only_champion_ng, only_challenger_ng: where they differ.
    """

    images: int
    both_ok: int
    both_ng: int
    only_champion_ng: int
    only_challenger_ng: int

    @property
    def agreement(self) -> float | None:
        """Share of images on which they say the same; None without images."""
        return (self.both_ok + self.both_ng) / self.images if self.images else None

    def in_words(self) -> str:
        """Say it with Wilson's interval (95 %)."""
        same = self.both_ok + self.both_ng
        if not self.images:
            return "No live image of the random share was scored by both yet."
        low, high = wilson(same, self.images)
        return (
            f"Of {self.images} live images at random both say the same on {same} ({same / self.images:.1%}, between "
            f"{low:.1%} and {high:.1%}); {self.only_challenger_ng} are NG for the challenger only, "
            f"{self.only_champion_ng} for the champion only."
        )


@dataclass(frozen=True)
class OnJudgedImages:
    """Two versions on live images that people have judged.

    Attributes:
        champion, challenger: what each says beside what people say.
        both_right, only_champion_right, only_challenger_right, neither_right: numbers of images.
        difference: share that the challenger judges rightly minus that of the champion, with Newcombe's interval and
            the mid-p of McNemar's test; None without images.
        auroc: AUROC of the challenger's scores minus that of the champion's (DeLong); None where a class is absent.
    """

    champion: Agreement
    challenger: Agreement
    both_right: int
    only_champion_right: int
    only_challenger_right: int
    neither_right: int
    difference: PairedDifference | None
    auroc: PairedDifference | None

    @property
    def images(self) -> int:
        """How many people have judged, of those that both have scored."""
        return self.champion.judged

    @property
    def p(self) -> float:
        """Of McNemar's test; 1 without images."""
        return self.difference.p if self.difference is not None else 1.0

    def in_words(self) -> str:
        """Say what was found, with intervals (95 %)."""
        if self.difference is None:
            return "Nobody has judged a live image that both have scored."
        found, old, new = self.difference, self.champion, self.challenger
        told = (
            f"Of {self.images} judged live images the challenger is right on {new.agree} (misses {new.missed}, false "
            f"alarms {new.false_alarms}) and the champion on {old.agree} (misses {old.missed}, false alarms "
            f"{old.false_alarms}): a difference of {found.difference:+.1%}, between {found.low:+.1%} and "
            f"{found.high:+.1%}. Only the challenger is right on {self.only_challenger_right}, only the champion on "
            f"{self.only_champion_right} (McNemar, p = {found.p:.2g})."
        )
        if self.auroc is not None:
            area = self.auroc
            told += f" AUROC {area.difference:+.4f}, between {area.low:+.4f} and {area.high:+.4f} (p = {area.p:.2g})."
        return told


@dataclass(frozen=True)
class VersionComparison:
    """A champion and a challenger on the same images."""

    champion: str
    challenger: str
    live: OnLiveImages
    judged: OnJudgedImages


class DifferingImage(NamedTuple):
    """An image on which two versions differ.

    Attributes:
        prediction_id: of the version that decided it.
        sha256: of its bytes.
        path: absolute, where it was scored.
        champion: what the champion says, OK or NG.
        champion_p: its calibrated score.
        challenger: what the challenger says.
        challenger_p: its calibrated score.
        label: what people say; empty where nobody does.
    """

    prediction_id: int
    sha256: str
    path: str
    champion: str
    champion_p: float
    challenger: str
    challenger_p: float
    label: str


def compare_versions(
    db: InspectionDatabase, line: str, champion: str, challenger: str, since: datetime | None = None
) -> VersionComparison:
    """Compare two versions on the live images that both have scored.

    Args:
        db: holds the predictions.
        line: of the images.
        champion: label of a version, such as 'vad-bottles/3'.
        challenger: label of another.
        since: only images that were decided from then on.
    """
    held = labels_by_content(line)
    chosen = _pairs(line, champion, challenger, since)
    # not of a subquery, which has no index to join by
    judged = chosen.add_columns(held.c.label).join(held, held.c.sha256 == shadow_predictions.c.sha256)
    with db.reading() as connection:
        rows = connection.execute(judged).all()
    live = count_live(db, line, champion, challenger, since)
    return VersionComparison(champion, challenger, live, _on_judged(list(rows)))


def count_live(
    db: InspectionDatabase, line: str, champion: str, challenger: str, since: datetime | None = None
) -> OnLiveImages:
    """Return where two versions say the same on the random share of the live images; see ``compare_versions``."""
    pairs = _pairs(line, champion, challenger, since).subquery()
    counted = select(pairs.c.champion, pairs.c.challenger, func.count())
    counted = counted.where(pairs.c.sampled).group_by(pairs.c.champion, pairs.c.challenger)
    with db.reading() as connection:
        counts = {(old, new): int(count) for old, new, count in connection.execute(counted)}
    both_ok, both_ng = counts.get(("OK", "OK"), 0), counts.get(("NG", "NG"), 0)
    only_champion, only_challenger = counts.get(("NG", "OK"), 0), counts.get(("OK", "NG"), 0)
    return OnLiveImages(sum(counts.values()), both_ok, both_ng, only_champion, only_challenger)


def differing_images(
    db: InspectionDatabase,
    line: str,
    champion: str,
    challenger: str,
    *,
    since: datetime | None = None,
    before_id: int | None = None,
    page: int = 50,
) -> list[DifferingImage]:
    """Return images on which two versions differ, the newest first.

    Args:
        db: holds the predictions.
        line: of the images.
        champion: label of a version.
        challenger: label of another.
        since: only images that were decided from then on.
        before_id: only images whose prediction has a smaller number: the last of the page before.
        page: at most so many.
    """
    chosen = _pairs(line, champion, challenger, since).where(shadow_predictions.c.predicted != predictions.c.predicted)
    if before_id is not None:
        chosen = chosen.where(shadow_predictions.c.prediction_id < before_id)
    with db.reading() as connection:
        rows = connection.execute(chosen.order_by(shadow_predictions.c.prediction_id.desc()).limit(page)).all()
        held = labels_by_content(line)
        of_page = held.c.sha256.in_([row.sha256 for row in rows])
        said = {row.sha256: row.label for row in connection.execute(select(held).where(of_page))}
    return [
        DifferingImage(
            *(row.prediction_id, row.sha256, row.path),
            *(row.champion, row.champion_p, row.challenger, row.challenger_p),
            label=said.get(row.sha256, ""),
        )
        for row in rows
    ]


def _pairs(line: str, champion: str, challenger: str, since: datetime | None) -> Select[Any]:
    """Images that one of two versions has decided and the other has shadowed, with what both say."""
    decided, shadow = predictions.c, shadow_predictions.c
    champion_shadows = shadow.model_version == champion
    of_champion = {
        name: case((champion_shadows, shadow[name]), else_=decided[name]) for name in ("predicted", "p", "raw_score")
    }
    of_challenger = {
        name: case((champion_shadows, decided[name]), else_=shadow[name]) for name in ("predicted", "p", "raw_score")
    }
    chosen = (
        select(
            *(decided.prediction_id, decided.sha256, decided.path, shadow.sampled),
            of_champion["predicted"].label("champion"),
            of_champion["p"].label("champion_p"),
            of_champion["raw_score"].label("champion_score"),
            of_challenger["predicted"].label("challenger"),
            of_challenger["p"].label("challenger_p"),
            of_challenger["raw_score"].label("challenger_score"),
        )
        .join(predictions, decided.prediction_id == shadow.prediction_id)
        .where(
            shadow.line == line,
            shadow.model_version.in_((champion, challenger)),
            or_(
                and_(champion_shadows, decided.model_version == challenger),
                and_(shadow.model_version == challenger, decided.model_version == champion),
            ),
        )
    )
    return chosen if since is None else chosen.where(decided.created_at >= since)


def _on_judged(rows: list[Row[Any]]) -> OnJudgedImages:
    is_ng = np.array([row.label == "NG" for row in rows], dtype=bool)
    old = np.array([row.champion == "NG" for row in rows], dtype=bool)
    new = np.array([row.challenger == "NG" for row in rows], dtype=bool)
    old_right, new_right = old == is_ng, new == is_ng
    both, only_old = int((old_right & new_right).sum()), int((old_right & ~new_right).sum())
    only_new, neither = int((~old_right & new_right).sum()), int((~old_right & ~new_right).sum())
    auroc = None
    if is_ng.any() and not is_ng.all():
        auroc = delong(is_ng, [row.challenger_score for row in rows], [row.champion_score for row in rows])
    return OnJudgedImages(
        champion=_agreement(is_ng, old),
        challenger=_agreement(is_ng, new),
        both_right=both,
        only_champion_right=only_old,
        only_challenger_right=only_new,
        neither_right=neither,
        difference=newcombe(both, only_new, only_old, neither) if rows else None,
        auroc=auroc,
    )


def _agreement(is_ng: np.ndarray, called_ng: np.ndarray) -> Agreement:
    return Agreement(
        judged=len(is_ng),
        agree=int((is_ng == called_ng).sum()),
        missed=int((is_ng & ~called_ng).sum()),
        false_alarms=int((~is_ng & called_ng).sum()),
    )
