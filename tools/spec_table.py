"""Write docs/spec.md: for each promised line, where it is kept and which tests show it.

The statements come from docs/spec_lines.yaml, the tests from their ``@pytest.mark.spec("V3.14", ...)`` marks, read
without running anything. ``--check`` writes nothing and fails where the page is out of date or a line is open.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "docs" / "spec_lines.yaml"
PAGE = ROOT / "docs" / "spec.md"


def marked_tests(tests: Path) -> dict[str, list[tuple[str, str]]]:
    """Return line id -> [(file, test name)] over all marks on tests, classes and modules."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in sorted(tests.rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        module_ids = [line for node in tree.body if _is_pytestmark(node) for line in _ids(node)]
        _collect(tree.body, module_ids, str(file.relative_to(ROOT)), found, _ids_of_names(tree))
    return found


def _is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "pytestmark" for target in node.targets)


def _ids(node: ast.AST) -> list[str]:
    """Line ids in every ``*.spec(...)`` call below a node."""
    return [
        argument.value
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "spec"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def _ids_of_names(tree: ast.Module) -> dict[str, list[str]]:
    """Line ids in what the module assigns to a name: lists of parameters carry marks too."""
    return {
        target.id: _ids(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _collect(
    body: list[ast.stmt],
    inherited: list[str],
    file: str,
    found: dict[str, list[tuple[str, str]]],
    of_names: dict[str, list[str]],
    prefix: str = "",
) -> None:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        own = list(inherited)
        for decorator in node.decorator_list:
            own += _ids(decorator)
            names = [part.id for part in ast.walk(decorator) if isinstance(part, ast.Name)]
            own += [line for name in names for line in of_names.get(name, [])]
        if isinstance(node, ast.ClassDef):
            _collect(node.body, own, file, found, of_names, f"{prefix}{node.name}.")
        elif node.name.startswith("test"):
            for line in dict.fromkeys(own):
                found[line].append((file, prefix + node.name))


def page(lines: dict[str, dict[str, dict[str, str]]], tests: dict[str, list[tuple[str, str]]]) -> str:
    """Return the whole page as markdown."""
    total = sum(len(section) for section in lines.values())
    shown = sum(1 for section in lines.values() for line in section if tests.get(line))
    parts = [
        "# What the system promises, and what shows it",
        "",
        "Written by `python -m tools.spec_table` from `spec_lines.yaml` and the marks of the tests; do not edit.",
        f"{shown} of {total} lines are shown by tests; the others say why not.",
    ]
    for title, section in lines.items():
        parts += ["", f"## {title}", "", "| line | promise | kept by | shown by |", "|---|---|---|---|"]
        for line, entry in section.items():
            names = [
                f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})" for file, name in tests.get(line, [])[:3]
            ]
            more = len(tests.get(line, [])) - 3
            if more > 0:
                names.append(f"and {more} more")
            where = f"[{entry['where']}](../{entry['where']})"
            parts.append(f"| {line} | {entry['says']} | {where} | {'; '.join(names) or entry.get('why', '**open**')} |")
    return "\n".join(parts) + "\n"


def faults(lines: dict[str, dict[str, dict[str, str]]], tests: dict[str, list[tuple[str, str]]]) -> list[str]:
    """Return what is wrong: open lines, modules that are not there, marks that name no line."""
    known = {line: entry for section in lines.values() for line, entry in section.items()}
    wrong = [f"{line}: no test and no reason" for line, e in known.items() if not tests.get(line) and not e.get("why")]
    wrong += [f"{line}: {e['where']} does not exist" for line, e in known.items() if not (ROOT / e["where"]).exists()]
    for line, where in tests.items():
        if line not in known:
            wrong.append(f"{line}: marked in {where[0][0]}, but not a line of {LINES.name}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is out of date")
    check = parser.parse_args().check
    lines = yaml.safe_load(LINES.read_text(encoding="utf-8"))
    tests = marked_tests(ROOT / "tests")
    text = page(lines, tests)
    wrong = faults(lines, tests)
    if check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            wrong.append(f"{PAGE.name} is out of date: run python -m tools.spec_table")
    else:
        PAGE.write_text(text, encoding="utf-8")
    print("\n".join(wrong) or "every line is shown")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
