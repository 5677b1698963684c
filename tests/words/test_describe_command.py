"""``vad describe`` as a user meets it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tests.words.stub_endpoint import ANSWER, Stub, Turn
from tests.words.words_rig import brightness_map
from vad_dagster.cli import app
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home

Vad = Callable[..., Result]


@pytest.fixture
def vad(home_db: InspectionDatabase, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vad]:
    """Run ``vad`` with these words in a home with the line bottles, beside the stub as endpoint."""
    monkeypatch.setenv("VAD_VLM_URL", stub.url)
    monkeypatch.setenv("VAD_VLM_MODEL", "stub")
    before = dict(os.environ)
    runner = CliRunner(env={"COLUMNS": "200"})
    yield lambda *words: runner.invoke(app, ["describe", *(str(word) for word in words)])
    os.environ.clear()
    os.environ.update(before)


def output_of(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.spec("P7.10")
def test_a_finding_is_described_shown_and_found(vad: Vad, stub: Stub) -> None:
    told = output_of(vad("run", "bottles", "--ng"))
    assert "2 zbright.png: the detector says NG" in told
    assert "A scratch at the top left. (anomaly: yes, confidence: high)" in told
    assert "1. scratch, top left, severity high: A thin line." in told
    assert f"by stub at {stub.url}, 120 tokens" in told
    assert "describing: 1 of 1 findings" in told
    assert len(stub.asked) == 1
    assert output_of(vad("run", "bottles", "zbright.png")).count("A scratch") == 1
    assert len(stub.asked) == 1, "it was described already"
    assert "A scratch at the top left." in output_of(vad("show", "bottles", "zbright.png"))
    assert "1 descriptions" in output_of(vad("search", "bottles", "SCRATCH", "left"))
    assert "0 descriptions" in output_of(vad("search", "bottles", "dent"))
    output_of(vad("run", "bottles", "zbright.png", "dark.png", "--again", "--language", "Korean"))
    assert [body["messages"][0]["content"].endswith("Korean.") for body in stub.asked] == [False, True, True]


def test_a_disagreement_is_told_and_markup_in_a_reply_means_nothing(vad: Vad, stub: Stub) -> None:
    stub.script = lambda body: Turn(json.dumps(ANSWER | {"anomaly": "no", "summary": "[red]fine[/red] \x1b[31mok"}))
    told = output_of(vad("run", "bottles", "zbright.png"))
    assert "[red]fine[/red] [31mok" in told
    assert "does not agree with the detector: somebody should look" in told
    assert "[red]fine[/red]" in output_of(vad("search", "bottles", "--disagreements"))


def test_a_correction_is_given_and_exported(vad: Vad, tmp_path: Path) -> None:
    assert "has no description yet" in vad("correct", "bottles", "zbright.png", "--set", "summary=x").output
    output_of(vad("run", "bottles", "zbright.png"))
    assert "Say what the answer should have been" in vad("correct", "bottles", "zbright.png").output
    assert "Extra inputs" in vad("correct", "bottles", "zbright.png", "--set", "verdict=OK").output
    told = output_of(vad("correct", "bottles", "zbright.png", "--set", "summary=It is dust.", "--person", "Kim"))
    assert told == "corrected: summary\n"
    assert "corrections.jsonl: 1 examples" in output_of(vad("export", "bottles", "--to", tmp_path / "chat"))
    assert "It is dust." in (tmp_path / "chat" / "corrections.jsonl").read_text()


def test_an_endpoint_that_fails_is_told_and_the_finding_waits(vad: Vad, stub: Stub) -> None:
    stub.script = lambda body: Turn(status=500)
    failed = vad("run", "bottles", "zbright.png")
    assert failed.exit_code == 1
    assert "waiting: " in failed.output
    assert "status 500" in failed.output


def test_an_endpoint_is_checked_rung_by_rung(vad: Vad, stub: Stub) -> None:
    def knows_no_schema(body: dict[str, object]) -> Turn:
        kind = body.get("response_format", {"type": "text"})["type"]  # type: ignore[index]
        return Turn(status=400) if kind == "json_schema" else Turn("prose" if kind == "text" else json.dumps(ANSWER))

    stub.script = knows_no_schema
    stub.models = ("other", "stub")
    told = output_of(vad("check", "bottles"))
    assert "(on this machine)" in told
    assert "models: other, stub; stub is among them" in told
    rows = [line.split("│")[:3] for line in told.splitlines() if line.startswith(("json_", "text"))]
    told_rows = [[cell.strip() for cell in row] for row in rows]
    assert told_rows == [["json_schema", "no", "no"], ["json_object", "yes", "yes"], ["text", "yes", "no"]]
    assert "Descriptions ask by json_object, and replies have the form." in told
    stub.script = lambda body: Turn(status=401)
    assert "does not reply: findings cannot be described" in vad("check").output


def test_without_an_endpoint_or_leave_it_says_what_to_do(vad: Vad, monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    monkeypatch.setenv("VAD_VLM_URL", "http://10.0.0.7/v1")
    for command in (("run", "bottles"), ("check", "bottles")):
        assert "allow_images_to_leave: true" in vad(*command).output
    monkeypatch.delenv("VAD_VLM_URL")
    for command in (("run", "bottles"), ("check",)):
        result = vad(*command)
        assert result.exit_code == 1
        assert "set VAD_VLM_URL" in result.output
    assert stub.seen == []


def test_facts_of_a_line_are_those_of_its_plan_and_its_last_training(
    vad: Vad, vad_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from vad_dagster.finding_words import line_facts

    line = Home(vad_home).line("bottles")
    facts = line_facts(line, brightness_map)
    assert (facts.allow_images_to_leave, facts.kinds, facts.normals) == (False, (), ())

    def trained_on(*labels: str) -> None:
        rows = pd.DataFrame({"label": labels, "file": [f"/{n}.png" for n in range(len(labels))], "sha256": "0" * 64})
        rows["is_anomalous"] = (rows["label"] != "good").astype("boolean")
        monkeypatch.setattr("vad_dagster.finding_words.last_dataset", lambda _: SimpleNamespace(rows=rows))

    line.plan_file.write_text("operation:\n  allow_images_to_leave: true\n")
    trained_on("dent", "good", "scratch", "scratch", "good")
    facts = line_facts(line, brightness_map)
    assert (facts.allow_images_to_leave, facts.kinds) == (True, ("scratch", "dent"))
    assert [known.file for known in facts.normals] == [Path("/1.png"), Path("/4.png")]
    trained_on("bad", "good")
    assert line_facts(line, brightness_map).kinds == (), "one word for everything that is wrong is no kind"
