"""Wrong plans: one message with every fault, its place, and what was meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from plan_texts import plan_text

from vad_lib.errors import PlanError
from vad_lib.plan import parse_plan, read_plan

EIGHT_FAULTS = """\
external_path:
    - load_train_data_path: ./data/train.csv
user_parameters:
    - train_pipeline:
        - step: input
          args:
            - threshold_method: F1
        - step: readiness
          args:
            - validation_split_rate: 10%
        - step: trian
        - step: train
          args:
            - model_name: fastflw
              percentile: 80
              batch_sise: 4
              hue_degree: 0.6
"""


def fault_of(text: str) -> str:
    with pytest.raises(PlanError) as caught:
        parse_plan(text)
    return str(caught.value)


@pytest.mark.spec("V13.02", "V13.09", "V13.10", "V14.18", "V14.25", "V4.02")
def test_one_message_lists_every_fault_with_its_line_and_the_nearest_name() -> None:
    message = fault_of(EIGHT_FAULTS)
    assert "it has 8 faults" in message
    lines = message.splitlines()
    places = [line for line in lines if line.startswith("  line ")]
    assert [place.split()[1] for place in places] == ["2", "7", "10", "11", "14", "15", "16", "17"]
    for expected in (
        "'./data/train.csv' is a file. Give the folder",
        "It belongs to step readiness of train_pipeline",
        "Did you mean 0.1?",
        "Did you mean train?",
        "Did you mean fastflow?",
        "Did you mean 0.8?",
        "Did you mean batch_size?",
        "from 0 to 0.5",
    ):
        assert expected in " ".join(message.split())
    assert max(map(len, lines)) <= 130


REFUSED = [  # (stage, argument, refused, accepted)
    pytest.param("input_", "file_type", ["xlsx", "[csv]"], ["csv"], marks=pytest.mark.spec("V14.01")),
    pytest.param(
        "input_", "encoding", ["utf-9", "base64"], ["utf-8", "cp949", "UTF8"], marks=pytest.mark.spec("V14.02")
    ),
    pytest.param("readiness", "ok_class", ["[good]", "{a: b}"], ["good", "0"], marks=pytest.mark.spec("V14.03")),
    pytest.param("readiness", "train_validate_column", ["[a]"], ["phase"], marks=pytest.mark.spec("V14.04")),
    pytest.param(
        "readiness", "validation_split_rate", ["0", "1", "-0.1", "x"], ["0.3"], marks=pytest.mark.spec("V14.05")
    ),
    pytest.param(
        "readiness", "threshold_method", ["f1", "Max"], ["F1", "Percentile"], marks=pytest.mark.spec("V14.06")
    ),
    pytest.param("readiness", "num_minor_threshold", ["-1", "1.5"], ["0", "7"], marks=pytest.mark.spec("V14.07")),
    pytest.param("readiness", "ratio_minor_threshold", ["-0.1", "1.1"], ["0", "1"], marks=pytest.mark.spec("V14.08")),
    pytest.param(
        "train", "model_name", ["padim", "FastFlow "], ["patchcore"], marks=pytest.mark.spec("V14.09", "V4.02")
    ),
    pytest.param("train", "experiment_seed", ["-1", "a", "4294967296"], ["0", "7"], marks=pytest.mark.spec("V14.10")),
    pytest.param(
        "train", "img_size", ["[[256]]", "[1, 2, 3]", "10", "[32, 4000]", "a"], ["64"], marks=pytest.mark.spec("V14.11")
    ),
    pytest.param("train", "batch_size", ["0", "true", "4.5", "-4"], ["1", "4.0"], marks=pytest.mark.spec("V14.13")),
    pytest.param("train", "max_epochs", ["0", "many"], ["1"], marks=pytest.mark.spec("V14.14")),
    pytest.param("train", "accelerator", ["cuda", "tpu"], ["cpu", "gpu"], marks=pytest.mark.spec("V14.15")),
    pytest.param("train", "monitor_metric", ["auroc"], ["loss", "image_F1Score"], marks=pytest.mark.spec("V14.16")),
    pytest.param("train", "save_validation_heatmap", ["2", "Ture"], ["True"], marks=pytest.mark.spec("V14.17")),
    pytest.param(
        "train", "percentile", ["80", "1.01", ".nan", ".inf"], ["0.99", "1"], marks=pytest.mark.spec("V14.18")
    ),
    pytest.param(
        "train", "augmentation_list", ["[rotate]", "[blur, blur]"], ["[blur]", "hue"], marks=pytest.mark.spec("V14.19")
    ),
    pytest.param("train", "augmentation_choice", ["-1"], ["0"], marks=pytest.mark.spec("V14.20")),
    pytest.param("train", "rotation_angle", ["-1", "181"], ["0", "180", "7.5"], marks=pytest.mark.spec("V14.21")),
    pytest.param("train", "brightness_degree", ["1.1"], ["1"], marks=pytest.mark.spec("V14.22")),
    pytest.param("train", "contrast_degree", ["-0.1"], ["0"], marks=pytest.mark.spec("V14.23")),
    pytest.param("train", "saturation_degree", ["2"], ["0.5"], marks=pytest.mark.spec("V14.24")),
    pytest.param("train", "hue_degree", ["0.51", "1"], ["0.5"], marks=pytest.mark.spec("V14.25")),
    pytest.param("train", "blur_kernel_size", ["256", "-1"], ["0", "255"], marks=pytest.mark.spec("V14.26")),
    pytest.param("train", "model_parameters", ["resnet18", "[[a]]"], ["{}"], marks=pytest.mark.spec("V14.29")),
    pytest.param("inference", "inference_threshold", ["12.5", "-1"], ["0.7"], marks=pytest.mark.spec("V14.36")),
    pytest.param("inference", "save_anomaly_maps", ["some"], ["True"], marks=pytest.mark.spec("V14.37")),
]


@pytest.mark.parametrize(("stage", "argument", "refused", "accepted"), REFUSED)
def test_the_limits_of_each_argument(stage: str, argument: str, refused: list[str], accepted: list[str]) -> None:
    for value in accepted:
        parse_plan(plan_text(**{stage: f"{{{argument}: {value}}}"}))
    for value in refused:
        message = fault_of(
            plan_text(**{stage: f"{{{argument}: '{value}'}}" if value[0] not in "[{" else f"{{{argument}: {value}}}"})
        )
        assert "one fault" in message
        assert f"> {argument}" in message


@pytest.mark.parametrize(
    ("parameter", "refused", "accepted"),
    [
        pytest.param("fastflow_backbone", "vgg16", "cait_m48_448", marks=pytest.mark.spec("V14.30")),
        pytest.param("fastflow_flow_steps", "0", "1", marks=pytest.mark.spec("V14.32")),
        pytest.param("patchcore_backbone", "[a]", "mobilenetv2_100", marks=pytest.mark.spec("V14.33")),
        pytest.param("patchcore_coreset_sampling_ratio", "0", "1", marks=pytest.mark.spec("V14.34")),
        pytest.param("patchcore_coreset_sampling_ratio", "1.5", "0.01", marks=pytest.mark.spec("V14.34")),
        pytest.param("patchcore_layers", "[]", "[layer1]", marks=pytest.mark.spec("V14.35")),
        pytest.param("patchcore_layers", "[layer1, layer1]", "layer1", marks=pytest.mark.spec("V14.35")),
        pytest.param("patchcore_layer", "[layer1]", None, marks=pytest.mark.spec("V14.29")),
    ],
)
def test_the_limits_of_each_model_parameter(parameter: str, refused: str, accepted: str | None) -> None:
    assert f"model_parameters > {parameter}" in fault_of(plan_text(f"{{model_parameters: {{{parameter}: {refused}}}}}"))
    if accepted:
        parse_plan(plan_text(f"{{model_parameters: {{{parameter}: {accepted}}}}}"))


@pytest.mark.parametrize(
    ("train", "advice"),
    [
        ("{Batch-Size: 4}", "Did you mean batch_size?"),
        ("{inference_threshold: 0.5}", "It belongs to step inference of inference_pipeline"),
        ("{ok_class: good}", "It belongs to step readiness of train_pipeline"),
        ("{treshold_method: F1}", "Did you mean threshold_method? That belongs to step readiness"),
        ("{fastflow_flow_steps: 4}", "It belongs to the map model_parameters"),
        ("{watch_folder: x}", "It belongs to the section operation"),
        ("{load_train_data_path: x}", "It belongs to the section external_path"),
        ("{zzzz: 1}", "takes model_name, experiment_seed"),
        ("[batch_size:4]", "Put a space after the colon"),
        ("{percentile: '0,8'}", "Did you mean 0.8?"),
        ("{percentile: 80}", "Did you mean 0.8?"),
        ("{hue_degree: 30}", "Did you mean 0.3?"),
        ("{monitor_metric: image_auroc}", "Did you mean image_AUROC?"),
        ("{augmentation_list: [rotate]}", "Did you mean rotation?"),
        ("{batch_size: 4, batch_size: 8}", "It is written twice in one map, first in line"),
        ("[{batch_size: 4}, {batch_size: 8}]", "It is given twice, first in line"),
        ("{batch_size: !!python/name:os.system 4}", "A plan has no tags"),
    ],
)
@pytest.mark.spec("V13.09", "V13.10")
def test_a_fault_says_what_was_meant(train: str, advice: str) -> None:
    assert advice in fault_of(plan_text(train))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("user_parameter:\n", "Did you mean user_parameters?"),
        ("train_pipeline:\n", "It belongs under user_parameters:"),
        ("load_train_data_path: x\n", "It belongs under external_path:"),
        ("user_parameters:\n- train_pipelin:\n", "Did you mean train_pipeline?"),
        ("user_parameters:\n- train_pipeline:\n  - step: trian\n", "Did you mean train?"),
        ("user_parameters:\n- train_pipeline:\n  - step: output\n", "This step belongs to inference_pipeline"),
        ("user_parameters:\n- train_pipeline:\n  - args: {batch_size: 4}\n", "has no 'step:'"),
        ("user_parameters:\n- train_pipeline:\n  - step: train\n  - step: train\n", "there twice, first in line 3"),
        ("user_parameters:\n- train_pipeline:\n  - step: train\n    arg:\n", "Did you mean args?"),
        ("user_parameters:\n- train_pipeline:\n  - step: train\n    batch_size: 4\n", "Write it under args:"),
        ("external_path:\n- load_test_data_path: x\n", "Did you mean load_train_data_path?"),
        ("external_path:\n- load_train_data_path: [a, b]\n", "Give one folder"),
        ("external_path:\n- load_train_data_path: data/a.CSV\n", "Give the folder that holds it"),
        ("operation: {owners: [bob]}", "an owner is an e-mail address or team:<name>"),
        (
            "ui_args_detail:\n- train_pipeline:\n  - step: train\n    args:\n    - name: model_nam\n",
            "Did you mean model_name?",
        ),
        (
            "ui_args_detail:\n- train_pipeline:\n  - {step: train, args: [{name: model_name, selectable: [padim]}]}\n",
            "'padim' is refused",
        ),
        ("hello\n", "stands where sections"),
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
    ],
)
def test_a_wrong_structure_is_named(text: str, advice: str) -> None:
    assert advice in fault_of(text)


def test_what_cannot_be_listed_in_ui_args_is_refused() -> None:
    assert "An operator cannot change it" in fault_of(plan_text(ui="[model_parameters]"))
    assert "It belongs to step readiness" in fault_of(plan_text(ui="[ok_class]"))
    assert "Did you mean model_name?" in fault_of(plan_text(ui="[modelname]"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n b: 2\n", "line 2"),
        ("a: “x: y”\n", "typographic quotes in this line"),
        ("a: *nowhere\n", "undefined alias"),
        ("a: 1\n---\nb: 1\n", "another document"),
        ("a: \x07\n", "cannot stand in YAML"),
        ("a: 'open\n", "valid YAML"),
    ],
)
def test_text_that_is_not_yaml_is_shown_with_its_line(text: str, said: str) -> None:
    message = fault_of(text)
    assert said in message
    assert "line " in message


def _laughs(merge: bool) -> str:
    lines = ["a0: &a0 {k0: 1}"]
    for i in range(1, 10):
        many = ", ".join([f"*a{i - 1}"] * 10)
        lines.append(f"a{i}: &a{i} " + (f"{{<<: [{many}], k{i}: 1}}" if merge else f"[{many}]"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(_laughs(merge=False), id="aliases that multiply"),
        pytest.param(_laughs(merge=True), id="merges that multiply"),
        pytest.param("a: &a [*a]", id="a list in itself"),
        pytest.param("[" * 60_000, id="deep lists"),
        pytest.param("\t" + "{a: " * 15_000, id="deep maps behind a tab"),
        pytest.param("? " * 30_000, id="deep keys"),
        pytest.param("a: 1\n" * 100_000, id="too long"),
        pytest.param("operation: {max_batch_images: " + "9" * 60_000 + "}", id="a huge number"),
    ],
)
@pytest.mark.timeout(20)
def test_a_file_made_to_do_harm_is_refused_quickly(bomb: str) -> None:
    assert len(fault_of(bomb)) < 1000


def test_a_huge_file_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    file = tmp_path / "experimental_plan.yaml"
    with file.open("wb") as opened:
        opened.truncate(10 * 2**30)  # sparse
    with pytest.raises(PlanError, match="at most 65,536 are read"):
        read_plan(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="No such file"):
        read_plan(tmp_path / "none.yaml")
    with pytest.raises(PlanError, match=r"is a folder: give the plan in it"):
        read_plan(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: a\nversion: \xe4\n")
    with pytest.raises(PlanError, match=r"line 2: it is not UTF-8"):
        read_plan(latin)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plan.yaml")
    with pytest.raises(PlanError, match="no plain file"):
        read_plan(tmp_path / "plan.yaml")
