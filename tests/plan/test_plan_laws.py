"""What holds for every plan, not only for the ones that somebody thought of."""

from __future__ import annotations

import random
from string import ascii_lowercase
from typing import Any, get_args, get_origin

import annotated_types
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vad_lib.argument_fields import Arguments, choices, limits
from vad_lib.detectors.registry import find_detector, parameters_model
from vad_lib.errors import PlanError
from vad_lib.plan import (
    ExperimentalPlan,
    ExternalPath,
    InferenceArguments,
    InputArguments,
    OperationArguments,
    OutputArguments,
    ReadinessArguments,
    TrainArguments,
    UiArgumentDetail,
    dump_plan,
    explain,
    parse_plan,
)
from vad_lib.plan.arguments import LARGEST_SIDE, SMALLEST_SIDE, Augmentation
from vad_lib.plan.folders import holds_escapes
from vad_lib.plan.stages import OPERATION, STAGES

# No surrogates (they are no text) and no control characters (YAML has none, not even quoted by hand).
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
paths = words.map(str.strip).filter(
    lambda path: not (path.lower().endswith((".csv", ".tsv", ".txt", ".json")) or holds_escapes(path))
)
sides = st.integers(SMALLEST_SIDE, LARGEST_SIDE)
# Not by a regular expression: hypothesis takes seconds to find out which letters of Unicode it may draw.
layers = st.builds("{}{}".format, st.text(ascii_lowercase + "_.", min_size=1, max_size=5), st.integers(0, 9))
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "encoding": st.sampled_from(["utf-8", "cp949", "latin-1"]),
    "img_size": sides | st.tuples(sides, sides),
    "augmentation_list": st.lists(st.sampled_from(get_args(Augmentation)), unique=True).map(tuple),
    "patchcore_layers": st.lists(layers, min_size=1, max_size=3, unique=True).map(tuple),
    "anomalyclip_levels": st.lists(st.integers(1, 48), min_size=1, max_size=3, unique=True).map(tuple),
    **dict.fromkeys(
        ("winclip_normal_states", "winclip_abnormal_states", "winclip_templates"),
        st.lists(st.sampled_from(["{}", "a fine {}.", "{}: torn"]), min_size=1, unique=True).map(tuple),
    ),
    "notify": st.lists(st.sampled_from(["ng to a", "drift, gate to b every 0"]), unique=True).map(tuple),
    "owners": st.lists(st.sampled_from(["team:paint", "a@plant.org", "team:b-c"]), unique=True).map(tuple),
    "watch_folder": paths,
    "ignored_suffixes": st.lists(st.sampled_from([".xml", ".json", ".tar.gz"]), unique=True).map(tuple),
}


LISTS: dict[Any, st.SearchStrategy[Any]] = {
    tuple[str, ...]: st.lists(
        st.sampled_from(["layer2", "blocks.3", "_1", "0x1", "null"]), min_size=1, unique=True
    ).map(tuple),
    tuple[int, ...]: st.lists(st.integers(1, 24), min_size=1, max_size=3, unique=True).map(tuple),
}
"""By the type of an argument that is a list of anything."""


def models(model: type[Arguments]) -> st.SearchStrategy[Any]:
    """Draw instances of an arguments model from its own declared limits."""
    fields = {}
    for name, field in model.model_fields.items():
        low, high = limits(field)
        if name == "model_parameters":
            strategy: st.SearchStrategy[Any] = models(parameters_model())
        elif name in SPECIAL:
            strategy = SPECIAL[name]
        elif choices(field):
            strategy = st.sampled_from(choices(field))
        elif field.annotation in LISTS:
            strategy = LISTS[field.annotation]
        elif get_origin(field.annotation) is not None:
            strategy = st.sampled_from(get_args(field.annotation))
        elif field.annotation is bool:
            strategy = st.booleans()
        elif field.annotation is int:
            strategy = st.integers(int(low or 0), int(high) if high is not None else 10**6)
        elif field.annotation is float:
            top = high if high is not None else 1e6
            is_open = any(isinstance(limit, annotated_types.Lt) for limit in field.metadata)
            strategy = st.floats(low or 0, top, exclude_min=low == 0, exclude_max=top == 1 or is_open)
        else:
            strategy = words
        fields[name] = strategy
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: model(**values))


def with_a_precision_that_it_can(train: TrainArguments) -> TrainArguments:
    """Return float32 in place of a precision that the detector refuses, as no plan with it is read."""
    own = find_detector(train.model_name).own(train.model_parameters)
    return train.model_copy(update={"precision": "float32"}) if own.reason_against(train.precision) else train


plans = st.builds(
    lambda train, ui, **parts: ExperimentalPlan.assemble(train_as_written=train, ui_args=frozenset(ui), **parts),
    train=models(TrainArguments).map(with_a_precision_that_it_can),
    ui=st.sets(st.sampled_from(["ok_class", "model_name", "batch_size", "encoding", "inference_threshold"])),
    input=models(InputArguments),
    readiness=models(ReadinessArguments),
    inference_input=models(InputArguments),
    inference_readiness=models(ReadinessArguments),
    inference=models(InferenceArguments),
    output=st.just(OutputArguments()),
    operation=models(OperationArguments),
    paths=st.builds(ExternalPath, train_data=paths, inference_data=paths, save_train_artifacts=paths),
    ui_args_detail=st.lists(
        st.builds(
            UiArgumentDetail,
            step=st.just("train"),
            name=st.just("model_name"),
            description=words.map(str.strip),
            selectable=st.sampled_from([(), ("patchcore",), ("fastflow", "patchcore")]),
        ),
        max_size=1,
    ).map(tuple),
)
# Each example is a whole plan of some fifty arguments.
whole_plans = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@whole_plans
@given(plans, st.booleans())
def test_a_plan_that_is_written_is_read_back_as_the_same(plan: ExperimentalPlan, comments: bool) -> None:
    again = parse_plan(dump_plan(plan, comments=comments))
    assert again.resolved() == plan.resolved()
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.train_as_written == plan.train_as_written


@whole_plans
@given(plans, st.integers())
def test_the_order_of_keys_and_steps_does_not_matter(plan: ExperimentalPlan, seed: int) -> None:
    def shuffled(node: yaml.Node) -> None:
        for child in node.value if isinstance(node.value, list) else ():
            for part in child if isinstance(child, tuple) else (child,):
                shuffled(part)
        named = isinstance(node, yaml.SequenceNode) and any(isinstance(i, yaml.MappingNode) for i in node.value)
        if isinstance(node, yaml.MappingNode) or named:  # lists of plain values keep their order: it may mean something
            random.Random(seed).shuffle(node.value)

    root = yaml.compose(dump_plan(plan), Loader=yaml.SafeLoader)
    shuffled(root)
    assert parse_plan(yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True)) == plan


@whole_plans
@given(plans)
def test_explain_covers_every_argument_once(plan: ExperimentalPlan) -> None:
    table = explain(plan)
    keys = list(zip(table["step"], table["argument"], strict=True))
    assert len(set(keys)) == len(keys)
    for stage in (*STAGES, OPERATION):
        for name in stage.model.model_fields:
            if name == "model_parameters":
                assert all((stage.name, f"model_parameters.{own}") in keys for own in parameters_model().model_fields)
            else:
                assert (stage.name, name) in keys
    assert (table["meaning"].str.len() > 0).all()
    assert (table["allowed"].str.len() > 0).all()


@whole_plans
@given(plans, plans)
def test_plans_are_equal_only_if_all_that_is_in_force_is_equal(one: ExperimentalPlan, other: ExperimentalPlan) -> None:
    same = (
        one.resolved() == other.resolved()
        and one.ui_args == other.ui_args
        and one.ui_args_detail == other.ui_args_detail
    )
    assert (one == other) is same
    assert (one.digest == other.digest) is same


def plan_or_message(text: str) -> ExperimentalPlan | str:
    try:
        return parse_plan(text)
    except PlanError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"%#?, \n\t“”‘’<", max_size=40))
def test_whatever_text_gives_a_plan_or_a_plan_error(text: str) -> None:
    outcome = plan_or_message(text)
    assert isinstance(outcome, str) or outcome.resolved() == ExperimentalPlan().resolved()


tree_words = st.sampled_from(
    ["user_parameters", "train_pipeline", "step", "args", "ui_args", "train", "none", "batch_size", "model_parameters",
     "external_path", "load_train_data_path", "ui_args_detail", "name", "selectable", "operation", "owners", "x", "4"]
)  # fmt: skip
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | tree_words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tree_words, inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(tree_words, trees, max_size=3),
    st.fixed_dictionaries({"step": st.just("train")}, optional={"args": trees, "ui_args": trees}),
)
def test_whatever_structure_gives_a_plan_or_a_plan_error(sections: dict[str, Any], step: dict[str, Any]) -> None:
    for content in (sections, {**sections, "user_parameters": [{"train_pipeline": [step]}]}):
        outcome = plan_or_message(yaml.safe_dump(content))
        assert isinstance(outcome, ExperimentalPlan) or "cannot be used, it has" in outcome


@whole_plans
@given(plans, st.sampled_from(["fastflow", "patchcore"]))
@pytest.mark.spec("V13.07")
def test_an_operators_value_wins_and_nothing_else_changes(plan: ExperimentalPlan, model_name: str) -> None:
    selectable = [choice for detail in plan.ui_args_detail for choice in detail.selectable]
    if "model_name" not in plan.ui_args or (selectable and model_name not in selectable):
        with pytest.raises(PlanError):
            plan.with_operator_arguments("train", {"model_name": model_name})
        return
    changed = plan.with_operator_arguments("train", {"model_name": model_name})
    assert changed.train_as_written == plan.train_as_written.model_copy(update={"model_name": model_name})
    assert {k: v for k, v in changed.resolved().items() if k != "train"} == {
        k: v for k, v in plan.resolved().items() if k != "train"
    }
