"""The part of a page that is written by a tool, between two marks that people leave as they are."""

from __future__ import annotations


def with_part(text: str, name: str, tool: str, content: str) -> str:
    """Return the page with other content between the marks ``<!-- NAME: begin (python -m TOOL) -->`` and end.

    Raises:
        ValueError: the page does not have each of the marks once.
    """
    begin, end = f"<!-- {name}: begin (python -m {tool}) -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{content}\n{end}{after}"
