"""What a person decides about versions: one way for pages and commands, with reason, name and a row in the audit."""

from __future__ import annotations

from collections.abc import Mapping

from vad_dagster.plans import refuse_where_never
from vad_dagster.registry import CHAMPION, PREVIOUS, LineRegistry, Version
from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.audit import Actor, record_change
from vad_lib.inspection_db.notices import record_notice
from vad_lib.lines import Home

ROLLBACK = "rollback"


def promote_by_person(
    db: InspectionDatabase, registry: LineRegistry, named: str, by: Actor, reason: str = ""
) -> Version:
    """Let a version serve.

    Args:
        db: holds the audit.
        registry: of the line.
        named: number or alias of the version.
        by: who decides.
        reason: why.

    Raises:
        InputError: there is no such version, it serves already, or the plan says ``promotion: never``.
    """
    return serve_by_person(db, registry, registry.named(named), by, reason, "promote")


def roll_back_by_person(db: InspectionDatabase, registry: LineRegistry, by: Actor, reason: str = "") -> Version:
    """Let the version serve again that served before; arguments as for ``promote_by_person``.

    Raises:
        InputError: none served before.
    """
    previous = registry.at(PREVIOUS)
    if previous is None:
        raise InputError(f"Line {registry.line!r} has no previous version to go back to.")
    return serve_by_person(db, registry, previous, by, reason, ROLLBACK)


def serve_by_person(
    db: InspectionDatabase,
    registry: LineRegistry,
    version: Version,
    by: Actor,
    reason: str,
    action: str,
    more: Mapping[str, object] | None = None,
) -> Version:
    """Let a version serve, and write down what was done; ``more`` is said beside which version served before.

    Raises:
        InputError: it serves already, or the plan says ``promotion: never`` and this is no way back.
    """
    of_registry = Home.from_environment().line(registry.line)
    if action != ROLLBACK and of_registry.plan_file.is_file():
        refuse_where_never(of_registry)
    serving = registry.at(CHAMPION)
    if serving is not None and serving.number == version.number:
        raise InputError(f"{version.label} serves already.")
    made = registry.promote(version, by=f"person: {by.person}", why=reason)
    details = {"before": serving.label if serving else "none", **(more or {})}
    line, now = registry.line, utc_now()
    text = f"{made.label} serves from now on: {by.person} decided so ({action}). {reason}".strip()
    with db.writing() as connection:
        record_change(connection, by, action, line=line, subject=made.label, reason=reason, details=details)
        record_notice(connection, line, "gate", text, subject=f"{made.label} {now}", page=f"/lines/{line}/versions")
    return made
