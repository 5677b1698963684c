"""Every variable is read in one place, told in full, and no secret is ever shown."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vad_dagster.cli import app
from vad_lib.errors import InputError
from vad_lib.lines import Home
from vad_lib.settings import HIDDEN, NAMES, Settings, described, settings

REPOSITORY = Path(__file__).resolve().parents[2]
PASSED_OVER = {"vad_lib/settings.py"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES.values():
        monkeypatch.delenv(name, raising=False)


def reads_environment(node: ast.AST) -> bool:
    """os.environ.get, os.environ[…] where it is read, "X" in os.environ, os.getenv."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        named = ast.unparse(node.func)
        return named in ("os.environ.get", "os.getenv")
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
        return isinstance(node.ctx, ast.Load)
    return isinstance(node, ast.Compare) and any(ast.unparse(part) == "os.environ" for part in node.comparators)


def test_no_other_module_of_the_product_reads_the_environment() -> None:
    found = []
    for package in ("vad_lib", "vad_dagster"):
        for file in (REPOSITORY / package).rglob("*.py"):
            name = str(file.relative_to(REPOSITORY))
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found += [f"{name}:{n.lineno}" for n in ast.walk(tree) if reads_environment(n) and name not in PASSED_OVER]
    assert found == []


def test_each_variable_has_a_meaning_in_full_sentences() -> None:
    for one in described():
        assert len(one.meaning.split()) >= 6, one.name
        assert one.meaning.endswith("."), one.name
        assert one.meaning[0].isupper(), one.name


def test_the_environment_is_read_afresh_and_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().result_files is False
    monkeypatch.setenv("VAD_RESULT_FILES", "1")
    assert settings().result_files is True
    monkeypatch.setenv("VAD_RESULT_FILES", "")
    assert settings().result_files is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VAD_FEATURE_CACHE_GIB", "much"),
        ("VAD_FEATURE_CACHE_GIB", "-1"),
        ("VAD_FEATURE_CACHE_GIB", "nan"),
        ("VAD_SCORING_BACKEND", "abacus"),
        ("VAD_RESULT_FILES", "perhaps"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name} is '{value}'"):
        settings()


@pytest.mark.parametrize("name", ["pct%20x", "q?x"])
def test_a_home_that_no_database_can_lie_in_is_refused_before_anything_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_HOME", str(tmp_path / name))
    images = tmp_path / "images" / "good"
    images.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["line", "add", "a", "--images", str(images.parent)])
    assert result.exit_code == 1
    assert "Choose another folder" in result.output
    assert "Traceback" not in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_are_absolute_and_know_the_persons_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAD_HOME", "~/vad")
    assert Home.from_environment().root == tmp_path.resolve() / "vad"
    assert Home.from_environment().weights_folder == tmp_path.resolve() / "vad" / "weights"


SECRETS = {
    "VAD_TOKEN": "token-hunter2",
    "VAD_WEBHOOK_SECRET": "signed-hunter2",
    "VAD_INSPECTION_DB": "postgresql://vad:base-hunter2@db.local/vad",
    "MLFLOW_TRACKING_URI": "https://vad:flow-hunter2@mlflow.local",
    "VAD_WEBHOOK_URL": "https://vad:hook-hunter2@receiver.local/{line}",
}


def test_no_secret_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["settings"])
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    assert "hunter2" not in repr(described())
    assert "token-hunter2" not in repr(settings())
    assert result.output.count(HIDDEN) == len(SECRETS)
    assert settings().token.get_secret_value() == "token-hunter2"


def test_the_command_says_value_source_default_and_meaning_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_FEATURE_CACHE_GIB", "2.5")
    output = CliRunner().invoke(app, ["settings"]).output
    assert "VAD_FEATURE_CACHE_GIB = 2.5   from the environment   (default: 10)" in output
    assert "VAD_SCORING_BACKEND = auto   from the default" in output
    for field in Settings.model_fields.values():
        assert str(field.description) in output.replace("\n", " ")


def test_names_of_places_do_not_need_the_library_of_settings() -> None:
    """The command line answers ``--help`` without it."""
    code = "import sys, vad_lib.lines; sys.exit('pydantic_settings' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ), timeout=60)
