"""The published sample, and the oddities of hand-written files."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_texts import plan_text

from vad_lib.errors import PlanError
from vad_lib.plan import ExperimentalPlan, model_parameters, parse_plan, read_plan

GUIDE_STEPS = """
user_parameters:
→- train_pipeline:
→→- step: input
→→  args:
→→→- file_type: csv
→→- step: train
→→  args:
→→→- model_name: patchcore
→→→  batch_size: 8
""".replace("→", "\t")


@pytest.mark.spec("V1.01", "V1.02", "V13.01", "V13.04", "V13.05", "V13.06", "V13.08")
def test_the_published_sample_parses_unchanged(shared_data: Path) -> None:
    plan = read_plan(shared_data / "vad_sample" / "experimental_plan.yaml")

    assert plan.name == "VAD"
    assert plan.train.model_name == "fastflow"
    assert plan.train.percentile == 0.99
    assert plan.train.monitor_metric == "loss"
    assert plan.readiness.threshold_method == "Percentile"
    assert plan.inference.inference_threshold == 0.5
    assert (plan.input.path_column, plan.input.y_column) == ("image_path", "label")
    assert plan.ui_args == {"model_name"}
    assert plan.ui_args_detail[0].selectable == ("fastflow", "patchcore")
    assert plan.given["train.percentile"] == "line 30"
    assert any("asset_source (line 52)" in notice for notice in plan.notices)
    assert plan.train_data_folder() == shared_data.resolve() / "vad_sample" / "sample_data" / "train"
    assert plan.inference_data_folder().name == "inference"


@pytest.mark.parametrize(
    "train",
    [
        "",  # nothing
        "null",
        "~",
        "[]",
        "{}",
        "[none: ]",
        "none",
        "[{batch_size: }]",  # null is the default
        "[{batch_size: ~}, {max_epochs: null}]",
        "{batch_size: '', augmentation_list: }",
        "{model_parameters: }",
        "{model_parameters: {fastflow_flow_steps: }}",
    ],
)
def test_nothing_and_null_mean_the_defaults(train: str) -> None:
    plan = parse_plan(plan_text(train))
    assert plan == ExperimentalPlan()
    assert not any(key.startswith("train.") for key in plan.given)


@pytest.mark.parametrize(
    "train",
    [
        "{batch_size: 8, max_epochs: 2}",
        "[{batch_size: 8, max_epochs: 2}]",
        "[{batch_size: 8}, {max_epochs: 2}]",
        "[{batch_size: '8'}, {max_epochs: \"2\"}]",  # numbers as strings
        "[{“batch_size”: “8”, ‘max_epochs’: 2}]",
        "[none: , batch_size: 8, max_epochs: 2]",
    ],
)
def test_one_map_and_lists_of_maps_are_the_same(train: str) -> None:
    arguments = parse_plan(plan_text(train)).train
    assert (arguments.batch_size, arguments.max_epochs) == (8, 2)


@pytest.mark.parametrize("quotes", ["“”‘’", "„“‚‘", "««»»", "\"\"''"])
@pytest.mark.spec("V14.29", "V14.30")
def test_typographic_quotes_in_a_flow_map_are_read_as_plain_ones(quotes: str) -> None:
    a, b, c, d = quotes
    written = (
        f"{{{a}fastflow_backborn{b}: {c}wide_resnet50_2{d}, {a}patchcore_layers{b}: [{a}layer1{b}, {a}layer2{b}]}}"
    )
    plan = parse_plan(plan_text(f"{{model_parameters: {written}}}"))
    expected = model_parameters(fastflow_backbone="wide_resnet50_2", patchcore_layers=("layer1", "layer2"))
    assert plan.train.model_parameters == expected


def test_typographic_quotes_without_a_space_after_the_colon_are_understood() -> None:
    plan = parse_plan(plan_text("{model_parameters: {“fastflow_backborn”:‘wide_resnet50_2’}}"))
    assert plan.train.model_parameters.fastflow_backbone == "wide_resnet50_2"
    assert any("typographic" in notice for notice in plan.notices)


def test_quotes_that_belong_to_a_label_stay() -> None:
    assert parse_plan(plan_text(readiness="{ok_class: '“good”'}")).readiness.ok_class == "“good”"


@pytest.mark.parametrize(
    "label", ["No", "yes", "off", "007", "1e3", "0x1F", "2024-01-01", "none", "1:30", "1_000", "~x"]
)
@pytest.mark.spec("V2.03", "V14.03")
def test_a_label_stays_the_text_that_was_written(label: str) -> None:
    """YAML 1.1 reads No as false, 007 as 7 and 1:30 as 90: none of these would be found in the table."""
    assert parse_plan(plan_text(readiness=f"{{ok_class: {label}}}")).readiness.ok_class == label


@pytest.mark.parametrize(("word", "value"), [("True", True), ("'False'", False), ("“True”", True), ("no", False)])
def test_bools_are_read_from_words(word: str, value: bool) -> None:
    assert parse_plan(plan_text(inference=f"{{save_anomaly_maps: {word}}}")).inference.save_anomaly_maps is value


@pytest.mark.spec("V8.06", "V14.04", "V14.30", "V14.33")
def test_other_spellings_are_accepted_with_a_notice() -> None:
    text = plan_text(
        "{model_parameters: {fastflow_backborn: wide_resnet50_2, patchcore_backborn: resnet18}}",
        readiness="{train_validation_column: phase}",
    )
    plan = parse_plan(text)
    assert plan.readiness.train_validate_column == "phase"
    assert plan.train.model_parameters.patchcore_backbone == "resnet18"
    assert plan.train.model_parameters.fastflow_backbone == "wide_resnet50_2"
    for alias in ("train_validation_column", "fastflow_backborn", "patchcore_backborn"):
        assert any(f"{alias} was read as" in notice for notice in plan.notices)


def test_both_spellings_at_once_are_refused() -> None:
    text = plan_text(readiness="{train_validation_column: a, train_validate_column: b}")
    with pytest.raises(PlanError, match="means the same as train_validation_column in line"):
        parse_plan(text)


def test_tabs_in_the_indentation_are_read_with_a_notice() -> None:
    plan = parse_plan(GUIDE_STEPS)
    assert (plan.train.model_name, plan.train.batch_size) == ("patchcore", 8)
    assert any("line 3: tabs" in notice for notice in plan.notices)


def test_tabs_that_hide_a_fault_are_named_with_their_line() -> None:
    with pytest.raises(PlanError, match=r"begins in line 5(.|\n)*the first is in line 2"):
        parse_plan("a:\n\tb: 1\n\tc: 2\nd:\n  e: {1\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_breaks_nothing(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "experimental_plan.yaml"
    file.write_bytes(plan_text(readiness="{ok_class: gut_ä}").encode(encoding))
    assert read_plan(file).readiness.ok_class == "gut_ä"


def test_windows_line_ends_and_anchors_are_read() -> None:
    text = plan_text("{<<: *sizes, max_epochs: 3}", readiness="&sizes {}").replace("\n", "\r\n")
    assert parse_plan(text).train.max_epochs == 3
    shared = "control: &sizes {batch_size: 9, max_epochs: 1}"
    plan = parse_plan(plan_text("{<<: *sizes, max_epochs: 3}", sections=shared))
    assert (plan.train.batch_size, plan.train.max_epochs) == (9, 3)  # what is written wins over what is merged


@pytest.mark.parametrize("written", ["[256, 320]", "'[256,320]'", "256x320", r"\[256,320\]", "(256 320)"])
@pytest.mark.spec("V14.11")
def test_a_pair_of_sizes_may_be_written_in_many_ways(written: str) -> None:
    flow = f'"{written}"'.replace("\\", "\\\\") if written[0] in "(\\2" else written
    plan = parse_plan(plan_text(f"{{model_name: patchcore, img_size: {flow}}}"))
    assert plan.train.img_size == (256, 320)


@pytest.mark.spec("V14.11", "V4.16")
def test_one_number_is_the_shorter_side() -> None:
    assert parse_plan(plan_text("{model_name: patchcore, img_size: 300}")).train.img_size == 300


@pytest.mark.parametrize(
    ("backbone", "asked", "side"),
    [
        ("resnet18", "[320, 256]", 256),
        ("resnet18", "256", 256),
        ("wide_resnet50_2", "512", 256),
        ("cait_m48_448", "[256, 256]", 448),
        ("deit_base_distilled_patch16_384", "", 384),
    ],
)
@pytest.mark.spec("V4.15", "V14.31")
def test_fastflow_takes_the_square_of_its_backbone_and_says_so(backbone: str, asked: str, side: int) -> None:
    plan = parse_plan(plan_text(f"{{img_size: {asked}, model_parameters: {{fastflow_backbone: {backbone}}}}}"))
    assert plan.train.img_size == (side, side)
    assert plan.changes[0].argument == "img_size"
    assert any(f"takes images of {side} x {side} pixels only" in notice for notice in plan.notices)


@pytest.mark.spec("V4.15")
def test_the_guides_own_size_changes_nothing() -> None:
    plan = parse_plan(plan_text("{model_name: fastflow}"))
    assert plan.changes == ()
    assert plan.notices == ()


@pytest.mark.spec("V14.20")
def test_more_augmentations_than_listed_are_capped_with_a_notice() -> None:
    plan = parse_plan(plan_text("{augmentation_list: [blur, hue], augmentation_choice: 5}"))
    assert plan.train.augmentation_choice == 2
    assert plan.train_as_written.augmentation_choice == 5
    assert any("augmentation_choice: 5 became 2" in notice for notice in plan.notices)


def test_a_missing_step_and_another_order_are_noticed() -> None:
    plan = parse_plan("user_parameters:\n- train_pipeline:\n  - step: train\n  - step: readiness\n  - step: input\n")
    assert any("inference_pipeline does not name input, readiness" in notice for notice in plan.notices)
    assert any("run in this order: input, readiness, train" in notice for notice in plan.notices)


def test_columns_of_training_are_not_silently_those_of_inference() -> None:
    plan = parse_plan(plan_text(input_="{path_column: file}"))
    assert plan.inference_input.path_column == "image_path"
    assert any("path_column is given for train_pipeline only" in notice for notice in plan.notices)


def test_the_own_section_operation_is_read() -> None:
    for section in (
        "operation: {max_batch_images: 32, owners: [team:paint, a@plant.org]}",
        "operation:\n- max_batch_images: 32\n- owners: team:paint, a@plant.org",
    ):
        operation = parse_plan(plan_text(sections=section)).operation
        assert operation.max_batch_images == 32
        assert operation.owners == ("team:paint", "a@plant.org")
        assert operation.settle_seconds == 2.0


PUBLISHED = """
external_path:
    - load_train_data_path: ./solution/sample_data/train/
    - load_inference_data_path: ./solution/sample_data/test/
    - save_train_artifacts_path:
    - save_inference_artifacts_path:
    - load_model_path: ./models/
user_parameters:
    - train_pipeline:
        - step: input
          args:
            - file_type: csv
              encoding: utf-8
          ui_args:
        - step: readiness
          args:
            - ok_class: ‘good’
              path_column: ‘file’
              y_column: “kind”
              train_validate_column: “phase”
              validation_split_rate: 0.1
              threshold_method: “F1”
              num_minor_threshold: 5
              ratio_minor_threshold: 0.1
        - step: train
          args:
            - model_name: ‘patchcore’
              monitor_metric: “image_AUROC”
              model_parameters: {“fastflow_backborn”: ‘resnet18’, “patchcore_backborn”: ‘resnet18’}
          ui_args:
            - batch_size
            - max_epochs
            - percentile
    - inference_pipeline:
        - step: input
          args:
            - file_type: csv
        - step: readiness
          args:
            - path_column: ‘file’
              y_column: “kind”
        - step: inference
          args:
            - inference_threshold: 0.5
        - step: output
          args:
"""


def test_the_published_plan_with_every_argument_is_read_and_each_kind_of_notice_is_told_once() -> None:
    plan = parse_plan(PUBLISHED)
    for arguments in (plan.input, plan.inference_input):
        assert (arguments.path_column, arguments.y_column) == ("file", "kind")
    assert (plan.readiness.ok_class, plan.readiness.train_validate_column) == ("good", "phase")
    assert (plan.train.model_name, plan.train.model_parameters.patchcore_backbone) == ("patchcore", "resnet18")
    kinds = (
        "arguments of the step input",
        "typographic quotes",
        "load_model_path",
        "was read as patchcore",
    )
    for kind in kinds:
        assert sum(kind in notice for notice in plan.notices) == 1, plan.notices
    moved = next(notice for notice in plan.notices if "step input" in notice)
    assert moved == "lines 18, 19, 40, 41: read as arguments of the step input: path_column, y_column."
    operator = [notice for notice in plan.notices if "an operator may change" in notice]
    assert len(operator) == 1
    assert "batch_size, max_epochs, percentile" in operator[0]


def test_a_column_under_readiness_that_contradicts_the_step_input_is_refused() -> None:
    text = plan_text(input_="{y_column: label}", readiness="{y_column: kind}")
    with pytest.raises(PlanError, match=r"readiness > y_column\s+The step input gives another one \('label'\)"):
        parse_plan(text)
    assert parse_plan(text.replace("kind", "label")).input.y_column == "label"
