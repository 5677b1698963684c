"""Whether the validation rows carry the F1 threshold, or Percentile has to be taken.

``minor`` is the smaller of the numbers of normal and anomalous validation rows. F1 stays only if it passes both limits;
reaching either forces Percentile, and so does a validation set without anomalous rows, whatever the limits are. The
ratio is ``minor`` to all validation rows, not anomalous to normal ones. Cost needs an anomalous row too. FalseAlarmRate
needs normal rows only, and enough of them for what it promises.
"""

from __future__ import annotations

from dataclasses import dataclass

from vad_lib.findings import ArgumentChange, Finding
from vad_lib.plan.arguments import ReadinessArguments
from vad_lib.thresholds.promises import FalseAlarmBudget

NORMALS_ONLY = ("Percentile", "FalseAlarmRate")
"""Methods that look at normal rows only."""
NO_ANOMALOUS = "the validation rows have no anomalous image"


@dataclass(frozen=True)
class ThresholdChoice:
    """The methods in force, and each change with its reason."""

    threshold_method: str
    monitor_metric: str
    changes: tuple[ArgumentChange, ...]


def choose_threshold_method(
    n_normal: int, n_anomalous: int, arguments: ReadinessArguments, monitor_metric: str
) -> ThresholdChoice:
    """Return the threshold method and the monitored metric that these validation rows allow.

    Args:
        n_normal: Normal validation rows.
        n_anomalous: Anomalous validation rows.
        arguments: threshold_method, num_minor_threshold and ratio_minor_threshold.
        monitor_metric: The argument of the train step; Percentile and FalseAlarmRate change it to 'loss'.
    """
    method = arguments.threshold_method
    changes = []
    if method == "F1" and (reason := _why_not_f1(n_normal, n_anomalous, arguments)):
        method = "Percentile"
        changes.append(ArgumentChange(argument="threshold_method", old="F1", new=method, reason=reason))
    elif method == "Cost" and n_anomalous == 0:
        method, reason = "Percentile", NO_ANOMALOUS
        changes.append(ArgumentChange(argument="threshold_method", old="Cost", new=method, reason=reason))
    if method in NORMALS_ONLY and monitor_metric != "loss":
        reason = f"threshold_method is {method}, so no metric that needs anomalous rows is watched"
        changes.append(ArgumentChange(argument="monitor_metric", old=monitor_metric, new="loss", reason=reason))
        monitor_metric = "loss"
    return ThresholdChoice(method, monitor_metric, tuple(changes))


def _why_not_f1(n_normal: int, n_anomalous: int, arguments: ReadinessArguments) -> str:
    if n_anomalous == 0:
        return NO_ANOMALOUS
    minor = min(n_normal, n_anomalous)
    rows = f"of the validation rows {n_normal} are normal and {n_anomalous} anomalous"
    reasons = []
    if minor <= arguments.num_minor_threshold:
        reasons.append(f"the smaller number {minor} is not above num_minor_threshold {arguments.num_minor_threshold}")
    # A quotient and a literal of the same decimal are the same float: exactly one tenth counts as 0.1.
    ratio = minor / (n_normal + n_anomalous)
    if ratio <= arguments.ratio_minor_threshold:
        reasons.append(f"its share {ratio:.3g} is not above ratio_minor_threshold {arguments.ratio_minor_threshold:g}")
    return f"{rows}; {' and '.join(reasons)}" if reasons else ""


def change_finding(choice: ThresholdChoice, argument: str) -> Finding | None:
    """Return the finding of the rule 'threshold_method' or 'monitor_metric', where that argument was changed."""
    for change in choice.changes:
        if change.argument == argument:
            return Finding(
                rule=argument,
                severity="warn",
                message=f"{argument} was changed from {change.old} to {change.new}: {change.reason}.",
                advice=f"Add anomalous validation images to use {change.old}."
                if argument == "threshold_method"
                else "",
                count=1,
                examples=({"argument": argument, "old": change.old, "new": change.new},),
            )
    return None


def too_few_for_budget(n_normal: int, method: str, budget: FalseAlarmBudget) -> Finding | None:
    """Return what can be promised where the normal validation rows do not suffice for the budget of false alarms."""
    if method != "FalseAlarmRate" or not 0 < n_normal < budget.normals_needed:
        return None
    return Finding(
        rule="false_alarm_budget",
        severity="warn",
        message=budget.in_words(n_normal),
        advice=f"Hold back {budget.normals_needed} normal images for validation, or ask for less: a larger "
        "false_alarms_per_thousand, or a smaller false_alarm_confidence.",
        count=n_normal,
    )
