"""Bring the catalogues of the pages' languages up to date with the texts in the templates.

``python -m tools.catalogues`` keeps every translation whose text is still there, and says what each language lacks. A
code, as in ``python -m tools.catalogues fr``, begins a new language.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.pofile import read_po, write_po

from vad_dagster.service.languages import FOLDER
from vad_dagster.service.page_parts import TEMPLATES

OPTIONS = {"trimmed": "true", "trim_blocks": "true"}


def texts() -> Iterator[tuple[str | tuple[str, ...], str]]:
    """Yield each text of the templates with the name of its file."""
    for file in sorted(TEMPLATES.glob("*.html")):
        with file.open("rb") as stream:
            for _, message, _, _ in extract("jinja2.ext:babel_extract", stream, options=OPTIONS):
                yield message, file.name


def template() -> Catalog:
    """Return a catalogue of all texts without translations."""
    made = Catalog(project="vad", fuzzy=False)
    for message, file in texts():
        made.add(message, locations=[(file, None)])
    return made


def missing(catalogue: Catalog) -> list[str]:
    """Return the texts that a catalogue has no translation of."""
    found = []
    for message in catalogue:
        said = message.string if isinstance(message.string, tuple | list) else (message.string,)
        if message.id and (message.fuzzy or not all(said)):
            found.append(str(message.id))
    return found


def main(codes: list[str]) -> None:
    """Write every catalogue anew."""
    for code in sorted({*codes, *(file.stem for file in FOLDER.glob("*.po"))}):
        file = FOLDER / f"{code}.po"
        if file.exists():
            with file.open("rb") as stream:
                catalogue = read_po(stream, locale=code)
        else:
            catalogue = Catalog(locale=code, fuzzy=False)
        catalogue.update(template(), no_fuzzy_matching=True)
        catalogue.obsolete.clear()
        with file.open("wb") as stream:
            # without a header, which holds times: the same texts give the same file
            write_po(stream, catalogue, width=110, sort_output=True, omit_header=True, include_lineno=False)
        lacks = missing(catalogue)
        print(f"{code}: {len(catalogue)} texts, {len(lacks)} without a translation")
        for text in lacks:
            print(f"  {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
