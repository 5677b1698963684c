"""The pages in other languages: every text is translated, with the same placeholders, and the chosen one is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
from babel.messages.pofile import read_po
from serving_rig import RigSource

from tests.serving_web.conftest import Web
from tools.catalogues import main, missing, template
from vad_dagster.service.languages import FOLDER, language_of, languages

CODES = sorted(file.stem for file in FOLDER.glob("*.po"))
OF_LINE = ("", "/results", "/results?view=table", "/review", "/threshold", "/versions", "/performance", "/changes")
PAGES = ("/", "/changes", *(f"/lines/bottles{page}" for page in (*OF_LINE, "/descriptions")))
PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\w*\}|%%|</?\w+[^>]*>")


@pytest.mark.parametrize("code", CODES)
def test_every_text_has_a_translation_with_the_same_placeholders(code: str) -> None:
    with (FOLDER / f"{code}.po").open("rb") as file:
        catalogue = read_po(file, locale=code)
    assert missing(catalogue) == []
    assert {message.id for message in catalogue} == {message.id for message in template()}
    for message in catalogue:
        if not message.id:
            continue
        ids = message.id if isinstance(message.id, tuple) else (message.id,)
        said = message.string if isinstance(message.string, tuple) else (message.string,)
        for text in said:
            assert sorted(PLACEHOLDER.findall(text)) == sorted(PLACEHOLDER.findall(ids[-1])), text


def test_the_tool_changes_nothing_where_nothing_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    before = {code: (FOLDER / f"{code}.po").read_bytes() for code in CODES}
    main([])
    assert {code: (FOLDER / f"{code}.po").read_bytes() for code in CODES} == before
    assert "0 without a translation" in capsys.readouterr().out


def test_each_page_is_shown_in_the_language_that_was_chosen(web: Web, source: RigSource, tmp_path: Path) -> None:
    address = web()
    for code, words in {"de": ("Linien", "Durchsicht"), "ko": ("라인", "검토"), "en": ("Lines", "Review")}.items():
        for page in PAGES:
            answer = requests.get(f"{address}{page}", headers={"Accept-Language": f"{code}-XX, fr;q=0.5"}, timeout=20)
            assert answer.status_code == 200, answer.text
            assert f'<html lang="{code}">' in answer.text
            assert words[0] in answer.text
            assert "/lines/" not in page or words[1] in answer.text
    cookie = requests.get(address, headers={"Accept-Language": "ko"}, cookies={"vad-language": "de"}, timeout=20)
    assert '<html lang="de">' in cookie.text


def test_what_is_not_there_is_english_and_names_stand_in_their_own_language() -> None:
    assert languages() == {"en": "English", "de": "Deutsch", "ko": "한국어"}
    asked = {"fr": "en", "": "en", "fr, de;q=0.3, ko;q=0.7": "ko", "*": "en", "de-AT": "de", "ko;q=x, de": "de"}
    assert {text: language_of({"accept-language": text}, {}) for text in asked} == asked
    assert language_of({"accept-language": "de"}, {"vad-language": "../../etc"}) == "de"
