"""The gate of a line: asked when there is something new, refused to all by the plan, and a way back by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from gravel_line import PLAN, failure, make_line, metadata, own_home, run
from sqlalchemy import delete, insert, select
from typer.testing import CliRunner

from vad_dagster.cli.app import app
from vad_dagster.io_manager import store_folder
from vad_dagster.registry import CHALLENGER, GATE, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.sensors.gate import fallen_agreement, waiting_challengers
from vad_dagster.sensors.serving import serving_versions
from vad_dagster.service.champions import ChampionSource
from vad_dagster.values import ChampionOnRows, ChampionRecord, ModelEvaluation
from vad_lib.detectors.storage import description_text
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.audit import Actor
from vad_lib.inspection_db.labels import record_label
from vad_lib.inspection_db.schema import labels, notices, predictions, shadow_predictions
from vad_lib.lines import Home, Line
from vad_lib.metrics import evaluate

OLD, NEW = "vad-gravel/1", "vad-gravel/2"
GOOD = evaluate([0.1, 0.2, 0.8, 0.9], [False, False, True, True], ["OK", "OK", "NG", "NG"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line with two registered versions, whose model folders are never loaded."""
    folder = tmp_path_factory.mktemp("gate")
    model = folder / "inspection_model"
    model.mkdir()
    (model / "detector.json").write_text(description_text({}))
    with own_home(folder / "home") as home:
        line = make_line(home, normal=1, scratched=0)
        tracking = MLflowTracking()
        registry = LineRegistry(tracking, "gravel")
        for _ in range(2):
            with tracking.run("gravel", name="test") as opened:
                registry.register(model, run_id=opened.run_id, tags={}, description="x", example_image=None)
        yield line


@pytest.fixture
def line(made: Line) -> Line:
    """Version 1 serves, version 2 is evaluated and waits; nothing was decided or said."""
    registry = LineRegistry(MLflowTracking(), "gravel")
    registry.promote(registry.version(1), by="rule: first_version")
    client = MLflowTracking().connect()
    client.set_registered_model_alias("vad-gravel", CHALLENGER, "2")
    client.set_registered_model_tag("vad-gravel", GATE, "waiting 2")
    for number in ("1", "2"):
        client.delete_model_version_tag("vad-gravel", number, "taken_back")
    for alias in ("previous",):
        client.delete_registered_model_alias("vad-gravel", alias)
    db = InspectionDatabase.from_environment()
    with db.writing() as connection:
        for table in (labels, notices, shadow_predictions, predictions):
            connection.execute(delete(table))
    champion = ChampionOnRows(version="1", label=OLD, evaluation=GOOD, beside="Rows were compared.")
    folder = store_folder("gravel", "model_evaluation")
    folder.mkdir(parents=True, exist_ok=True)
    ModelEvaluation(version="2", evaluation=GOOD, champion=champion).save(folder)
    return made


@pytest.fixture
def instance(line: Line) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        ephemeral.add_dynamic_partitions("line", ["gravel"])
        yield ephemeral


def plan_says(line: Line, **arguments: object) -> None:
    line.plan_file.write_text(PLAN + "operation:\n" + "".join(f"  {name}: {is_}\n" for name, is_ in arguments.items()))


def inspected(both: str, people: str | None, count: int, *, champion: str = OLD, other: str = NEW) -> None:
    """Record so many live images: what champion and the other version say (as in 'OK NG'), and what people say."""
    db = InspectionDatabase.from_environment()
    first, (decided, shadowed) = db.count_predictions("gravel"), both.split()
    for number in range(first, first + count):
        row = {
            "line": "gravel", "sha256": f"{number:064x}", "model_version": champion, "path": f"/{number}.png",
            "raw_score": 1.0, "p": 0.5, "certainty": 0.5, "predicted": decided, "threshold": 1.0,
            "threshold_version": "1", "inference_threshold": 0.5, "source": "online", "created_at": utc_now(),
        }  # fmt: skip
        with db.writing() as connection:
            made = insert(predictions).values(row).returning(predictions.c.prediction_id)
            prediction = int(connection.execute(made).scalar_one())
            kept = {name: row[name] for name in ("line", "sha256", "raw_score", "p", "threshold", "created_at")}
            values = {**kept, "model_version": other, "prediction_id": prediction, "sampled": True, "seconds": 0.1}
            connection.execute(insert(shadow_predictions).values(**values, predicted=shadowed))
        if people:
            record_label(db, prediction, people, by=Actor("Kim"))  # type: ignore[arg-type]


def asked(instance: dg.DagsterInstance) -> list[dg.RunRequest] | str:
    """Return what the sensor wants to run, or why it wants nothing."""
    context = dg.build_sensor_context(instance, resources={"tracking": MLflowTracking()})
    found = waiting_challengers(context)
    return str(found.skip_message) if isinstance(found, dg.SkipReason) else list(found)  # type: ignore[arg-type]


def taken_back(instance: dg.DagsterInstance) -> dg.SensorResult:
    context = dg.build_sensor_context(instance, resources={"tracking": MLflowTracking()})
    found = fallen_agreement(context)
    assert isinstance(found, dg.SensorResult)
    return found


def told() -> list[str]:
    """Return what people are told."""
    db = InspectionDatabase.from_environment()
    return list(db.table(select(notices.c.text))["text"])


def serving() -> str:
    return LineRegistry(MLflowTracking(), "gravel").champion().number


@pytest.mark.spec("L4.04")
def test_the_gate_is_asked_once_for_each_step_of_evidence(line: Line, instance: dg.DagsterInstance) -> None:
    plan_says(line, promotion="automatic", gate_least_judged=4)
    assert "0 judged and 0 other live images" in str(asked(instance))
    inspected("OK OK", "OK", 4)
    (first,) = asked(instance)
    assert isinstance(first, dg.RunRequest)
    inspected("OK OK", "OK", 2)
    (same,) = asked(instance)
    inspected("OK OK", "OK", 2)
    (later,) = asked(instance)
    keys = [one.run_key for one in (first, same, later) if isinstance(one, dg.RunRequest)]
    assert keys[0] == keys[1] != keys[2]
    plan_says(line, promotion="never")
    assert asked(instance) == "gravel: its plan says promotion: never"


def test_without_labels_a_person_is_shown_once_how_the_challenger_differs(
    line: Line, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_dagster.sensors.gate.MANY_SHADOWED", 5)
    plan_says(line, promotion="by_person")
    inspected("OK NG", None, 5)
    (request,) = asked(instance)
    assert isinstance(request, dg.RunRequest)
    result = run(instance, "gate_line")
    assert result.success, failure(result)
    why = metadata(result, "champion_model")["why"]
    assert "The plan leaves promotion to a person" in why
    assert "Rows were compared." in why
    assert "Of 5 live images at random both say the same on 0" in why
    assert run(instance, "gate_line").success
    assert told() == [f"vad-gravel/2: {why}"], "once"
    assert why in LineRegistry(MLflowTracking(), "gravel").version(2).description
    assert serving() == "1"


@pytest.mark.parametrize(
    ("said", "rule", "number", "gate"),
    [
        ([("OK NG", "NG", 3), ("OK OK", "OK", 2)], "promoted", "2", None),
        ([("OK NG", "NG", 3)], "3 are", "1", "waiting"),
        ([("OK NG", "OK", 8)], "It is worse on judged live images", "1", "refused"),
    ],
)
def test_the_gate_decides_by_what_people_say_about_live_images(
    line: Line,
    instance: dg.DagsterInstance,
    said: list[tuple[str, str, int]],
    rule: str,
    number: str,
    gate: str | None,
) -> None:
    plan_says(line, promotion="automatic", gate_least_judged=5)
    for one in said:
        inspected(*one)
    result = run(instance, "gate_line")
    assert result.success, failure(result)
    assert serving() == number
    page = metadata(result, "champion_model")
    assert rule in page["why"] or page["promoted"]
    source = ChampionSource(Home.from_environment())
    shadow = source.watched()["gravel"].shadow
    assert shadow is not None
    assert (shadow.version, shadow.share) == (NEW if number == "1" else OLD, 0.2)
    assert shadow.gate == (gate or "promoted")
    assert shadow.stored_bytes > 0


@pytest.mark.spec("L4.03")
def test_where_the_plan_says_never_no_person_promotes_either_but_may_go_back(
    line: Line, instance: dg.DagsterInstance
) -> None:
    plan_says(line, promotion="never")
    answer = CliRunner().invoke(app, ["model", "promote", "gravel", "2"])
    assert "says promotion: never" in str(answer.exception) + answer.output
    result = run(instance, "promote_line", {"champion_model": {"promote_version": "2", "decided_by": "Kim"}})
    assert "says promotion: never" in failure(result)
    assert serving() == "1"
    registry = LineRegistry(MLflowTracking(), "gravel")
    registry.promote(registry.version(2), by="person: Kim")
    assert CliRunner().invoke(app, ["model", "rollback", "gravel"]).exit_code == 0
    assert serving() == "1"


def promoted(line: Line, **arguments: object) -> None:
    """Let version 2 serve after version 1."""
    plan_says(line, **arguments)
    registry = LineRegistry(MLflowTracking(), "gravel")
    registry.promote(registry.version(2), by="person: Kim")


@pytest.mark.spec("L4.05")
def test_a_version_with_which_people_agree_too_seldom_goes_back_once_and_stays_back(
    line: Line, instance: dg.DagsterInstance
) -> None:
    promoted(line, promotion="automatic", gate_least_judged=0, rollback_below=0.8)
    inspected("NG OK", "OK", 6, champion=NEW, other=OLD)
    inspected("OK OK", "OK", 10, champion=NEW, other=OLD)
    assert "people agree with 10 of 16 images" in str(taken_back(instance).skip_reason), "it may be chance"
    inspected("NG OK", "OK", 6, champion=NEW, other=OLD)
    (event,) = taken_back(instance).asset_events
    assert event.metadata["by"].value == "rule: fallen_agreement"
    assert serving() == "1"
    registry = LineRegistry(MLflowTracking(), "gravel")
    (notice,) = told()
    assert notice.startswith("vad-gravel/2 was taken back. People and it say the same on 10 of 22 images")
    assert "People and it say the same on 10 of 22 images" in registry.version(2).description
    assert ChampionRecord.load(store_folder("gravel", "champion_model")).decision.rule == "fallen_agreement"
    context = dg.build_sensor_context(instance, resources={"tracking": MLflowTracking()})
    moved = serving_versions(context)
    assert "as recorded" in str(moved.skip_reason)  # type: ignore[union-attr]
    assert "was taken back itself" in str(taken_back(instance).skip_reason)
    result = run(instance, "gate_line")
    assert result.success, failure(result)
    assert "It was taken back: People and it say the same" in metadata(result, "champion_model")["why"]
    assert serving() == "1"


def test_without_labels_a_version_goes_back_only_where_the_plan_asks_for_that(
    line: Line, instance: dg.DagsterInstance
) -> None:
    promoted(line, rollback_below=0.8)
    inspected("NG OK", None, 20, champion=NEW, other=OLD)
    assert not taken_back(instance).asset_events
    plan_says(line, rollback_below=0.8, rollback_without_labels=True)
    (event,) = taken_back(instance).asset_events
    assert "Version 1 and it say the same on 0 of 20 images" in str(event.metadata["why"].value)


def test_the_command_compares_versions_and_lists_the_images_on_which_they_differ(line: Line) -> None:
    plan_says(line, promotion="by_person")
    inspected("OK NG", "NG", 2)
    inspected("OK OK", None, 3)
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["model", "compare", "gravel"])
    assert answer.exit_code == 0, answer.output
    said = " ".join(answer.output.split())
    assert "vad-gravel/1 (champion) beside vad-gravel/2 (challenger)" in said
    assert "Of 5 live images at random both say the same on 3" in said
    assert "the challenger is right on 2" in said
    assert "/1.png" in said
    assert "/4.png" not in said
    turned = CliRunner().invoke(app, ["model", "compare", "gravel", "1", "--champion", "2", "--images", "0"])
    assert "vad-gravel/2 (champion) beside vad-gravel/1" in " ".join(turned.output.split())


def test_no_version_scores_beside_the_champion_where_the_plan_gives_it_no_share(line: Line, tmp_path: Path) -> None:
    plan_says(line, shadow_share=0)
    assert ChampionSource(Home.from_environment()).watched()["gravel"].shadow is None
