"""What an operator may change, and how it is recorded."""

from __future__ import annotations

import pytest
from plan_texts import plan_text

from vad_lib.detectors.registry import detector_names
from vad_lib.errors import PlanError
from vad_lib.plan import explain, parse_plan

pytestmark = pytest.mark.spec("V13.07")


def test_a_value_of_an_operator_wins_and_is_recorded() -> None:
    plan = parse_plan(plan_text("{model_name: fastflow, img_size: [320, 320]}", ui="[model_name]"))
    assert plan.train.img_size == (256, 256)

    changed = plan.with_operator_arguments("train", {"model_name": "patchcore"})

    assert changed.train.model_name == "patchcore"
    assert changed.train.img_size == (320, 320)  # what the plan asked for is in force again
    assert changed.changes == ()
    assert not any("img_size" in notice for notice in changed.notices)
    assert changed.operator_given == {"train.model_name": "patchcore"}
    assert changed != plan
    row = explain(changed).query("step == 'train' and argument == 'model_name'").iloc[0]
    assert (row["value"], row["source"], row["default"], row["ui"]) == ("patchcore", "operator", "fastflow", True)
    assert plan.train.model_name == "fastflow"


def test_an_argument_beyond_the_guides_may_be_listed_and_is_noticed() -> None:
    plan = parse_plan(plan_text(ui="[batch_size, img_size]"))
    assert any("batch_size" in notice and "the guide does not foresee" in notice for notice in plan.notices)
    assert plan.with_operator_arguments("train", {"batch_size": 8, "img_size": [256]}).train.batch_size == 8


def test_a_copy_with_other_paths_is_another_plan() -> None:
    plan = parse_plan(plan_text())
    before = plan.digest
    copy = plan.model_copy(update={"paths": plan.paths.model_copy(update={"train_data": "elsewhere"})})
    assert copy.digest != before
    assert copy != plan


def test_nothing_given_changes_nothing() -> None:
    plan = parse_plan(plan_text(ui="[model_name]"))
    assert plan.with_operator_arguments("train", {"model_name": None, "batch_size": None}) == plan


@pytest.mark.parametrize(
    ("step", "values", "said"),
    [
        ("train", {"batch_size": 8}, "the plan lists under ui_args: model_name"),
        ("train", {"modle_name": "patchcore"}, "Did you mean model_name?"),
        ("train", {"model_name": "padim"}, f"it must be {', '.join(detector_names()[:-1])} or {detector_names()[-1]}"),
        ("readiness", {"ok_class": "good"}, "An operator may not change it"),
        ("trian", {"model_name": "patchcore"}, "Did you mean train?"),
    ],
)
def test_what_an_operator_may_not_do_is_refused_with_advice(step: str, values: dict[str, object], said: str) -> None:
    plan = parse_plan(plan_text(ui="[model_name]"))
    with pytest.raises(PlanError) as caught:
        plan.with_operator_arguments(step, values)
    assert said in " ".join(str(caught.value).split())


@pytest.mark.spec("V13.08")
def test_only_what_the_plan_lets_select_can_be_selected() -> None:
    detail = "ui_args_detail: [{train_pipeline: [{step: train, args: [{name: model_name, selectable: [patchcore]}]}]}]"
    plan = parse_plan(plan_text("{model_name: patchcore}", sections=detail, ui="[model_name]"))
    with pytest.raises(PlanError, match="not among what the plan lets select: patchcore"):
        plan.with_operator_arguments("train", {"model_name": "fastflow"})


def test_all_refusals_come_in_one_message() -> None:
    plan = parse_plan(plan_text())
    with pytest.raises(PlanError, match="2 faults"):
        plan.with_operator_arguments("train", {"model_name": "patchcore", "batch_size": 3})
