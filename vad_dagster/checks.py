"""Findings of vad_lib as asset checks: one check a rule, whose result a person can read without a stack trace.

Rules live in ``vad_lib.readiness`` and friends; here they only get a place in the UI. A check that stops the work is
one with severity ERROR on a rule that may block; a broken requirement that does not stop the work is an ERROR too, on
a rule that does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandera.errors
import pandera.pandas as pa

from vad_dagster.partitions import lines
from vad_lib.encoders.fallback import measured_cost
from vad_lib.errors import VadError
from vad_lib.findings import Finding

if TYPE_CHECKING:
    from vad_lib.compiled import ScoringChoice
    from vad_lib.encoders.weight_file import BackboneWeights

MAX_EXAMPLES = 20
MAX_DESCRIPTION = 1000


def check_spec(asset: str, name: str, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    """Return a check of one asset, partitioned by line as the asset is."""
    with warnings.catch_warnings():
        # Partitions of checks are a preview in this version of Dagster; without them the check of one line would
        # hide that of another.
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, description=description, blocking=blocking, partitions_def=lines)


def result_of_rule(asset: str, rule: str, findings: Iterable[Finding], **more: Any) -> dg.AssetCheckResult:
    """Return the result of one rule: passed if it found nothing worse than a note. ``more`` is further metadata."""
    found = [finding for finding in findings if finding.rule == rule]
    bad = [finding for finding in found if finding.severity != "info"]
    severity = (
        dg.AssetCheckSeverity.ERROR
        if any(finding.severity == "error" for finding in bad)
        else dg.AssetCheckSeverity.WARN
    )
    text = " ".join(f"{finding.message} {finding.advice}".strip() for finding in (bad or found))
    metadata: dict[str, Any] = {}
    if found:
        metadata["count"] = sum(finding.count for finding in found)
        if advice := " ".join(finding.advice for finding in found if finding.advice):
            metadata["what to do"] = advice
    if table := table_of_examples([example for finding in found for example in finding.examples]):
        metadata["examples"] = table
    metadata |= more
    return dg.AssetCheckResult(
        passed=not bad,
        check_name=rule,
        asset_key=asset,
        severity=severity,
        description=(text or "Nothing found.")[:MAX_DESCRIPTION],
        metadata=metadata,
    )


def plain_result(
    asset: str, check: str, problem: VadError | str | None, *, fine: str = "", severity: str = "error", **metadata: Any
) -> dg.AssetCheckResult:
    """Return the result of a check that is not a rule of readiness: ``problem`` in words, or None where all is well."""
    return dg.AssetCheckResult(
        passed=problem is None,
        check_name=check,
        asset_key=asset,
        severity=dg.AssetCheckSeverity.ERROR if severity == "error" else dg.AssetCheckSeverity.WARN,
        description=(str(problem) if problem is not None else fine)[:MAX_DESCRIPTION],
        metadata=metadata,
    )


def weights_result(asset: str, check: str, weights: BackboneWeights) -> dg.AssetCheckResult:
    """Say where the backbone's weights are from; the fallback backbone and random weights are a warning."""
    asked = weights.asked_for or weights.name
    problem = None
    if weights.source == "random":
        problem = f"{weights.name} has random weights (VAD_ALLOW_RANDOM_WEIGHTS): for tests only, never for use."
    elif weights.is_fallback:
        problem = (
            f"Weights of {asked} are not on this machine: the fallback backbone {weights.name} is used "
            f"instead. {measured_cost()} "
            f"`vad weights fetch {asked}` or `vad weights add FILE` brings what the plan asks for."
        )
    return plain_result(
        asset,
        check,
        problem,
        fine=f"{weights.name} from {weights.source}" + (f": {weights.file.name}." if weights.file else ".")
        if weights.name
        else "The detector has no backbone.",
        severity="warn",
        sha256=weights.sha256 or "none",
        source=weights.source,
    )


def backend_result(asset: str, check: str, choice: ScoringChoice) -> dg.AssetCheckResult:
    """Return whether the backends that were compared decide alike; torch alone needs no comparison."""
    differing = [f"{name}: {parity.in_words()}" for name, parity in choice.parity.items() if not parity.passed]
    return plain_result(
        asset,
        check,
        f"{choice.in_words()}. {' '.join(differing)}" if differing else None,
        fine=f"{choice.in_words()}. {' '.join(f'{n}: {p.in_words()}' for n, p in choice.parity.items())}".strip(),
        severity="warn",
        **{f"{name}, ms an image": value for name, value in choice.milliseconds.items()},
        **{f"{name}, largest relative difference": p.max_relative_difference for name, p in choice.parity.items()},
    )


def table_of_examples(rows: Sequence[dict[str, Any]]) -> dg.TableMetadataValue | None:
    """Return up to 20 rows as a table that the UI shows; None without rows."""
    if not rows:
        return None
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({name: "" if row.get(name) is None else str(row[name]) for name in columns})
            for row in rows[:MAX_EXAMPLES]
        ],
        schema=dg.TableSchema([dg.TableColumn(name, "string") for name in columns]),
    )


def schema_result(asset: str, name: str, model: type[pa.DataFrameModel], frame: Any) -> dg.AssetCheckResult:
    """Check a table against its pandera model; every failure is a row of a table in the metadata."""
    try:
        model.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        rows = [
            {
                "column": row.get("column"),
                "rule": row.get("check"),
                "value": row.get("failure_case"),
                "row": row.get("index"),
            }
            for row in cases.head(MAX_EXAMPLES).to_dict("records")
        ]
        columns = ", ".join(sorted({str(row["column"]) for row in rows}))
        return dg.AssetCheckResult(
            passed=False,
            check_name=name,
            asset_key=asset,
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"{len(cases)} values of the table are not as its schema wants (columns: {columns}).",
            metadata={"failures": len(cases), "examples": table_of_examples(rows) or ""},
        )
    return dg.AssetCheckResult(
        passed=True,
        check_name=name,
        asset_key=asset,
        description=f"All {len(frame)} rows are as the schema wants.",
        metadata={"rows": len(frame)},
    )


@contextmanager
def readable_failure() -> Iterator[None]:
    """Turn an error that was raised for the user into a failure that says it, without asking for a retry."""
    try:
        yield
    except VadError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def stopped(findings: Sequence[Finding], step: str) -> dg.Failure:
    """Return the failure of a step that findings stopped; its text is all that a user needs."""
    blocking = [finding for finding in findings if finding.blocking]
    text = "\n".join(f"- {finding.rule}: {finding.message} {finding.advice}".rstrip() for finding in blocking)
    return dg.Failure(
        description=f"{step} stopped, because the data make it impossible:\n{text}",
        metadata={finding.rule: finding.message for finding in blocking},
        allow_retries=False,
    )
