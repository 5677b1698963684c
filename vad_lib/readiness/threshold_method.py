"""Whether the validation rows carry the F1 threshold, or Percentile has to be taken.

``minor`` is the smaller of the numbers of normal and anomalous validation rows. F1 stays only if it passes both limits;
reaching either forces Percentile, and so does a validation set without anomalous rows, whatever the limits are. The
ratio is ``minor`` to all validation rows, not anomalous to normal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from vad_lib.findings import ArgumentChange, Finding
from vad_lib.plan.arguments import ReadinessArguments


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
        monitor_metric: The argument of the train step; Percentile changes it to 'loss'.
    """
    method = arguments.threshold_method
    changes = []
    if method == "F1" and (reason := _why_not_f1(n_normal, n_anomalous, arguments)):
        method = "Percentile"
        changes.append(ArgumentChange(argument="threshold_method", old="F1", new=method, reason=reason))
    if method == "Percentile" and monitor_metric != "loss":
        reason = "threshold_method is Percentile, so no metric that needs anomalous rows is watched"
        changes.append(ArgumentChange(argument="monitor_metric", old=monitor_metric, new="loss", reason=reason))
        monitor_metric = "loss"
    return ThresholdChoice(method, monitor_metric, tuple(changes))


def _why_not_f1(n_normal: int, n_anomalous: int, arguments: ReadinessArguments) -> str:
    if n_anomalous == 0:
        return "the validation rows have no anomalous image"
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
                advice="Add anomalous validation images to use F1." if argument == "threshold_method" else "",
                count=1,
                examples=({"argument": argument, "old": change.old, "new": change.new},),
            )
    return None
