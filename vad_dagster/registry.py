"""Model versions of a line in MLflow's registry, and the aliases that say which one serves.

``challenger`` is the newest version that does not serve, ``champion`` the one that serves, ``previous`` the one that
served before it. Moving the alias ``champion``, here or in MLflow's UI, is all that a person has to do: every
inspection asks for it anew. Only this module and ``resources.tracking`` speak to MLflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vad_dagster.resources.tracking import MLflowTracking
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.lines import Home

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
SERVING_NUMBER, SERVING_BY = "vad.serving", "vad.serving_by"
"""Tags of the registered model: which version was promoted last by this module, and by which rule or person."""
DECISION = "\n\n### Does it serve?\n"
"""The last heading in the description of a version."""
MADE_FROM = "made_from"
"""Tag of a version: a digest of what it was made from, so that no twin of it is registered."""
SCORES_LIKE = "scores_like"
"""Tag of a version: a digest that versions share which give an image the same score, whatever their threshold."""
TAKEN_BACK = "taken_back"
"""Tag of a version: why it does not serve any longer, where a rule took it back."""
GATE = "vad.gate"
"""Tag of the registered model: where the gate stands, and the number of the version that it is about."""
DIGEST, THRESHOLD = "model_digest", "threshold"
"""Tags of a version: what its model folder must hold. The folder lies where more people may write than in MLflow."""
LABELS_FILE = "labels/confirmed_labels.csv"
"""Artifact of the run of a training: the labels of people that it was given, and what became of each."""
MODEL_CODE = Path(__file__).with_name("mlflow_model.py")
REQUIREMENTS = ("torch", "torchvision", "anomalib", "timm", "safetensors", "pandas", "pandera", "pydantic", "pillow")


def registered_model(line: str) -> str:
    """Return the name of the line's model in the registry."""
    return f"vad-{line}"


@dataclass(frozen=True)
class Version:
    """One registered version of a line's model."""

    line: str
    number: str
    run_id: str
    tags: Mapping[str, str]
    description: str
    aliases: tuple[str, ...]
    made_at: datetime

    @property
    def label(self) -> str:
        """What is written beside each prediction, such as 'vad-digits/3'."""
        return f"{registered_model(self.line)}/{self.number}"


class LineRegistry:
    """The registry as one line sees it."""

    def __init__(self, tracking: MLflowTracking, line: str) -> None:
        self.line = line
        self.name = registered_model(line)
        self._client = tracking.connect()

    def versions(self) -> list[Version]:
        """Return all versions, the newest first."""
        found = self._client.search_model_versions(f"name='{self.name}'")
        # the search leaves the aliases out
        return [self.version(entry.version) for entry in sorted(found, key=lambda entry: -int(entry.version))]

    def has_version_of(self, run_id: str) -> bool:
        """Whether a version was made by this run of MLflow."""
        return any(entry.run_id == run_id for entry in self._client.search_model_versions(f"name='{self.name}'"))

    def last(self) -> Version | None:
        """Return the newest version, or None where there is none."""
        found = self._client.search_model_versions(f"name='{self.name}'")
        return self.version(max(int(entry.version) for entry in found)) if found else None

    def version(self, number: str | int) -> Version:
        return self._convert(self._client.get_model_version(self.name, str(number)))

    def at(self, alias: str) -> Version | None:
        """Return the version that an alias points at, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return self._convert(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def named(self, name: str) -> Version:
        """Return the version of a number or alias.

        Raises:
            InputError: there is none; says which there are.
        """
        from mlflow.exceptions import MlflowException

        if not name.isdecimal():
            if (found := self.at(name)) is not None:
                return found
        else:
            try:
                return self.version(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        there = [f"{version.number} ({', '.join(version.aliases) or 'no alias'})" for version in self.versions()]
        raise InputError(f"{self.name} has no version {name!r}. There are: {', '.join(there) or 'none'}.")

    def champion(self) -> Version:
        """Return the version that serves.

        Raises:
            InputError: the line has no champion.
        """
        found = self.at(CHAMPION)
        if found is None:
            if (waiting := self.at(CHALLENGER)) is not None:
                raise InputError(
                    f"Line {self.line!r} has no champion. {waiting.label} waits for a person: look at its report, then "
                    f"`vad model promote {self.line}`."
                )
            raise InputError(
                f"Line {self.line!r} has no champion: train it first (job train_line, or `vad train {self.line}`), or "
                f"give the alias 'champion' to a version of {self.name} in MLflow."
            )
        return found

    def folder(self, version: Version) -> Path:
        """Return the model folder of a version on this machine; from a server it is fetched once and kept.

        Raises:
            ModelFormatError: it is not there, or does not hold the model that was registered; says what differs.
        """
        import mlflow

        uri = self._client.get_model_version_download_uri(self.name, version.number)
        local = Path(uri.removeprefix("file://")) if uri.startswith(("file://", "/")) else None
        if local is None or not local.is_dir():
            kept = Home.from_environment().mlflow_folder / "fetched" / self.name / version.number
            if not (kept / "MLmodel").is_file():
                kept.mkdir(parents=True, exist_ok=True)
                mlflow.artifacts.download_artifacts(f"models:/{self.name}/{version.number}", dst_path=str(kept))
            local = kept
        try:
            flavor = yaml.safe_load((local / "MLmodel").read_text(encoding="utf-8"))["flavors"]["python_function"]
            folder = local / flavor["artifacts"]["model"]["path"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ModelFormatError(
                f"{version.label} cannot be read: {local / 'MLmodel'} is missing or damaged ({error!r}). Copy {local} "
                "back from where it was saved, or train the line again."
            ) from error
        _compare(version, folder, (flavor.get("config") or {}).get(DIGEST))
        return folder

    def labels_of(self, version: Version) -> pd.DataFrame:
        """Return the labels of people that a version was trained with; without a row where there were none.

        Returns:
            ``tables.ConfirmedLabels``, the row in the ground truth, and ``used_as``: train, valid, or the rule that
            left it out.
        """
        import pandas as pd

        if origin := version.tags.get("extended_from"):
            return self.labels_of(self.version(origin.rpartition("/")[2]))
        run = self._client.get_run(version.run_id)
        # where only the threshold was changed, the run of the fit is the parent
        trained = run.data.tags.get("mlflow.parentRunId", version.run_id)
        if not any(file.path == LABELS_FILE for file in self._client.list_artifacts(trained, "labels")):
            return pd.DataFrame()
        with tempfile.TemporaryDirectory(prefix="vad_labels_") as folder:
            file = self._client.download_artifacts(trained, LABELS_FILE, folder)
            return pd.read_csv(file, keep_default_na=False, parse_dates=["created_at"])

    def register(
        self, model_folder: Path, *, run_id: str, tags: Mapping[str, Any], description: str, example_image: Path | None
    ) -> Version:
        """Store the model folder as a pyfunc in the open run and register it as the line's next version."""
        import mlflow

        from vad_lib.detectors.storage import WHOLE, part_digests

        digests = part_digests(model_folder)
        with _quiet_mlflow():
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(MODEL_CODE),
                artifacts={"model": str(model_folder)},
                code_paths=[str(MODEL_CODE.parent.parent / "vad_lib")],
                signature=_signature(),
                input_example=_input_example(example_image),
                pip_requirements=_requirements(),
                model_config={DIGEST: digests},
            )
        if self._missing():
            self._client.create_registered_model(
                self.name,
                tags={"vad.line": self.line},
                description=f"Models of inspection line **{self.line}**. The alias `champion` serves.",
            )
        made = self._client.create_model_version(
            self.name,
            source=logged.model_uri,
            run_id=run_id,
            model_id=logged.model_id,
            tags={**{name: str(value) for name, value in tags.items()}, DIGEST: digests[WHOLE]},
            description=description,
        )
        self._client.set_registered_model_alias(self.name, CHALLENGER, made.version)
        return self.version(made.version)

    def promote(self, version: Version, *, by: str, why: str = "") -> Version:
        """Let a version serve; the one that served before gets the alias ``previous``.

        Args:
            version: any.
            by: the rule or person.
            why: in a sentence, for the version's description.
        """
        serving = self.at(CHAMPION)
        if serving is not None and serving.number != version.number:
            self._client.set_registered_model_alias(self.name, PREVIOUS, serving.number)
        self._client.set_registered_model_alias(self.name, CHAMPION, version.number)
        challenger = self.at(CHALLENGER)
        if challenger is not None and challenger.number == version.number:
            self._client.delete_registered_model_alias(self.name, CHALLENGER)
        self.tag(version, {"promoted_by": by})
        self.note_decision(version, f"It was promoted at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {by}. {why}".strip())
        self._remember(version.number, by)
        return self.version(version.number)

    def roll_back(self, *, by: str, why: str = "") -> Version:
        """Let the previous version serve again.

        Args:
            by: the rule or person.
            why: in sentences. By a rule, it is kept on the version that served, so that no rule promotes it again.

        Raises:
            InputError: no version has the alias ``previous``.
        """
        previous = self.at(PREVIOUS)
        if previous is None:
            raise InputError(f"Line {self.line!r} has no previous version to go back to.")
        if by.startswith("rule: ") and (serving := self.at(CHAMPION)) is not None:
            self.tag(serving, {TAKEN_BACK: why})
            self.note_decision(serving, f"It was taken back at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {by}. {why}")
        return self.promote(previous, by=by, why=why)

    def note_gate(self, version: Version, state: str) -> None:
        """Write down where the gate stands about a version."""
        self._client.set_registered_model_tag(self.name, GATE, f"{state} {version.number}")

    def chosen_by(self) -> str:
        """Return which person chose the version that serves; empty where a rule did, or where the choice was lifted.

        A version whose alias was moved in MLflow's own pages was chosen by a person too.
        """
        model = self._client.get_registered_model(self.name)
        if str(model.aliases.get(CHAMPION, "")) != model.tags.get(SERVING_NUMBER):
            return "a person, in MLflow"
        kind, _, name = model.tags.get(SERVING_BY, "").partition(": ")
        return name if kind == "person" else ""

    def lift_choice(self, *, by: str) -> None:
        """Let rules decide again who serves next; ``by`` is the person who says so."""
        self._remember(self.champion().number, f"rule: lifted by {by}")

    def note_decision(self, version: Version, text: str) -> None:
        """Write into the description whether a version serves, and why. What stood there about it before goes."""
        described = self.version(version.number).description.partition(DECISION)[0]
        self._client.update_model_version(self.name, version.number, f"{described}{DECISION}{text}")

    def tag(self, version: Version, tags: Mapping[str, Any]) -> None:
        for name, value in tags.items():
            self._client.set_model_version_tag(self.name, version.number, name, str(value))

    def _remember(self, number: str, by: str) -> None:
        self._client.set_registered_model_tag(self.name, SERVING_NUMBER, number)
        self._client.set_registered_model_tag(self.name, SERVING_BY, by)

    def _missing(self) -> bool:
        return not self._client.search_registered_models(f"name='{self.name}'")

    def _convert(self, entry: ModelVersion) -> Version:
        return Version(
            line=self.line,
            number=str(entry.version),
            run_id=entry.run_id or "",
            tags=dict(entry.tags),
            description=entry.description or "",
            aliases=tuple(entry.aliases),
            made_at=datetime.fromtimestamp(int(entry.creation_timestamp or 0) / 1000, UTC),
        )


def _compare(version: Version, folder: Path, parts: Any) -> None:
    """Compare a model folder with the tags of its version; ``parts`` are the digests that MLmodel names.

    Raises:
        ModelFormatError: they differ; ``parts`` only help to say in what.
    """
    from vad_lib.detectors.storage import WHOLE, read_description, refuse_changed

    if DIGEST not in version.tags:
        raise ModelFormatError(
            f"{version.label} has no tag {DIGEST}, by which its model is known: it was not registered by a training, "
            "or somebody removed the tag. Train the line again, or let another version serve."
        )
    try:
        refuse_changed(folder, {**(parts if isinstance(parts, dict) else {}), WHOLE: version.tags[DIGEST]})
    except ModelFormatError as error:
        raise ModelFormatError(f"{version.label} is not used: {error}") from error
    threshold = read_description(folder).get("threshold", {}).get("value")
    if (tag := version.tags.get(THRESHOLD, str(threshold))) != str(threshold):
        raise ModelFormatError(
            f"{version.label} is not used: its tag {THRESHOLD} says {tag}, but its model was registered with "
            f"{threshold}. Set the tag to that, or let another version serve."
        )


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema(
            [ColSpec("string", "image_path", required=False), ColSpec("string", "image_base64", required=False)]
        ),
        outputs=Schema(
            [
                *(ColSpec("double", name, required=False) for name in ("raw_score", "p", "certainty")),
                *(ColSpec("string", name, required=False) for name in ("predicted", "error")),
            ]
        ),
        params=ParamSchema([ParamSpec("inference_threshold", "double", 0.5)]),
    )


def _input_example(image: Path | None) -> Any:
    """One image as base64, so that the example works on any machine."""
    import base64

    import pandas as pd

    if image is None:
        return None
    return pd.DataFrame({"image_base64": [base64.b64encode(image.read_bytes()).decode("ascii")]})


def _requirements() -> list[str]:
    from importlib.metadata import version

    # without the local part (+cpu), which package indexes do not carry
    return [f"{package}=={version(package).partition('+')[0]}" for package in ("mlflow", *REQUIREMENTS)]


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Hold back MLflow's advice about type hints: the signature is given."""
    import logging

    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
