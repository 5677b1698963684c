"""A plan file to an ExperimentalPlan.

The walk goes once over the whole tree and collects every fault, so that a user corrects a plan in one go. What is
tolerated (aliases, empty ``args:``, ``- none:``, one map instead of a list of maps, sections of other tools) becomes a
notice where it deserves one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vad_lib.argument_fields import Arguments
from vad_lib.detectors.registry import find_detector
from vad_lib.errors import PlanError
from vad_lib.plan import folders
from vad_lib.plan.arguments import TrainArguments
from vad_lib.plan.checking import check_arguments
from vad_lib.plan.experimental_plan import ExperimentalPlan, ExternalPath, UiArgumentDetail
from vad_lib.plan.faults import PlanProblems, did_you_mean, nearest, shown
from vad_lib.plan.shapes import is_empty, means_default, raw, read_entries, word, words
from vad_lib.plan.stages import (
    INFERENCE_PIPELINE,
    MODEL_PARAMETERS,
    OPERATION,
    PATH_KEYS,
    STAGES,
    TRAIN_PIPELINE,
    Stage,
    advice_for_unknown,
    model_parameters_stage,
    operator_arguments,
    spellings,
    steps_of,
)
from vad_lib.plan.tree import BACKSLASHES, LARGEST_FILE, Entry, Mapping, Node, Scalar, Sequence, decode, read_tree

PIPELINES = (TRAIN_PIPELINE, INFERENCE_PIPELINE)
IGNORED_SECTIONS = ("external_path_permission", "asset_source", "control")
SECTIONS = ("name", "version", "external_path", "user_parameters", "ui_args_detail", "operation", *IGNORED_SECTIONS)
COLUMN_ARGUMENTS = ("path_column", "y_column")
"""Of the step input; published plans have them under readiness."""
IGNORED_PATHS = ("load_model_path",)
LONGEST_PATH = 1024
STEP_KEYS = ("step", "args", "ui_args")


def read_plan(file: Path, base_folder: Path | None = None) -> ExperimentalPlan:
    """Read ``experimental_plan.yaml``.

    Args:
        file: the plan.
        base_folder: where its relative paths start; the folder of ``file`` where None.

    Raises:
        PlanError: the file cannot be read, or the plan is wrong; the message lists every fault with its line.
    """
    if Path(file).is_dir():
        raise PlanError(f"{file} is a folder: give the plan in it, as in {Path(file) / 'experimental_plan.yaml'}.")
    try:
        if Path(file).exists() and not Path(file).is_file():
            raise PlanError(f"{file} is no plain file.")  # a pipe would be waited for, for ever
        with Path(file).open("rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise PlanError(f"{file} cannot be read: {error.strerror or error}.") from None
    return parse_plan(decode(data, str(file)), source=str(file), base_folder=base_folder or Path(file).resolve().parent)


def parse_plan(text: str, source: str = "the plan", base_folder: Path | None = None) -> ExperimentalPlan:
    """Read a plan from text. As ``read_plan``; without a base folder no path is looked up."""
    problems = PlanProblems()
    tree = read_tree(text, source, problems)
    return _Reader(source, base_folder, problems).read(tree)


class _Reader:
    def __init__(self, source: str, base_folder: Path | None, problems: PlanProblems) -> None:
        self._source = source
        self._base_folder = base_folder
        self._problems = problems
        self._given: dict[str, str] = {}
        self._ui_args: set[str] = set()

    def read(self, tree: Node) -> ExperimentalPlan:
        sections = read_entries(
            tree, "the file", "sections such as user_parameters: and external_path:", self._problems
        )
        for entry in sections.values():
            if entry.key not in SECTIONS:
                self._problems.fault(entry.line, entry.key, _unknown_section(entry.key))
        ignored = [f"{key} (line {sections[key].line})" for key in IGNORED_SECTIONS if key in sections]
        if ignored:
            self._problems.notice(f"Read over, as it has no meaning here: {', '.join(ignored)}.")

        stages: dict[str, Arguments] = {stage.name: stage.model() for stage in (*STAGES, OPERATION)}
        stages |= self._read_pipelines(sections.get("user_parameters"))
        if section := sections.get("operation"):
            stages["operation"] = self._read_arguments(OPERATION, section.value)
        paths = self._read_paths(sections.get("external_path"))
        details = self._read_details(sections.get("ui_args_detail"))
        self._notice_one_sided_columns()
        self._refuse_precision(stages["train"])
        self._problems.raise_faults(self._source)

        train = stages.pop("train")
        assert isinstance(train, TrainArguments)
        return ExperimentalPlan.assemble(
            train_as_written=train,
            source=self._source,
            base_folder=self._base_folder,
            name=word(sections.get("name")),
            version=word(sections.get("version")),
            paths=paths,
            ui_args=frozenset(self._ui_args),
            ui_args_detail=details,
            notices=tuple(self._problems.notices),
            given=self._given,
            **stages,
        )

    # -- sections

    def _read_pipelines(self, section: Entry | None) -> dict[str, Arguments]:
        if section is None:
            self._problems.notice("There is no section user_parameters: every argument has its default.")
            return {}
        found: dict[str, Arguments] = {}
        lines: dict[str, int] = {}
        moved: dict[str, list[Entry]] = {}
        order: dict[str, list[str]] = {pipeline: [] for pipeline in PIPELINES}
        for stage, step in self._steps(section):
            place = stage.place
            order[stage.pipeline].append(stage.step)
            if stage.name in found:
                self._problems.fault(
                    step["step"].line, place, f"The step is there twice, first in line {lines[stage.name]}."
                )
            lines.setdefault(stage.name, step["step"].line)
            for key, entry in step.items():
                if key not in STEP_KEYS:
                    home = advice_for_unknown(key, stage)
                    advice = "Write it under args:." if key in spellings(stage.model) else home
                    if nearest(key, STEP_KEYS):
                        advice = f"No such key.{did_you_mean(key, STEP_KEYS)}"
                    self._problems.fault(entry.line, f"{place} > {key}", advice)
            args = step["args"].value if "args" in step else None
            if stage.step == "readiness" and args is not None:
                args, columns = _without_columns(args)
                for entry in columns:
                    self._problems.notice_of(entry.line, entry.key, "read as arguments of the step input: {}.")
                moved[stage.pipeline] = columns
            found[stage.name] = self._read_arguments(stage, args)
            if "ui_args" in step:
                self._read_ui_args(stage, step["ui_args"])
        for stage in (stage for stage in STAGES if stage.step == "input" and moved.get(stage.pipeline)):
            self._move(stage, moved[stage.pipeline], found)
        for pipeline, steps in order.items():
            if missing := [step for step in steps_of(pipeline) if step not in steps]:
                self._problems.notice(f"{pipeline} does not name {', '.join(missing)}: the defaults apply.")
            elif tuple(steps) != steps_of(pipeline) and len(steps) == len(steps_of(pipeline)):
                self._problems.notice(f"The steps of {pipeline} run in this order: {', '.join(steps_of(pipeline))}.")
        return found

    def _move(self, stage: Stage, columns: list[Entry], found: dict[str, Arguments]) -> None:
        """Take the columns that stand under readiness, as in published plans, for those of the step input."""
        given = {name for name in COLUMN_ARGUMENTS if f"{stage.name}.{name}" in self._given}
        values = found.get(stage.name) or stage.model()
        wanted = self._read_arguments(stage, Mapping(tuple(columns), columns[0].line))
        for entry in columns:
            value = getattr(wanted, entry.key)
            if entry.key in given and value != getattr(values, entry.key):
                text = f"The step input gives another one ({shown(getattr(values, entry.key))}): keep that one."
                self._problems.fault(entry.line, f"{stage.pipeline} > readiness > {entry.key}", text)
        found[stage.name] = values.model_copy(update={entry.key: getattr(wanted, entry.key) for entry in columns})

    def _steps(self, section: Entry) -> Iterator[tuple[Stage, dict[str, Entry]]]:
        """Yield each known step of a section that has pipelines, with its keys."""
        for pipeline in read_entries(section.value, section.key, " and ".join(PIPELINES), self._problems).values():
            if pipeline.key not in PIPELINES:
                advice = f"No such pipeline.{_meant(pipeline.key, PIPELINES)}"
                self._problems.fault(pipeline.line, f"{section.key} > {pipeline.key}", advice)
                continue
            value = pipeline.value
            if isinstance(value, Scalar) and value.text is None:
                continue
            for item in value.items if isinstance(value, Sequence) else (value,):
                keys = read_entries(
                    item, pipeline.key, "steps, each as '- step: <name>' with args: below it", self._problems
                )
                if not keys:
                    continue
                if "step" not in keys:
                    first = next(iter(keys.values()))
                    self._problems.fault(
                        first.line,
                        f"{pipeline.key} > {first.key}",
                        "This item has no 'step:' that says which step it is.",
                    )
                    continue
                step = word(keys["step"])
                stage = next((stage for stage in STAGES if (stage.pipeline, stage.step) == (pipeline.key, step)), None)
                if stage:
                    yield stage, keys
                else:
                    self._problems.fault(
                        keys["step"].line, f"{pipeline.key} > {step}", _unknown_step(step, pipeline.key)
                    )

    def _read_arguments(self, stage: Stage, value: Node | None, prefix: str = "") -> Arguments:
        """Read the arguments of one stage and return its model; what is faulty keeps its default."""
        place = f"{prefix} > {stage.step}" if prefix else stage.place
        entries = read_entries(value, place, "arguments, each as 'name: value'", self._problems) if value else {}
        right = spellings(stage.model)
        values: dict[str, Any] = {}
        written: dict[str, Entry] = {}
        for entry in entries.values():
            name = right.get(entry.key)
            if name is None:
                if not (entry.key.casefold() == "none" and is_empty(entry.value)):
                    self._problems.fault(entry.line, f"{place} > {entry.key}", advice_for_unknown(entry.key, stage))
                continue
            if name in written:
                text = f"It means the same as {written[name].key} in line {written[name].line}: keep one."
                self._problems.fault(entry.line, f"{place} > {entry.key}", text)
                continue
            if name != entry.key:
                self._problems.notice_of(entry.line, f"{entry.key} was read as {name}", "{}.")
            written[name] = entry
            if name == "model_parameters":
                values[name] = self._read_arguments(model_parameters_stage(), entry.value, place)
            elif not means_default(entry.value, stage.model, name):
                values[name] = raw(entry.value)
                home = "train.model_parameters" if stage.name == MODEL_PARAMETERS else stage.name
                self._given[f"{home}.{name}"] = f"line {entry.line}"
        return stage.model(**check_arguments(stage.model, values, self._problems, place, written))

    def _read_ui_args(self, stage: Stage, entry: Entry) -> None:
        items = entry.value.items if isinstance(entry.value, Sequence) else (entry.value,)
        names: list[tuple[str, int]] = []
        for item in items:
            if isinstance(item, Mapping):
                names += [(inner.key, inner.line) for inner in item.entries]
            elif isinstance(item, Scalar):
                names.append(((item.text or "").strip(), item.line))
            else:
                self._problems.fault(item.line, f"{stage.place} > ui_args", "List the names of arguments.")
        for name, line in names:
            right = spellings(stage.model).get(name)
            if right == "model_parameters":
                text = "An operator cannot change it: it has no single value."
                self._problems.fault(line, f"{stage.place} > ui_args > {name}", text)
            elif right:
                self._ui_args.add(right)
                if right not in operator_arguments(stage.model):
                    sentence = "an operator may change {}, as the plan lists it; the guide does not foresee it."
                    self._problems.notice_of(line, right, sentence)
            elif name.casefold() not in ("", "none"):
                self._problems.fault(line, f"{stage.place} > ui_args > {name}", advice_for_unknown(name, stage))

    def _read_paths(self, section: Entry | None) -> ExternalPath:
        entries = (
            read_entries(section.value, "external_path", "paths, each as '- name: folder'", self._problems)
            if section
            else {}
        )
        written: dict[str, str] = {}
        for entry in entries.values():
            place = f"external_path > {entry.key}"
            value = entry.value
            if isinstance(value, Sequence) and len(value.items) == 1:
                value = value.items[0]
            if entry.key in IGNORED_PATHS:
                if not is_empty(value):
                    text = "{} has no meaning here: models come from the registry."
                    self._problems.notice_of(entry.line, entry.key, text)
            elif entry.key not in PATH_KEYS:
                self._problems.fault(entry.line, place, f"No such path.{_meant(entry.key, PATH_KEYS)}")
            elif not isinstance(value, Scalar):
                self._problems.fault(entry.line, place, "Give one folder.")
            elif value.text and value.text.strip():
                path = value.text.strip()
                if folders.holds_escapes(path):
                    self._problems.fault(entry.line, place, f"{shown(path)} cannot be a path. {BACKSLASHES}")
                elif len(path) > LONGEST_PATH:
                    self._problems.fault(entry.line, place, f"{shown(path)} cannot be a path.")
                elif entry.key.startswith("load_") and self._is_file(path):
                    text = f"{shown(path)} is a file. Give the folder that holds it, not the table."
                    self._problems.fault(entry.line, place, text)
                written[PATH_KEYS[entry.key]] = path
                self._given[f"external_path.{PATH_KEYS[entry.key]}"] = f"line {entry.line}"
        return ExternalPath(**written)

    def _is_file(self, written: str) -> bool:
        places = folders.candidates(written, self._base_folder) if self._base_folder else []
        if any(folders.is_folder(place) for place in places):
            return False
        return folders.names_a_table(written) or any(folders.is_file(place) for place in places)

    def _read_details(self, section: Entry | None) -> tuple[UiArgumentDetail, ...]:
        if section is None:
            return ()
        details = []
        for stage, step in self._steps(section):
            value = step["args"].value if "args" in step else None
            for item in value.items if isinstance(value, Sequence) else (value,) if isinstance(value, Mapping) else ():
                keys = read_entries(item, f"ui_args_detail > {stage.place}", "name: and description:", self._problems)
                name, line = word(keys.get("name")), item.line
                if name not in stage.model.model_fields:
                    self._problems.fault(line, f"ui_args_detail > {stage.place}", advice_for_unknown(name, stage))
                    continue
                detail = UiArgumentDetail(
                    step=stage.name,
                    name=name,
                    description=word(keys.get("description")),
                    type=word(keys.get("type")),
                    selectable=words(keys.get("selectable")),
                    default=words(keys.get("default")),
                )
                for choice in detail.selectable:
                    place = f"ui_args_detail > {stage.place}"
                    check_arguments(stage.model, {name: choice}, self._problems, place, {name: keys["name"]})
                details.append(detail)
        return tuple(details)

    def _notice_one_sided_columns(self) -> None:
        for name in ("path_column", "y_column", "encoding"):
            if f"input.{name}" in self._given and f"inference_input.{name}" not in self._given:
                self._problems.notice(
                    f"{name} is given for train_pipeline only ({self._given[f'input.{name}']}); "
                    "inference takes the default."
                )

    def _refuse_precision(self, train: Arguments) -> None:
        assert isinstance(train, TrainArguments)
        if reason := find_detector(train.model_name).own(train.model_parameters).reason_against(train.precision):
            line = int(self._given["train.precision"].removeprefix("line "))
            self._problems.fault(line, "train_pipeline > train > precision", reason)


def _without_columns(args: Node) -> tuple[Node, list[Entry]]:
    """Return the arguments without those that name columns, and these."""
    maps = args.items if isinstance(args, Sequence) else (args,)
    columns = [
        entry for item in maps if isinstance(item, Mapping) for entry in item.entries if entry.key in COLUMN_ARGUMENTS
    ]
    kept = tuple(
        Mapping(tuple(entry for entry in item.entries if entry not in columns), item.line)
        if isinstance(item, Mapping)
        else item
        for item in maps
    )
    return (Sequence(kept, args.line) if columns else args), columns


def _unknown_section(key: str) -> str:
    if key in PIPELINES:
        return "It belongs under user_parameters:."
    if key in PATH_KEYS:
        return "It belongs under external_path:."
    return f"No such section.{_meant(key, SECTIONS)}"


def _unknown_step(step: str, pipeline: str) -> str:
    steps = steps_of(pipeline)
    if home := next((stage.pipeline for stage in STAGES if stage.step == step), None):
        return f"This step belongs to {home}. {pipeline} has: {', '.join(steps)}."
    return f"No such step.{_meant(step, steps)}"


def _meant(word: str, names: Iterable[str]) -> str:
    """Say which name was meant, or which there are."""
    return did_you_mean(word, names) or f" There are: {', '.join(names)}."
