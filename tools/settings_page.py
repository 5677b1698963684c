"""Write docs/settings.md from the settings themselves: ``python -m tools.settings_page``."""

from __future__ import annotations

from pathlib import Path

from vad_lib.settings import described

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD = """# Settings

Written by `python -m tools.settings_page` from `vad_lib/settings.py`; do not edit.

Whatever concerns one machine or one installation is an environment variable. What concerns a line stands in its plan.
`vad settings` prints each variable with its value and where that came from; it never prints a secret.
A variable that is empty counts as not set.

| variable | kind | default | meaning |
|---|---|---|---|
"""
TAIL = """
Set for every process that `vad` starts, unless you set them: `OMP_WAIT_POLICY=PASSIVE`, so that threads of torch sleep
while they wait for one another, and `DAGSTER_DISABLE_TELEMETRY`, `MLFLOW_DISABLE_TELEMETRY`,
`HF_HUB_DISABLE_TELEMETRY` and `DO_NOT_TRACK`, so that nothing reports home.
"""


def page() -> str:
    """Return the text of the page; it does not depend on the environment."""
    rows = [
        f"| `{one.name}` | {one.kind} | {one.default if ' ' in one.default else f'`{one.default}`'} | {one.meaning} |"
        for one in described()
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
