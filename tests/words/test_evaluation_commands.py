"""``vad describe evaluate``, ``train-prompter`` and ``ask-local`` as a user meets them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tests.readiness.make_images import write_images
from tests.words.stub_endpoint import Stub, Turn, stub_endpoint
from tests.words.test_evaluation import MMAD, write_mmad
from tests.words.tiny_vlm import VlmServer
from vad_dagster.cli import app, words_evaluation
from vad_lib.lines import Home
from vad_lib.words.prompter import language_model, training

Vad = Callable[..., Result]


@pytest.fixture
def vad(vad_home: Path, tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vad]:
    """Run ``vad`` in a home with the line grass: 12 normal images, two dents and two holes."""
    monkeypatch.setenv("VAD_VLM_URL", stub.url)
    monkeypatch.setenv("VAD_VLM_MODEL", "stub")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    rows = [(f"good/{number}.png", "good") for number in range(12)]
    rows += [(f"{kind}/{number}.png", kind) for kind in ("dent", "hole") for number in range(2)]
    write_images(tmp_path / "grass", [path for path, _ in rows])
    pd.DataFrame(rows, columns=["image_path", "label"]).to_csv(tmp_path / "grass" / "train.csv", index=False)
    line = Home(vad_home).line("grass")
    line.folder.mkdir(parents=True)
    line.plan_file.write_text(
        f"external_path:\n  - load_train_data_path: {tmp_path / 'grass'}\n"
        "user_parameters:\n  - train_pipeline:\n    - step: train\n"
    )
    before = dict(os.environ)
    runner = CliRunner(env={"COLUMNS": "200"})

    def run(*words: object) -> Result:
        return runner.invoke(app, [str(word) for word in words])

    yield run
    os.environ.clear()
    os.environ.update(before)


def output_of(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def test_models_of_an_endpoint_are_measured_side_by_side_on_the_table_of_a_line(
    vad: Vad, stub: Stub, tmp_path: Path
) -> None:
    """The model that thinks knows its options; the other one always says A."""

    def reply(body: dict[str, object]) -> Turn:
        text = str(body["messages"][0]["content"][-1]["text"])  # type: ignore[index]
        letter = next(line[0] for line in text.splitlines() if line[1:] in (". Yes", ". dent"))
        return Turn("A" if body["model"] == "simple" else f"<think>A? B?</think>The answer is {letter}.")

    stub.script = reply
    out = tmp_path / "out"
    told = output_of(vad("describe", "evaluate", "grass", "--ask", "thinks", "--ask", "simple", "--out", out))
    results = pd.read_csv(out / "results.csv").set_index("figure")
    assert list(results) == ["by chance", f"thinks at {stub.url}", f"simple at {stub.url}"]
    thinks = results[f"thinks at {stub.url}"]
    assert thinks["Anomaly Detection: recall"].startswith("1.000")
    assert thinks["Anomaly Detection: overkill"].startswith("1.000")
    assert thinks["Defect Classification: accuracy"].startswith("0.500")
    assert "| Anomaly Detection: recall |" in told
    answers = pd.read_csv(out / "answers.csv", keep_default_na=False)
    assert len(answers) == len(stub.asked)
    assert set(answers.loc[answers["asked"].str.startswith("simple"), "reply"]) == {"A"}
    pictures = [part["image_url"]["url"] for part in stub.asked[0]["messages"][0]["content"][:-1]]
    assert len(pictures) == 2
    assert all(address.startswith("data:image/jpeg;base64,") for address in pictures)


def test_two_endpoints_are_measured_side_by_side_and_the_secret_goes_to_its_own_only(
    vad: Vad, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_VLM_API_KEY", "s3cret")
    stub.script = lambda body: Turn("A")
    with stub_endpoint() as other:
        other.script = lambda body: Turn("B")
        asked = ("--ask", f"one@{stub.url}", "--ask", f"two@{other.url}")
        told = output_of(vad("describe", "evaluate", "grass", *asked, "--out", tmp_path / "out"))
        assert len(other.asked) == len(stub.asked) > 0
        assert {headers["authorization"] for headers in stub.headers} == {"Bearer s3cret"}
        assert "s3cret" not in str(other.headers)
        results = pd.read_csv(tmp_path / "out" / "results.csv").set_index("figure")
        assert list(results) == ["by chance", f"one at {stub.url}", f"two at {other.url}"]
        recall = results.loc["Anomaly Detection: recall"]
        assert recall[f"one at {stub.url}"] != recall[f"two at {other.url}"]
        assert re.fullmatch(r"\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\).*", recall[f"one at {stub.url}"])
    assert "two at" in told


def test_pictures_of_a_line_are_not_sent_to_another_machine_without_its_plans_leave(vad: Vad, stub: Stub) -> None:
    refused = vad("describe", "evaluate", "grass", "--ask", "m@http://192.0.2.1/v1")
    assert refused.exit_code == 1
    assert "allow_images_to_leave: true" in refused.output
    told = vad("describe", "evaluate", "grass", "--allow-images-to-leave", "--ask", "m@http://192.0.2.1/v1")
    assert "allow_images_to_leave: true" in told.output
    assert stub.asked == []


def test_a_copy_of_mmad_is_asked_without_a_line(vad: Vad, stub: Stub, tmp_path: Path) -> None:
    write_mmad(tmp_path / "mmad", MMAD)
    stub.script = lambda body: Turn("B")
    told = output_of(vad("describe", "evaluate", "--mmad", tmp_path / "mmad", "--out", tmp_path / "out"))
    assert "| Defect Description: accuracy | 0.250 | 0.000" in told
    assert "Name a line, or give --mmad" in vad("describe", "evaluate").output


def test_an_endpoint_that_is_not_there_ends_it_with_the_reason(vad: Vad, stub: Stub) -> None:
    stub.script = lambda body: Turn(status=503)
    refused = vad("describe", "evaluate", "grass")
    assert refused.exit_code == 1
    assert "status 503" in refused.output
    assert "Traceback" not in refused.output


@pytest.mark.spec("P4.01")
def test_prompts_are_learnt_on_a_line_and_the_local_model_is_asked_and_measured_with_them(
    vad: Vad, tiny_vlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "LONGEST_ANSWER", 4)
    monkeypatch.setitem(training.PRESETS, "15-8", training.Preset(1, 8))
    assert "there are 15-8, 15-16, 20-16" in vad(*words(tiny_vlm), "--preset", "1-1").output
    told = output_of(vad(*words(tiny_vlm), "--size", 56))
    assert "Prompts for tiny-vlm" in told
    assert "name the right place" in told
    folder = Home.from_environment().line("grass").folder / "prompter"
    assert (folder / "model.safetensors").is_file()
    image = tmp_path / "grass" / "dent" / "0.png"
    output_of(vad("describe", "ask-local", "grass", image, "--model", tiny_vlm, "--question", "What is it?"))
    evaluated = ("describe", "evaluate", "grass", "--images", 2, "--model", tiny_vlm, "--out", tmp_path / "out")
    assert "tiny-vlm with learnt prompts" in output_of(vad(*evaluated))


def words(model: Path) -> tuple[object, ...]:
    return ("describe", "train-prompter", "grass", "--model", model)


@pytest.mark.slow
def test_a_real_server_is_measured(
    vad: Vad, vlm_server: VlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model of random numbers says is hardly ever an option, and is counted so."""
    monkeypatch.setattr(words_evaluation, "REPLY_TOKENS", 16)
    asked = f"{vlm_server.model}@{vlm_server.base_url}"
    out = tmp_path / "out"
    output_of(vad("describe", "evaluate", "grass", "--ask", asked, "--images", 4, "--out", out))
    results = pd.read_csv(out / "results.csv").set_index("figure").iloc[:, -1]
    assert results["questions without a reply"].startswith("0.000")
    assert results["Anomaly Detection: accuracy"].endswith("n 4")
