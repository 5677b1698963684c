"""The product stands on what its libraries promise: no private module of Dagster is named anywhere in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("vad_lib", "vad_dagster")
UNAVOIDABLE: dict[str, str] = {}
"""Private modules that may be named, each with the reason why nothing public does the same. There is none."""

PRIVATE = re.compile(r"\bdagster\w*(?:\.\w+)*\._\w+(?:\.\w+)*")


def named_modules(text: str) -> Iterator[str]:
    """Every module that a source file imports, with the names that it takes from it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_modules(file: Path) -> set[str]:
    text = file.read_text(encoding="utf-8")
    named = set(PRIVATE.findall(text))
    if file.suffix == ".py":
        named.update(module for module in named_modules(text) if PRIVATE.search(module))
    return named


@pytest.mark.parametrize("package", PRODUCT)
def test_no_private_module_of_dagster_is_named_in_the_product(package: str) -> None:
    files = [file for kind in ("*.py", "*.yaml") for file in (REPOSITORY / package).rglob(kind)]
    assert files
    found = {str(file.relative_to(REPOSITORY)): private_modules(file) - set(UNAVOIDABLE) for file in files}
    assert {file: sorted(modules) for file, modules in found.items() if modules} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import dagster._core.launcher",
        "from dagster._core.launcher import WorkerStatus",
        "from dagster import _check",
        "from dagster_graphql._schema import x",
        "from dagster_webserver._app import x",
        "name = 'dagster._core.definitions.events.Failure'",
    ],
)
def test_a_private_module_would_be_found(line: str, tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(line + "\n")
    assert private_modules(file)


def test_a_public_module_is_none(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("import dagster as dg\nfrom dagster_graphql.client import query\nself._dagster.x\n")
    assert not private_modules(file)
