"""What the pages say is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tools import readme, settings_page, spec_table
from vad_lib.settings import NAMES

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_readme_lists_the_plans_arguments_as_the_models_have_them() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_arguments(text) == text, "run python -m tools.readme"


def test_every_promised_line_has_a_test_or_a_reason_and_the_page_is_up_to_date() -> None:
    lines = yaml.safe_load(spec_table.LINES.read_text(encoding="utf-8"))
    tests = spec_table.marked_tests(ROOT / "tests")
    assert spec_table.faults(lines, tests) == []
    written = spec_table.PAGE.read_text(encoding="utf-8")
    assert written == spec_table.page(lines, tests), "run python -m tools.spec_table"


def test_the_page_of_settings_is_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES.values():
        monkeypatch.setenv(name, "")
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), "run python -m tools.settings_page"


def test_every_file_that_the_pages_link_to_is_there() -> None:
    missing = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert missing == []
