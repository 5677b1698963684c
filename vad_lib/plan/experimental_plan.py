"""The plan itself: every argument in force, where it came from, and the folders that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from vad_lib.argument_fields import Arguments, argument
from vad_lib.errors import InputError, PlanError
from vad_lib.findings import ArgumentChange
from vad_lib.lines import Home
from vad_lib.plan import folders
from vad_lib.plan.arguments import (
    InferenceArguments,
    InputArguments,
    OperationArguments,
    OutputArguments,
    ReadinessArguments,
    TrainArguments,
)
from vad_lib.plan.checking import check_arguments, display
from vad_lib.plan.faults import PlanProblems, did_you_mean, shown
from vad_lib.plan.resolving import change_text, resolve_train
from vad_lib.plan.stages import OPERATION, STAGES, advice_for_unknown, find_stage


class ExternalPath(Arguments):
    """Section ``external_path`` as written; empty means the default."""

    train_data: str = argument(
        "",
        "Folder of the training data.",
        kind="required",
        user_setting=True,
        computed="./sample_data/train/",
        allowed="a folder",
    )
    inference_data: str = argument(
        "",
        "Folder of the inference data.",
        kind="required",
        user_setting=True,
        computed="./sample_data/test/, or ./sample_data/inference/ where only that exists",
        allowed="a folder",
    )
    save_train_artifacts: str = argument(
        "", "Where train artifacts go.", kind="required", computed="train_artifacts of the line", allowed="a folder"
    )
    save_inference_artifacts: str = argument(
        "",
        "Where inference artifacts go.",
        kind="required",
        computed="inference_artifacts of the line",
        allowed="a folder",
    )


class UiArgumentDetail(BaseModel):
    """How the UI describes one argument to an operator (section ``ui_args_detail``)."""

    model_config = ConfigDict(frozen=True)

    step: str = Field(description="Stage that the argument belongs to, such as 'train'.")
    name: str
    description: str = ""
    type: str = Field("", description="single_selection, multi_selection, string, int or float.")
    selectable: tuple[str, ...] = Field((), description="What may be selected; empty means whatever is allowed.")
    default: tuple[str, ...] = ()


class ExperimentalPlan(BaseModel):
    """One line's configuration, frozen. Two plans are equal when what is in force is equal (see ``digest``).

    ``train`` holds the arguments in force; ``train_as_written`` those before a detector's one image size and the like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field("the plan", description="Name of the file, for messages.")
    base_folder: Path | None = Field(None, description="Where relative paths start, unless a method is given another.")
    name: str = Field("", description="As written in the plan.")
    version: str = Field("", description="As written in the plan.")

    input: InputArguments = InputArguments()
    readiness: ReadinessArguments = ReadinessArguments()
    train: TrainArguments = TrainArguments()
    train_as_written: TrainArguments = TrainArguments()
    inference_input: InputArguments = InputArguments()
    inference_readiness: ReadinessArguments = ReadinessArguments()
    inference: InferenceArguments = InferenceArguments()
    output: OutputArguments = OutputArguments()
    operation: OperationArguments = OperationArguments()
    paths: ExternalPath = ExternalPath()

    ui_args: frozenset[str] = Field(
        frozenset(), description="Names of the arguments that an operator may change, in any step."
    )
    ui_args_detail: tuple[UiArgumentDetail, ...] = ()
    notices: tuple[str, ...] = Field((), description="What the user should know: aliases, ignored sections, changes.")
    changes: tuple[ArgumentChange, ...] = Field((), description="Train arguments that were changed, and why.")
    given: Mapping[str, str] = Field({}, description="'train.percentile' -> 'line 34', for what the file sets.")
    operator_given: Mapping[str, Any] = Field({}, description="'train.model_name' -> value, for what an operator set.")

    @classmethod
    def assemble(cls, *, train_as_written: TrainArguments, notices: tuple[str, ...] = (), **parts: Any) -> Self:
        """Make a plan from what was written: resolve the train arguments and note the changes."""
        train, changes = resolve_train(train_as_written)
        return cls(
            train=train,
            train_as_written=train_as_written,
            changes=changes,
            notices=(*notices, *map(change_text, changes)),
            **parts,
        )

    def resolved(self) -> dict[str, dict[str, Any]]:
        """Return every argument in force as JSON-ready values: stage -> argument -> value."""
        stages = {stage.name: getattr(self, stage.name).model_dump(mode="json") for stage in (*STAGES, OPERATION)}
        return {"external_path": self.paths.model_dump(mode="json"), **stages}

    @property  # not cached: model_copy would carry the old value along
    def digest(self) -> str:
        """sha256 of all that has an effect, as canonical JSON; 64 hexadecimal digits."""
        content = {
            **self.resolved(),
            "ui_args": sorted(self.ui_args),
            "ui_args_detail": sorted((detail.model_dump(mode="json") for detail in self.ui_args_detail), key=str),
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExperimentalPlan) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def train_data_folder(self, base: Path | None = None) -> Path:
        """Return the folder of the training data.

        Args:
            base: where relative paths start; the plan's own base folder where None.

        Raises:
            PlanError: the plan names a file.
            InputError: no such folder; the message names all places that were tried.
        """
        given = self.paths.train_data
        return folders.data_folder(
            "load_train_data_path", [given] if given else ["./sample_data/train/"], self._base(base), self.source
        )

    def find_train_data(self, base: Path | None = None) -> Path | None:
        """Return ``train_data_folder``; None where the plan names none, and its detector needs no images."""
        if self.paths.train_data or self.train.needs_images:
            return self.train_data_folder(base)
        try:
            return self.train_data_folder(base)
        except InputError:
            return None

    def inference_data_folder(self, base: Path | None = None) -> Path:
        """Return the folder of the inference data; as ``train_data_folder``."""
        given = self.paths.inference_data
        places = [given] if given else ["./sample_data/test/", "./sample_data/inference/"]
        return folders.data_folder("load_inference_data_path", places, self._base(base), self.source)

    def train_artifacts_folder(self, default: Path, base: Path | None = None) -> Path:
        """Return where the train tree goes: ``save_train_artifacts_path``, or ``default`` where that is empty."""
        return folders.place(self.paths.save_train_artifacts, self._base(base)) or default

    def inference_artifacts_folder(self, default: Path, base: Path | None = None) -> Path:
        """Return where the inference tree goes: ``save_inference_artifacts_path``, or ``default`` where empty."""
        return folders.place(self.paths.save_inference_artifacts, self._base(base)) or default

    def watch_folder(self, default: Path, base: Path | None = None) -> Path:
        """Return where images arrive: ``watch_folder`` of the section ``operation``, or ``default`` where empty.

        Raises:
            PlanError: the folder holds what the system writes itself: it is ``$VAD_HOME``, or lies above it.
        """
        folder = folders.place(self.operation.watch_folder, self._base(base)) or default
        if Home.from_environment().lines_folder.resolve().is_relative_to(folder.resolve()):
            raise PlanError(
                f"{self.source}: watch_folder is {folder}, which holds VAD_HOME with all that the system writes: "
                "give a folder of its own to the images of the line."
            )
        return folder

    def with_operator_arguments(self, step: str, values: Mapping[str, Any]) -> Self:
        """Return a new plan in which an operator's values win over the file's.

        Args:
            step: a stage, such as 'train', 'readiness' or 'inference_readiness'.
            values: argument -> value; None means "leave it as the plan says".

        Raises:
            PlanError: an argument that the plan does not list under ui_args, or a value that is not allowed.
        """
        stage = find_stage(step)
        if stage is None:
            steps = [stage.name for stage in STAGES]
            raise PlanError(f"{step!r} is no step: {', '.join(steps)}.{did_you_mean(step, steps)}")
        problems = PlanProblems()
        changed = {name: value for name, value in values.items() if value is not None}
        for name, value in changed.items():
            place = f"{stage.place} > {name}"
            details = [detail for detail in self.ui_args_detail if (detail.step, detail.name) == (step, name)]
            selectable = [choice for detail in details for choice in detail.selectable]
            if name not in stage.model.model_fields:
                problems.fault(0, place, advice_for_unknown(name, stage))
            elif name not in self.ui_args:
                may = ", ".join(sorted(self.ui_args)) or "nothing"
                problems.fault(
                    0,
                    place,
                    f"An operator may not change it, the plan lists under ui_args: {may}. Change it in {self.source}.",
                )
            elif selectable and str(value) not in selectable:
                problems.fault(
                    0, place, f"{shown(value)} is not among what the plan lets select: {display(selectable)}."
                )
        checked = check_arguments(stage.model, changed, problems, stage.place) if not problems.faults else {}
        problems.raise_faults("What the operator asked for")

        field = "train_as_written" if step == "train" else step
        update = getattr(self, field).model_copy(update=checked)
        kept = {name: getattr(self, name) for name in type(self).model_fields if name not in ("train", "changes")}
        told = set(map(change_text, self.changes))
        kept["notices"] = tuple(notice for notice in self.notices if notice not in told)
        kept["operator_given"] = {**self.operator_given, **{f"{step}.{name}": checked[name] for name in checked}}
        return type(self).assemble(**{**kept, field: update})

    def _base(self, base: Path | None) -> Path:
        return base or self.base_folder or Path.cwd()
