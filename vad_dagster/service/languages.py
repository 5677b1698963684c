"""The languages of the pages: one gettext catalogue each, read when the service starts.

A language is added by a file ``languages/CODE.po``; ``python -m tools.catalogues`` makes it and keeps all up to date.
What a model, a person or the log says stays as it was written.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from babel import Locale, negotiate_locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations

FOLDER = Path(__file__).with_name("languages")
SOURCE = "en"
"""The language in which the texts stand in the templates."""
COOKIE = "vad-language"


def languages() -> dict[str, str]:
    """Return the code of each language with its own name for itself, such as ``de: Deutsch``."""
    codes = [SOURCE, *sorted(file.stem for file in FOLDER.glob("*.po"))]
    return {code: (Locale.parse(code).get_display_name(code) or code).capitalize() for code in codes}


@lru_cache(maxsize=32)
def translations(code: str) -> NullTranslations:
    """Return the texts of a language; a text that its catalogue lacks stays English."""
    if code == SOURCE:
        return NullTranslations()
    with (FOLDER / f"{code}.po").open("rb") as file:
        catalogue = read_po(file, locale=code)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Translations(compiled)


def language_of(headers: Mapping[str, str], cookies: Mapping[str, str]) -> str:
    """Return the language that was chosen on a page, else the first of the browser's list that there is."""
    there = languages()
    if (chosen := cookies.get(COOKIE, "")) in there:
        return chosen
    wanted = []
    for part in headers.get("accept-language", "").split(","):
        code, _, rest = part.partition(";")
        weight = rest.strip().removeprefix("q=") or "1"
        if (code := code.strip()) and weight.replace(".", "", 1).isdecimal():
            wanted.append((-float(weight), code))
    ordered = [code for _, code in sorted(wanted, key=lambda pair: pair[0])]
    return negotiate_locale(ordered, list(there), sep="-") or SOURCE
