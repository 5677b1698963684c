"""Tell people what happens in Dagster: the inference service sends what is written here, by the rules of the plan."""

from __future__ import annotations

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.notices import record_notice
from vad_lib.notice_rules import Event


def tell(line: str, event: Event, text: str, *, subject: str, page: str = "") -> None:
    """Write a notice.

    Args:
        line: where it happened.
        event: of which kind.
        text: a sentence for people.
        subject: what it is about; the same event about it is told once.
        page: the path of a page of the inference service.
    """
    with InspectionDatabase.from_environment().writing() as connection:
        record_notice(connection, line, event, text, subject=subject, page=page)
