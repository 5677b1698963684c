"""May a newly trained model take the place of the one that serves? A rule over two evaluations on the same rows.

Who asks, where versions are kept and what an alias is, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field


class Performance(Protocol):
    """What the rule looks at; ``metrics.Evaluation`` has it."""

    @property
    def image_auroc(self) -> float | None: ...
    @property
    def f1(self) -> float | None: ...
    @property
    def accuracy(self) -> float | None:
        """None without rows."""


class PromotionDecision(BaseModel):
    """What was decided, by which rule, and why in words."""

    model_config = ConfigDict(frozen=True)

    promote: bool
    rule: str = Field(description="first_version, not_worse, worse, chosen_by_person or person_decides.")
    reason: str


def decide_promotion(
    challenger: Performance,
    champion: Performance | None,
    *,
    automatic: bool,
    tolerance: float = 0.0,
    line: str = "LINE",
    unmeasured: str = "",
    chosen_by: str = "",
    doubts: Sequence[str] = (),
) -> PromotionDecision:
    """Decide whether the challenger becomes the champion.

    The first version of a line serves at once, since without it nothing could be inspected, unless its data are too
    few to say anything about it. Where it was measured on no row at all, as a detector that needs no images can be, the
    plan's ``automatic_promotion`` says whether it serves all the same. What a person chose stays until a person lifts
    that. A later version serves by itself only where the plan says ``automatic_promotion``, and only if it was measured
    and neither image AUROC nor F1 is lower than the champion's on the same rows; with normal rows only, where both are
    undefined, the share of rows called OK counts.

    Args:
        challenger: performance of the new model.
        champion: performance of the serving model on the same rows; None where none serves.
        automatic: the plan's ``automatic_promotion``.
        tolerance: how much lower a number may be.
        line: its name, for advice.
        unmeasured: why a serving model could not be measured on these rows; empty where it could. A person decides
            then: what cannot be compared cannot be found not worse.
        chosen_by: the person who chose the version that serves, and has not lifted that choice; empty where none did.
        doubts: why a first version should not serve before a person has looked at it.
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
    if champion is None and automatic and not measured:
        reason = (
            "It is the line's first model. Nothing is known about its misses and false alarms, as there was no image "
            "to validate on; the plan's automatic_promotion lets it serve."
        )
        return PromotionDecision(promote=True, rule="first_version", reason=reason)
    if champion is None and doubts:
        reason = f"It waits for a person. {' '.join(doubts)} Look at its report, then `vad model promote {line}`."
        return PromotionDecision(promote=False, rule="person_decides", reason=reason)
    if champion is None:
        return PromotionDecision(promote=True, rule="first_version", reason="It is the line's first model.")
    if not measured:
        reason = (
            "There was no image to compare it with the champion on, so a person decides: "
            f"`vad model promote {line}` lets it serve."
        )
        return PromotionDecision(promote=False, rule="person_decides", reason=reason)
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
    if any(new < old - tolerance for _, new, old in compared):
        return PromotionDecision(promote=False, rule="worse", reason=f"It is worse on the same rows: {told}.")
    if not automatic:
        return PromotionDecision(
            promote=False,
            rule="person_decides",
            reason=f"It is not worse on the same rows ({told}), but the plan leaves promotion to a person: give it the "
            "alias 'champion', or set automatic_promotion in the plan's section operation.",
        )
    return PromotionDecision(promote=True, rule="not_worse", reason=f"It is not worse on the same rows: {told}.")
