"""The floors of the house: no import runs up, and none runs in a circle.

Imports are read from the source with ``ast``, those inside functions too. Only imports for a type checker do not count.
A room is a package or module directly inside ``vad_lib`` or ``vad_dagster``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("vad_lib", "vad_dagster")

FLOORS: Mapping[str, tuple[str, ...]] = {
    "vad_lib": (
        "errors findings machine atomic_files processes settings progress randomness json_record argument_fields",
        "quietness lines notice_rules tables images csv_text preprocessing augmentation synthetic summary",
        "plan labelled_folder ground_truth thresholds encoders detectors",
        "metrics paired_tests promotion heatmaps readiness",
        "monitoring",
        "training models forecast training_inputs training_reasons",
        "trained_model export compiled extending artifacts",
        "comparison choosing",
        "validation",
        "inspection_db",
        "ingest queue",
        "inspection",
        "words",
        "serving",
    ),
    "vad_dagster": (
        "partitions home configuration table_schemas plans jobs notices run_coordinator web_gate",
        "resources values checks io_manager mlflow_model",
        "provenance",
        "registry",
        "promotions",
        "thresholds",
        "recording asset_metadata asset_parts",
        "inspection_run finding_words",
        "assets sensors service",
        "definitions",
        "cli",
    ),
}
"""From the ground up. A room may import from its own floor and from those below. Names without a room do no harm."""

Graph = dict[str, set[str]]


def read_graph(root: Path) -> Graph:
    """Return what each module of our packages imports of our packages."""
    files = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return {
        name: {
            found
            for module, imported in _imports(ast.parse(file.read_text(encoding="utf-8")))
            for found in (f"{module}.{imported}" if f"{module}.{imported}" in files else module,)
            if found in files and found != name
        }
        for name, file in files.items()
    }


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from ((child.module, alias.name) for alias in child.names)
        yield from _imports(child)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def rooms(modules: Graph) -> Graph:
    found: Graph = {}
    for module, targets in modules.items():
        room = found.setdefault(room_of(module), set())
        room |= {room_of(target) for target in targets} - {room_of(module), *PACKAGES}
    return found


def circles(graph: Graph) -> set[frozenset[str]]:
    """Return circles, one at a time: each is cut open before the next is looked for, until none is left."""
    rest = {name: sorted(targets) for name, targets in sorted(graph.items())}
    found = set()
    while True:
        try:
            TopologicalSorter(rest).prepare()
        except CycleError as error:
            circle = error.args[1]
            found.add(frozenset(circle))
            # the sorter lists a circle from the imported to the importing
            rest[circle[1]].remove(circle[0])
        else:
            return found


def upward(graph: Graph, floors: Mapping[str, tuple[str, ...]] = FLOORS) -> set[tuple[str, str]]:
    """Return imports of a room on a higher floor.

    Raises:
        KeyError: a room is on no floor.
    """
    level = {
        f"{package}.{room}": number + (100 if package == "vad_dagster" else 0)
        for package, storeys in floors.items()
        for number, storey in enumerate(storeys)
        for room in storey.split()
    }
    inside = {room for room in graph if room not in PACKAGES}
    return {(room, target) for room in inside for target in graph[room] if level[target] > level[room]}


MODULES = read_graph(ROOT)
ROOMS = rooms(MODULES)


def test_every_room_is_on_a_floor() -> None:
    named = {f"{package}.{room}" for package, storeys in FLOORS.items() for room in " ".join(storeys).split()}
    assert set(ROOMS) - set(PACKAGES) <= named


def test_no_room_imports_from_a_higher_floor() -> None:
    assert upward(ROOMS) == set()


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    assert circles(ROOMS) == set()


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    assert circles(MODULES) == set()


def test_a_detector_imports_nothing_from_the_folder_of_another_one() -> None:
    def folder(module: str) -> str:
        parts = module.split(".")
        return parts[2] if parts[:2] == ["vad_lib", "detectors"] and (ROOT / Path(*parts[:3])).is_dir() else ""

    found = {
        (folder(module), folder(target))
        for module, targets in MODULES.items()
        for target in targets
        if folder(module) and folder(target) not in ("", folder(module))
    }
    assert found - {("anomalygpt", "winclip")} == set()  # it describes its objects with WinCLIP's own argument


def test_vad_lib_knows_neither_dagster_nor_mlflow() -> None:
    for file in (ROOT / "vad_lib").rglob("*.py"):
        names = {module.split(".")[0] for module, _ in _imports(ast.parse(file.read_text(encoding="utf-8")))}
        assert not names & {"dagster", "mlflow", "vad_dagster"}, file


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for file, text in {
        "vad_lib/errors.py": "def late():\n    from vad_lib.images import x\n",
        "vad_lib/images/__init__.py": "import vad_lib.errors\n",
        "vad_lib/lines.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vad_dagster import home\n",
        "vad_dagster/home.py": "from vad_lib.lines import Home\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


def test_an_upward_import_and_a_circle_are_found_in_functions_too_but_not_where_only_types_are_meant(toy: Path) -> None:
    graph = rooms(read_graph(toy))
    assert upward(graph) == {("vad_lib.errors", "vad_lib.images")}
    assert circles(graph) == {frozenset({"vad_lib.errors", "vad_lib.images"})}


def test_a_room_without_a_floor_is_refused(toy: Path) -> None:
    (toy / "vad_lib/attic.py").write_text("import vad_lib.errors\n")
    with pytest.raises(KeyError):
        upward(rooms(read_graph(toy)))
