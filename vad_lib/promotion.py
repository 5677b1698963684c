"""May a newly trained model take the place of the one that serves, and may it keep it?

The gate is a rule over two evaluations on the same validation rows, and over what people judged among the live images
that both have scored. Who asks, where versions are kept and what an alias is, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from vad_lib.paired_tests import wilson
from vad_lib.plan import Promotion

CHANCE = 0.05
"""A difference that chance alone brings about less often than this is one."""
WAITING, PROMOTED, REFUSED = "waiting", "promoted", "refused"
"""States of the gate."""


class Performance(Protocol):
    """What the rule looks at; ``metrics.Evaluation`` has it."""

    @property
    def image_auroc(self) -> float | None: ...
    @property
    def f1(self) -> float | None: ...
    @property
    def accuracy(self) -> float | None:
        """None without rows."""


class OnJudged(Protocol):
    """Two versions on the same live images, which people have judged; ``OnJudgedImages`` has it."""

    @property
    def images(self) -> int: ...
    @property
    def only_champion_right(self) -> int: ...
    @property
    def only_challenger_right(self) -> int: ...
    @property
    def p(self) -> float:
        """Of McNemar's test; 1 without images."""

    def in_words(self) -> str:
        """Say what was found."""


class PromotionDecision(BaseModel):
    """What was decided, by which rule, and why in words."""

    model_config = ConfigDict(frozen=True)

    promote: bool
    rule: str = Field(
        description="first_version, not_worse, worse, worse_on_live_images, more_to_judge, taken_back, never, "
        "chosen_by_person or person_decides."
    )
    reason: str

    @property
    def state(self) -> str:
        """Where the gate stands after it."""
        if self.promote:
            return PROMOTED
        return REFUSED if self.rule in ("worse", "worse_on_live_images", "taken_back", "never") else WAITING


def decide_promotion(
    challenger: Performance,
    champion: Performance | None,
    *,
    promotion: Promotion,
    tolerance: float = 0.0,
    line: str = "LINE",
    unmeasured: str = "",
    chosen_by: str = "",
    doubts: Sequence[str] = (),
    taken_back: str = "",
    beside: str = "",
    judged: OnJudged | None = None,
    least_judged: int = 0,
) -> PromotionDecision:
    """Decide whether the challenger becomes the champion.

    The first version of a line serves at once, since without it nothing could be inspected, unless its data are too
    few to say anything about it. Where it was measured on no row at all, as a detector that needs no images can be, it
    serves by itself only where the plan says ``promotion: automatic``. What a person chose stays until a person lifts
    that. A later version serves by itself only where the plan says ``promotion: automatic``, and only if

    * it was measured, and neither image AUROC nor F1 is lower than the champion's on the same rows; with normal rows
      only, where both are undefined, the share of rows called OK counts;
    * people have judged enough live images that both have scored, and it is right on no fewer of them.

    Args:
        challenger: performance of the new model.
        champion: performance of the serving model on the same rows; None where none serves.
        promotion: what the plan says.
        tolerance: how much lower a number may be.
        line: its name, for advice.
        unmeasured: why a serving model could not be measured on these rows; empty where it could. A person decides
            then: what cannot be compared cannot be found not worse.
        chosen_by: the person who chose the version that serves, and has not lifted that choice; empty where none did.
        doubts: why a first version should not serve before a person has looked at it.
        taken_back: why the challenger was taken back when it served; empty where it was not.
        beside: what else is known of the two, in sentences: intervals, tests, the live images without labels.
        judged: both versions on live images that people have judged.
        least_judged: how many there must be before the challenger serves by itself; 0: none.
    """
    if chosen_by:
        reason = (
            f"The version that serves was chosen by {chosen_by}, and stays until a person lifts that choice "
            f"(`vad model unpin {line}`) or chooses another version (`vad model promote {line}`)."
        )
        return PromotionDecision(promote=False, rule="chosen_by_person", reason=reason)
    if unmeasured:
        return PromotionDecision(promote=False, rule="person_decides", reason=unmeasured)
    measured = challenger.accuracy is not None
    if champion is None and promotion == "automatic" and not measured:
        reason = (
            "It is the line's first model. Nothing is known about its misses and false alarms, as there was no image "
            "to validate on; the plan's promotion: automatic lets it serve."
        )
        return PromotionDecision(promote=True, rule="first_version", reason=reason)
    if champion is None and doubts:
        reason = f"It waits for a person. {' '.join(doubts)} Look at its report, then `vad model promote {line}`."
        return PromotionDecision(promote=False, rule="person_decides", reason=reason)
    if champion is None:
        return PromotionDecision(promote=True, rule="first_version", reason="It is the line's first model.")
    if promotion == "never":
        return PromotionDecision(
            promote=False,
            rule="never",
            reason="The plan says promotion: never, so the version that serves stays. To change that, set promotion to "
            "by_person or automatic in the plan's section operation.",
        )
    if taken_back:
        reason = f"It was taken back: {taken_back} Only a person lets it serve again: `vad model promote {line}`."
        return PromotionDecision(promote=False, rule="taken_back", reason=reason)
    if not measured:
        reason = (
            "There was no image to compare it with the champion on, so a person decides: "
            f"`vad model promote {line}` lets it serve."
        )
        return PromotionDecision(promote=False, rule="person_decides", reason=_join(reason, judged, beside))
    worse, told = _on_rows(challenger, champion, tolerance)
    if worse:
        reason = f"It is worse on the same rows: {told}."
        return PromotionDecision(promote=False, rule="worse", reason=_join(reason, judged, beside))
    fewer = judged is not None and judged.only_champion_right > judged.only_challenger_right
    if judged is not None and fewer and judged.p < CHANCE:
        reason = f"It is worse on judged live images, and chance does not explain it. On the same rows: {told}."
        return PromotionDecision(promote=False, rule="worse_on_live_images", reason=_join(reason, judged, beside))
    reason = f"It is not worse on the same rows: {told}."
    if promotion == "by_person":
        reason += f" The plan leaves promotion to a person: `vad model promote {line}` lets it serve."
        return PromotionDecision(promote=False, rule="person_decides", reason=_join(reason, judged, beside))
    there = judged.images if judged is not None else 0
    if there < least_judged:
        reason += f" It waits until people have judged {least_judged} live images that both have scored; {there} are."
        return PromotionDecision(promote=False, rule="more_to_judge", reason=_join(reason, judged, beside))
    if least_judged and fewer:
        reason += " It is right on fewer of the judged live images, which may be chance: it waits for more of them."
        return PromotionDecision(promote=False, rule="more_to_judge", reason=_join(reason, judged, beside))
    return PromotionDecision(promote=True, rule="not_worse", reason=_join(reason, judged, beside))


def reason_to_take_back(
    agree: int, of: int, limit: float, *, judged: OnJudged | None = None, line: str = "LINE", who: str = "people"
) -> str:
    """Say why the version that was promoted last should not serve any longer; empty where it should.

    Args:
        agree: images on which ``who`` says the same as it does.
        of: images on which ``who`` has said something.
        limit: the plan's ``rollback_below``; 0: it stays whatever comes.
        judged: the version before, as the champion, beside it on the same images. Where that one is right on fewer, to
            go back would help nobody.
        line: its name, for advice.
        who: to agree with.
    """
    if not limit or not of or (high := wilson(agree, of)[1]) >= limit:
        return ""
    if judged is not None and judged.only_challenger_right > judged.only_champion_right:
        return ""
    return (
        f"{who.capitalize()} and it say the same on {agree} of {of} images ({agree / of:.1%}, at most {high:.1%} where "
        f"chance is allowed for), and the plan's rollback_below is {limit:.1%}. The version before serves again. Look "
        f"at the images on which both differ: `vad model compare {line}`."
    )


def _on_rows(challenger: Performance, champion: Performance, tolerance: float) -> tuple[bool, str]:
    """Return whether a number is lower than the champion's on the same rows, and the numbers in words."""
    compared = []
    for name, new, old in (
        ("image AUROC", challenger.image_auroc, champion.image_auroc),
        ("F1", challenger.f1, champion.f1),
    ):
        if new is not None and old is not None:
            compared.append((name, new, old))
    if not compared:
        compared = [("accuracy", challenger.accuracy or 0.0, champion.accuracy or 0.0)]
    told = ", ".join(f"{name} {new:.4f} against the champion's {old:.4f}" for name, new, old in compared)
    return any(new < old - tolerance for _, new, old in compared), told


def _join(reason: str, judged: OnJudged | None, beside: str) -> str:
    return " ".join(text for text in (reason, judged.in_words() if judged is not None else "", beside) if text)
