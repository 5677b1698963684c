"""Plans and arguments as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vad_lib.argument_fields import allowed_text, default_of, extra
from vad_lib.detectors.registry import parameters_model
from vad_lib.plan.experimental_plan import ExperimentalPlan, ExternalPath
from vad_lib.plan.stages import OPERATION, PATH_KEYS, STAGES

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("step", "argument", "value", "source", "default", "allowed", "ui", "meaning", "where", "user_setting")


def explain(plan: ExperimentalPlan) -> pd.DataFrame:
    """Return every argument of a plan, one a row.

    Columns, all text but ``ui`` and ``user_setting``:
        step: stage, such as 'train', 'inference_input', 'operation' or 'external_path'.
        argument: name; those of model_parameters as 'model_parameters.<name>'.
        value: in force, as it would be written in a plan.
        source: 'default', 'plan' or 'operator'.
        default: as it would be written, or "computed: …" where an empty value stands for something.
        allowed, meaning: from the model.
        ui: True where an operator may change it in this plan.
        where: 'line 34' of the plan, and what was asked for where that was changed.
        user_setting: True where the guide asks every user to look at it.
    """
    import pandas as pd  # here, so that reading a plan stays quick

    changed = {f"train.{change.argument}": change for change in plan.changes}
    rows = []
    for stage, name, field in _arguments():
        holder = {"external_path": plan.paths, "train.model_parameters": plan.train.model_parameters}.get(stage)
        key = f"{stage}.{name}"
        step, _, group = stage.partition(".")
        where = [plan.given[key]] if key in plan.given else []
        if key in changed:
            where.append(f"asked for {as_written(changed[key].old)}: {changed[key].reason}")
        source = "operator" if key in plan.operator_given else "plan" if key in plan.given else "default"
        may_change = not group and name in plan.ui_args
        value = as_written(getattr(holder or getattr(plan, step), name))
        argument = next((path for path, own in PATH_KEYS.items() if own == name), name)
        rows.append(
            (
                step,
                f"{group}.{argument}" if group else argument,
                value,
                source,
                _default(field),
                allowed_text(field),
                may_change,
                field.description,
                "; ".join(where),
                bool(extra(field, "user_setting")),
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def arguments_markdown() -> str:
    """Return the table of all arguments, for docs/plan.md."""
    lines = [
        "| Step | Argument | Default | Allowed | Operator may change | Look at it | Meaning |",
        "|---|---|---|---|:-:|:-:|---|",
    ]
    for stage, name, field in _arguments():
        if stage.startswith("inference_"):  # the same arguments as in the train pipeline
            continue
        step, _, group = stage.partition(".")
        argument = next((path for path, own in PATH_KEYS.items() if own == name), name)
        cells = [
            step,
            f"`{group}.{argument}`" if group else f"`{argument}`",
            _default(field) if extra(field, "computed") else f"`{_default(field)}`",
            allowed_text(field),
            "yes" if extra(field, "ui") else "",
            "yes" if extra(field, "user_setting") else "",
            field.description or "",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def as_written(value: Any) -> str:
    """Write a value as it stands in a plan.

    >>> as_written((256, 256)), as_written(""), as_written(True)
    ('[256, 256]', "''", 'True')
    """
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value) if value != "" else "''"


def _arguments() -> Iterator[tuple[str, str, FieldInfo]]:
    """Yield (stage, argument, field) for all arguments, model parameters in their place."""
    models: list[tuple[str, type[BaseModel]]] = [("external_path", ExternalPath)]
    models += [(stage.name, stage.model) for stage in (*STAGES, OPERATION)]
    for stage, model in models:
        for name, field in model.model_fields.items():
            if name == "model_parameters":
                own = parameters_model().model_fields
                yield from (("train.model_parameters", inner, own[inner]) for inner in own)
            else:
                yield stage, name, field


def _default(field: FieldInfo) -> str:
    computed = extra(field, "computed")
    return f"computed: {computed}" if computed else as_written(default_of(field))
