"""Plans as text: any plan in the guide's format, and a commented first plan for a folder of images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from vad_lib.argument_fields import Arguments, allowed_text, default_of, extra, limits
from vad_lib.argument_fields import choices as allowed_words
from vad_lib.detectors.registry import parameters_model, registered
from vad_lib.errors import InputError, PlanError
from vad_lib.images.paths import is_image_name, is_table_name
from vad_lib.plan.checking import check_arguments
from vad_lib.plan.experimental_plan import ExperimentalPlan, ExternalPath, UiArgumentDetail
from vad_lib.plan.faults import PlanProblems, did_you_mean
from vad_lib.plan.reading import read_plan
from vad_lib.plan.stages import INFERENCE_READINESS, OPERATION, PATH_KEYS, STAGES, operator_arguments, spellings

NORMAL_FOLDERS = ("good", "ok", "normal", "non_anomaly", "pass")
BOTH_PIPELINES = {"input": "inference_input"}
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./][\w./:-]*", re.ASCII)


def dump_plan(plan: ExperimentalPlan, *, comments: bool = False) -> str:
    """Write a plan in the guide's format: ``parse_plan(dump_plan(plan)) == plan``.

    Args:
        comments: also write what keeps its default, commented out, and the meaning of each argument.
    """
    lines = [f"name: {_value(plan.name)}", f"version: {_value(plan.version)}", "", "external_path:"]
    lines += [f"    - {key}: {_value(getattr(plan.paths, own))}".rstrip() for key, own in PATH_KEYS.items()]
    lines += ["", "user_parameters:"]
    for pipeline in dict.fromkeys(stage.pipeline for stage in STAGES):
        lines.append(f"    - {pipeline}:")
        for stage in (stage for stage in STAGES if stage.pipeline == pipeline):
            model = plan.train_as_written if stage.name == "train" else getattr(plan, stage.name)
            lines += [f"        - step: {stage.step}", "          args:"]
            # at inference most readiness arguments have no meaning: no comments invite to set them
            lines += _argument_lines(model, "            ", comments and stage is not INFERENCE_READINESS, bullet=True)
            listed = [name for name in stage.model.model_fields if name in plan.ui_args]
            if listed and not stage.name.startswith("inference_"):  # a name counts in both pipelines
                lines += ["          ui_args:", *(f"            - {name}" for name in listed)]
        lines.append("")
    lines += ["operation:", *_argument_lines(plan.operation, "    ", comments, bullet=False)]
    lines += _detail_lines(plan.ui_args_detail)
    return "\n".join(lines) + "\n"


def write_plan_for_folder(image_folder: Path, plan_file: Path, **choices: Any) -> ExperimentalPlan:
    """Write a first, commented plan for a folder of images, and return it as read back.

    The training data are ``train/`` in the folder where there is one, else the folder itself; inference data are
    ``test/`` or ``inference/`` where there is one. ``ok_class`` is set where there is no table and a sub-folder is
    called good, ok, normal, non_anomaly or pass.

    Args:
        image_folder: must exist.
        plan_file: must not exist yet.
        choices: any arguments by name, such as ``batch_size=8``, also of model_parameters and operation.

    Raises:
        InputError: there is no such folder.
        PlanError: the plan is there already, or a choice is wrong.
    """
    folder, file = Path(image_folder).resolve(), Path(plan_file)
    if not folder.is_dir():
        raise InputError(f"{image_folder} is no folder: give the folder that holds the images.")
    train = folder / "train" if (folder / "train").is_dir() else folder
    inference = next((folder / name for name in ("test", "inference") if (folder / name).is_dir()), None)
    if "ok_class" not in choices and (normal := _normal_folder(train)):
        choices = {**choices, "ok_class": normal}
    start = file.resolve().parent
    paths = ExternalPath(
        train_data=_written_path(train, start), inference_data=_written_path(inference, start) if inference else ""
    )
    _write_new(file, dump_plan(_new_plan(folder.name, paths, choices), comments=True))
    return read_plan(file)


def plan_without_images(name: str, **choices: Any) -> ExperimentalPlan:
    """Return a first plan of a line without training images.

    Args:
        name: of the line.
        choices: as for ``write_plan_for_folder``; a ``model_name`` that needs no images is one of them.

    Raises:
        PlanError: a choice is wrong, or the detector needs images.
    """
    plan = _new_plan(name, ExternalPath(), choices)
    if plan.train.needs_images:
        none = [name for name, row in registered().items() if row.arguments().threshold_without_images() is not None]
        raise PlanError(
            f"The detector {plan.train.model_name} learns from images: give a folder of them, or take a detector that "
            f"needs none, such as {' or '.join(none)}."
        )
    return plan


def _new_plan(name: str, paths: ExternalPath, choices: dict[str, Any]) -> ExperimentalPlan:
    return ExperimentalPlan.assemble(
        name=name,
        version="1.0.0",
        paths=paths,
        ui_args=frozenset(name for stage in STAGES for name in operator_arguments(stage.model)),
        **_chosen(choices),
    )


def _chosen(choices: dict[str, Any]) -> dict[str, Any]:
    """Sort the choices into their stages and check them."""
    problems = PlanProblems()
    sorted_choices: dict[str, dict[str, Any]] = {}
    models = {stage.name: stage.model for stage in (*STAGES, OPERATION)} | {"model_parameters": parameters_model()}
    homes = {name: stage for stage in reversed(models) for name in spellings(models[stage])}
    for name, value in choices.items():
        if home := homes.get(name):
            right = spellings(models[home])[name]
            for stage in (home, BOTH_PIPELINES.get(home)):
                if stage:
                    sorted_choices.setdefault(stage, {})[right] = value
        else:
            problems.fault(0, name, f"No such argument.{did_you_mean(name, homes)}")
    parts: dict[str, Any] = {}
    for stage, values in sorted_choices.items():
        parts[stage] = models[stage](**check_arguments(models[stage], values, problems, stage))
    problems.raise_faults("What was chosen for the plan")
    parameters = parts.pop("model_parameters", None)
    train = parts.pop("train", models["train"]())
    parts["train_as_written"] = train.model_copy(update={"model_parameters": parameters}) if parameters else train
    return parts


def _argument_lines(model: Arguments, indent: str, comments: bool, *, bullet: bool) -> Iterator[str]:
    """Yield the lines of one step.

    The first live argument carries the list's bullet; ``- none:`` does where there is no live one.
    """
    live: list[str] = []
    asleep: list[str] = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        alive = value != default_of(field) or extra(field, "kind") == "required"
        text = _parameters(value, whole=not alive) if name == "model_parameters" else _value(value)
        note = f"  # {_short_meaning(field)}" if comments else ""
        (live if alive else asleep).append(f"{name}: {text}".rstrip() + note)
    if bullet:
        yield f"{indent}- {live[0] if live else 'none:'}"
        live, indent = live[1:], indent + "  "
    yield from (indent + text for text in live)
    if comments:
        yield from (f"{indent}# {text}" for text in asleep)


def _short_meaning(field: FieldInfo) -> str:
    """Return the first sentence of the meaning, and what is allowed where that says something."""
    meaning = str(field.description).split(". ")[0].rstrip(".")
    limited = allowed_words(field) or any(limits(field)) or "list" in allowed_text(field)
    return f"{meaning}: {allowed_text(field)}" if limited else meaning


def _parameters(parameters: Arguments, *, whole: bool) -> str:
    shown = [
        f"{name}: {_value(getattr(parameters, name))}"
        for name, field in type(parameters).model_fields.items()
        if whole or getattr(parameters, name) != default_of(field)
    ]
    return f"{{{', '.join(shown)}}}"


def _detail_lines(details: tuple[UiArgumentDetail, ...]) -> Iterator[str]:
    if not details:
        return
    yield from ("", "ui_args_detail:")
    for pipeline in dict.fromkeys(stage.pipeline for stage in STAGES):
        stages = [stage for stage in STAGES if stage.pipeline == pipeline]
        if not any(detail.step == stage.name for stage in stages for detail in details):
            continue
        yield f"    - {pipeline}:"
        for stage in stages:
            mine = [detail for detail in details if detail.step == stage.name]
            if mine:
                yield from (f"        - step: {stage.step}", "          args:")
            for detail in mine:
                yield f"            - name: {detail.name}"
                for key in ("description", "type", "selectable", "default"):
                    yield f"              {key}: {_value(getattr(detail, key))}"


def _value(value: Any) -> str:
    """Write one value so that it is read back as the same."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    if not value:
        return ""
    if _PLAIN_WORD.fullmatch(value) and not value.endswith(":") and yaml.safe_load(value) == value:
        return value
    return str(yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))).strip()


def _normal_folder(train: Path) -> str:
    """Return the one sub-folder whose name says that its images are normal, where no table says more."""
    if any(is_table_name(file.name) for file in train.iterdir()):
        return ""
    named = [folder for folder in train.iterdir() if folder.name.casefold() in NORMAL_FOLDERS and folder.is_dir()]
    found = [folder.name for folder in named if any(is_image_name(file.name) for file in folder.rglob("*"))]
    return found[0] if len(found) == 1 else ""


def _written_path(folder: Path, start: Path) -> str:
    return f"./{folder.relative_to(start).as_posix()}" if folder.is_relative_to(start) else str(folder)


def _write_new(file: Path, text: str) -> None:
    """Write a file that must not exist, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    try:
        os.link(partial, file)  # unlike a rename, a link never replaces
    except FileExistsError:
        raise PlanError(f"{file} is there already: change it by hand, or take another name.") from None
    finally:
        partial.unlink()
