"""What the pages say is what the code says, and a stranger can read it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tests.structure.test_imports import FLOORS, ROOMS
from tools import plan_page, settings_page, spec_table
from vad_dagster.cli import app
from vad_lib.serving.sinks import signature
from vad_lib.settings import NAMES

ROOT = Path(__file__).resolve().parent.parent.parent
README = ROOT / "README.md"
CHANGELOG = ROOT / "CHANGELOG.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
ALL_PAGES = (README, CHANGELOG, *PAGES, *sorted((ROOT / "vad_lib").rglob("*.md")))

OLD_WORDS = (
    "landing|landed|lands|take[ns]? up|taking up|owed|adopt(s|ed)?|hand(s|ing)? over|halv(es|ed|ing)|",
    "fast lane|bulk lane|lanes?|resident|scorers?|ledger|vouched|kept aside|keep(s|ing)? aside|signals?|",
    "promise of three seconds|verdicts?|story|stories|stand-in|whose turn|ticks?|plants?|storms?|killers?",
)
"""Words of version 0.1, as regular expressions; ``docs/glossary.md`` says what is said instead."""
SPEAK_OF_OLD_WORDS = {"glossary.md", "CHANGELOG.md", "spec.md"}
"""Pages that must name old words; spec.md names tests, and its promises are looked at by themselves."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """Return a page without code: what is written for people."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`|\]\([^)]*\)", "", text)


def old_words_in(text: str) -> list[str]:
    return sorted({found[0] for found in re.finditer(rf"\b({''.join(OLD_WORDS)})\b", text, flags=re.IGNORECASE)})


def links_of(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the heading (or nothing) of each link that does not lead into the web."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            place, _, heading = target.partition("#")
            yield (page.parent / place).resolve() if place else page, heading


def headings_of(page: Path) -> set[str]:
    """Return the anchors that a page's headings get."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_page_of_the_plan_lists_its_arguments_as_the_models_have_them() -> None:
    text = plan_page.PAGE.read_text(encoding="utf-8")
    assert plan_page.with_arguments(text) == text, "run python -m tools.plan_page"


def test_every_promised_line_has_a_test_or_a_reason_and_the_page_is_up_to_date() -> None:
    lines = yaml.safe_load(spec_table.LINES.read_text(encoding="utf-8"))
    tests = spec_table.marked_tests(ROOT / "tests")
    assert spec_table.faults(lines, tests) == []
    written = spec_table.PAGE.read_text(encoding="utf-8")
    assert written == spec_table.page(lines, tests), "run python -m tools.spec_table"


def test_a_mark_that_names_no_promised_line_is_a_fault_whatever_its_letter() -> None:
    lines = {"V1 Pipelines": {"V1.01": {"says": "It works.", "where": "vad_lib"}}}
    tests = {"V1.01": [("tests/test_a.py", "test_it_works")], "Z9.99": [("tests/test_b.py", "test_nothing")]}
    assert spec_table.faults(lines, tests) == ["Z9.99: marked in tests/test_b.py, but not a line of spec_lines.yaml"]


def test_the_page_of_settings_is_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES.values():
        monkeypatch.setenv(name, "")
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), "run python -m tools.settings_page"


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_to_a_heading_that_is_there(page: Path) -> None:
    broken = [
        f"{target}#{heading}"
        for target, heading in links_of(page)
        if not target.exists() or (heading and heading not in headings_of(target))
    ]
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, following = {README}, [README]
    while following:
        for target, _ in links_of(following.pop()):
            if target.suffix == ".md" and target not in reached and target.exists():
                reached.add(target)
                following.append(target)
    assert [page.name for page in PAGES if page not in reached] == []


def test_the_check_for_receivers_takes_only_what_is_signed_and_fresh() -> None:
    page = (ROOT / "docs" / "inference_service.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "X-VAD-Signature" in block]
    names: dict[str, Any] = {}
    exec(code, names)

    def told(age: int, body: bytes = b"{}", signed: bytes = b"{}", secret: str = "key") -> bool:
        sent = str(int(time.time()) - age)
        headers = {"X-VAD-Timestamp": sent, "X-VAD-Signature": signature(secret, sent, signed)}
        return bool(names["is_genuine"](headers, body, "key"))

    assert told(0)
    assert told(240)
    assert not told(360)
    assert not told(-360)
    assert not told(0, secret="another")
    assert not told(0, body=b"[]")
    assert not names["is_genuine"]({}, b"{}", "key")
    assert not names["is_genuine"]({"X-VAD-Timestamp": "x", "X-VAD-Signature": "gehäuse"}, b"{}", "key")


def test_every_picture_is_shown_on_a_page() -> None:
    shown = {target for page in ALL_PAGES for target, _ in links_of(page)}
    pictures = (ROOT / "docs" / "images").glob("*.png")
    assert sorted(picture.name for picture in pictures if picture not in shown) == []


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_pages_use_the_words_of_the_glossary(page: Path) -> None:
    assert page.name in SPEAK_OF_OLD_WORDS or old_words_in(text_of(page)) == []


def test_promises_use_the_words_of_the_glossary() -> None:
    lines = yaml.safe_load(spec_table.LINES.read_text(encoding="utf-8"))
    said = " ".join(f"{title} {entry['says']}" for title, section in lines.items() for entry in section.values())
    assert old_words_in(said) == []


def test_old_words_are_found_in_sentences_and_not_in_code() -> None:
    assert old_words_in("Images landed in the bulk lane; a Verdict was given.") == ["Verdict", "bulk lane", "landed"]
    assert old_words_in("A plan says where the planet's explanations stand.") == []


@pytest.mark.parametrize("page", [page for page in (README, *PAGES) if page.name != "glossary.md"], ids=name_of)
def test_every_command_of_vad_on_a_page_is_there_with_its_options(page: Path) -> None:
    unknown = []
    for line in re.findall(r"(?:^|`|    )(vad [a-z][^`\n#|]*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        words = line.split()[1:]
        command = get_command(app)
        while words and hasattr(command, "commands"):
            if words[0] not in command.commands:
                break
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        missing = [word for word in words if word.startswith("--") and word.split("=")[0] not in options]
        if missing or hasattr(command, "commands"):
            unknown.append(line.strip())
    assert unknown == []


@pytest.mark.parametrize("page", [README, ROOT / "Makefile", *PAGES], ids=name_of)
def test_every_module_and_target_that_a_page_tells_to_run_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = re.findall(r"python -m ((?:benchmarks|tools|vad_dagster)[\w.]*)", text)
    files = [ROOT / name.replace(".", "/") for name in modules]
    assert [
        file.name for file in files if not (file.with_suffix(".py").is_file() or (file / "__main__.py").is_file())
    ] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, flags=re.MULTILINE)
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_every_file_of_the_code_that_a_page_names_is_there(page: Path) -> None:
    text = re.sub(r"^```python.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`((?:vad_lib|vad_dagster|tests|tools|docs)/[\w./]+)`", text)
    examples = {"vad_lib/detectors/toy/__init__.py"}
    assert [name for name in named if name not in examples and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("package", FLOORS)
def test_the_architecture_has_the_floors_that_are_tested(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split(f"| floor of `{package}` |")[1].split("\n\n")[0]
    written = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    tested = [[room for room in floor.split() if f"{package}.{room}" in ROOMS] for floor in FLOORS[package]]
    assert written == tested
