"""Pages that are one HTML file each: their style, and the tables on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

_STYLE = """
:root { color-scheme: light; --ink: #18181b; --faint: #71717a; --line: #e4e4e7; --soft: #fafafa; --bad: #b91c1c;
  --good: #15803d; --odd: #c2410c; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 32px 24px 80px; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 18px; margin: 40px 0 12px; border-top: 1px solid var(--line);
  padding-top: 20px; } p { margin: 6px 0; } .faint { color: var(--faint); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 4px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 116px;
  background: var(--soft); }
.card b { display: block; font-size: 22px; font-weight: 650; } .card span { color: var(--faint); font-size: 13px; }
.bad b { color: var(--bad); } .odd b { color: var(--odd); }
table { border-collapse: collapse; margin: 8px 0; } th, td { padding: 5px 14px 5px 0; text-align: left;
  border-bottom: 1px solid var(--line); vertical-align: top; } th { color: var(--faint); font-weight: 500; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; } code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
.matrix td, .matrix th { border: 1px solid var(--line); padding: 10px 18px; text-align: center; }
.matrix .hit { background: #dcfce7; } .matrix .slip { background: #fee2e2; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 14px; }
.sheet img { width: 100%; border: 1px solid var(--line); border-radius: 6px; display: block; }
img.graph { max-width: 100%; width: 1000px; } .warn { border-left: 4px solid var(--odd); background: #fff7ed;
  padding: 8px 14px; margin: 10px 0; } .error { border-color: var(--bad); background: #fef2f2; }
.info { border-color: #a1a1aa; background: var(--soft); }
.wide { overflow-x: auto; } .wide td, .wide th { white-space: nowrap; }
details summary { cursor: pointer; color: var(--faint); }
@media print { .sheet { grid-template-columns: repeat(2, 1fr); } }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """Return a whole page; empty sections are left out. The sections are HTML, the title is text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def pairs(values: Mapping[str, Any]) -> str:
    """Return a table with a name and a value in each row."""
    rows = [
        f"<tr><th>{escape(str(name))}</th><td><code>{escape(cell(value))}</code></td></tr>"
        for name, value in values.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def table_of(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: tuple[int, ...] = ()) -> str:
    """Return a table, or nothing where it has no row; ``numbers`` are the places of columns that are aligned right."""
    rows = list(rows)
    if not rows:
        return ""
    kinds = [' class="n"' if place in numbers else "" for place in range(len(head))]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def cell(value: Any) -> str:
    """Return a value as text; numbers have at most five digits that count."""
    if isinstance(value, bool) or value is None:
        return str(value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def number(value: float | None) -> str:
    """Return a share or metric with three digits; a dash where there is none."""
    return "–" if value is None or pd.isna(value) else f"{value:.3f}"
