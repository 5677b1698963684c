"""Every environment variable that the product reads, with its default and its meaning; ``vad settings`` prints them.

Nothing else reads the environment. ``settings()`` reads it afresh at each call, so a process that sets a variable and
a test that patches one see the change at once.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from vad_lib.errors import InputError

HIDDEN = "**********"


def _usable_folder(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    if found := sorted({"%", "?"} & set(str(folder))):
        raise ValueError(
            f"The path holds {' and '.join(found)}, which addresses of databases cannot carry. Choose another folder."
        )
    return folder.expanduser().resolve()


Folder = Annotated[Path | None, AfterValidator(_usable_folder)]


def variable(name: str, default: Any, meaning: str, *, unset: str = "", **limits: Any) -> Any:
    """Declare a setting.

    Args:
        name: of the environment variable.
        default: the value where the variable is not set, or is empty.
        meaning: full sentences for the user.
        unset: what the default means, in words, where the value itself does not say it.
        limits: of the value, as pydantic has them.
    """
    return Field(
        default,
        validation_alias=name,
        description=meaning,
        json_schema_extra={"unset": unset},
        **limits,
    )


class Settings(BaseSettings):
    """The settings of one process, read from its environment."""

    model_config = SettingsConfigDict(case_sensitive=True, env_ignore_empty=True, extra="ignore", frozen=True)

    home: Folder = variable(
        "VAD_HOME",
        None,
        "The folder that holds everything that the system writes: lines, results, both databases and the models.",
        unset="the folder `var` beside the code",
    )
    shared: bool = variable(
        "VAD_SHARED",
        False,
        "Whether other users of this machine may read what the system writes, as far as the umask and the rights of "
        "folders allow. Without it everything that is made anew is for one user only.",
    )
    weights: Folder = variable(
        "VAD_WEIGHTS", None, "The folder in which weights of backbones are looked for.", unset="`weights` in VAD_HOME"
    )
    inspection_db: str | None = variable(
        "VAD_INSPECTION_DB",
        None,
        "The address of the inspection database, as SQLAlchemy writes it: SQLite, or PostgreSQL for several machines.",
        unset="the SQLite file `inspection.db` in VAD_HOME",
    )
    dagster_home: Folder = variable(
        "DAGSTER_HOME",
        None,
        "The folder in which Dagster keeps its settings, its runs and its logs.",
        unset="`dagster` in VAD_HOME",
    )
    mlflow_tracking_uri: str | None = variable(
        "MLFLOW_TRACKING_URI",
        None,
        "Where MLflow keeps runs and model versions. With an address of a server, `vad dev` starts none of its own.",
        unset="the SQLite file `mlflow/mlflow.db` in VAD_HOME",
    )
    dagster_ui_url: str = variable(
        "DAGSTER_UI_URL",
        "http://127.0.0.1:3000",
        "The address of Dagster's pages, which links lead to; `vad dev` sets it where it is not set.",
    )
    mlflow_ui_url: str | None = variable(
        "MLFLOW_UI_URL",
        None,
        "The address of MLflow's pages, which links lead to; `vad dev` sets it where it is not set.",
        unset="the tracking server where there is one, else `http://127.0.0.1:5000`",
    )
    service_ui_url: str = variable(
        "SERVICE_UI_URL",
        "http://127.0.0.1:8600",
        "The address of the inference service's pages, which links lead to; `vad dev` sets it where it is not set.",
    )
    token: SecretStr = variable(
        "VAD_TOKEN",
        SecretStr(""),
        "The secret that a request to the inference service must bear; it lets people in as approvers. Without any "
        "secret the service listens on this machine only.",
        unset="no token",
    )
    reviewer_token: SecretStr = variable(
        "VAD_REVIEWER_TOKEN",
        SecretStr(""),
        "The secret that lets people in as reviewers, who judge images and send new ones.",
        unset="no token",
    )
    viewer_token: SecretStr = variable(
        "VAD_VIEWER_TOKEN", SecretStr(""), "The secret that lets people in as viewers, who look.", unset="no token"
    )
    proxy_token: SecretStr = variable(
        "VAD_PROXY_TOKEN",
        SecretStr(""),
        "The secret of a proxy with login. What it says in X-Forwarded-User and X-Forwarded-Groups is believed: the "
        "name, and the groups viewer, reviewer or approver, also as vad-viewer and so on.",
        unset="no proxy is believed",
    )
    ui_token: SecretStr = variable(
        "VAD_UI_TOKEN",
        SecretStr(""),
        "The password that Dagster's pages ask for where `vad dev` starts them; any user name goes with it.",
        unset="no password",
    )
    allowed_hosts: str = variable(
        "VAD_ALLOWED_HOSTS",
        "",
        "Further host names, separated by commas, under which Dagster's pages, MLflow's and the inference service may "
        "be asked, as behind a proxy.",
        unset="the names of this machine only",
    )
    webhook_url: str = variable(
        "VAD_WEBHOOK_URL",
        "",
        "The address to which the inference service posts each result. `{line}` in it becomes the name of the line.",
        unset="results are not posted",
    )
    webhook_secret: SecretStr = variable(
        "VAD_WEBHOOK_SECRET",
        SecretStr(""),
        "The secret with which each posted result is signed, so that the receiver can tell who sent it.",
        unset="posted results are not signed",
    )
    notify: SecretStr = variable(
        "VAD_NOTIFY",
        SecretStr(""),
        "Who is told what happens: `NAME=ADDRESS NAME=ADDRESS`, with addresses as apprise has them, such as "
        "night-shift=mailto://…. The plan of a line says which events go to which name.",
        unset="nobody is told",
    )
    mqtt_url: str = variable(
        "VAD_MQTT_URL",
        "",
        "The MQTT broker to which each result and the state of each line go, such as mqtt://127.0.0.1:1883 or "
        "mqtts://broker:8883.",
        unset="nothing is published",
    )
    mqtt_user: str = variable("VAD_MQTT_USER", "", "The user name at the MQTT broker.", unset="no name")
    mqtt_password: SecretStr = variable(
        "VAD_MQTT_PASSWORD", SecretStr(""), "The password at the MQTT broker.", unset="no password"
    )
    mqtt_topic: str = variable("VAD_MQTT_TOPIC", "vad", "The topic under which everything is published.")
    result_files: bool = variable(
        "VAD_RESULT_FILES", False, "Whether the inference service writes a result file beside each image."
    )
    scoring_backend: Literal["auto", "torch", "openvino", "onnx"] = variable(
        "VAD_SCORING_BACKEND",
        "auto",
        "What computes scores on the CPU. `auto` measures the backends once for each model and takes the fastest. A "
        "backend that decides otherwise than torch is never taken.",
    )
    feature_cache_gib: float = variable(
        "VAD_FEATURE_CACHE_GIB",
        10.0,
        "The most GiB of disk that features of training images may take, so that a retraining extracts only what is "
        "new. 0 keeps none.",
        ge=0,
        allow_inf_nan=False,
    )
    summary_strategy: str | None = variable(
        "VAD_SUMMARY_STRATEGY",
        None,
        "The function, written `module:function`, that says what the summary of an inspection says.",
        unset="the number of images of each label",
    )
    fallback_backbone: bool = variable(
        "VAD_FALLBACK_BACKBONE",
        True,
        "Whether the backbone that is always there (EfficientNet-Lite0) is used where the weights that a plan asks for "
        "are missing. With 0 the training stops instead, and says which file it wants.",
    )
    allow_random_weights: bool = variable(
        "VAD_ALLOW_RANDOM_WEIGHTS",
        False,
        "Whether a backbone may have random weights where its own are missing. This is for tests; such a model is "
        "worth nothing.",
    )
    vlm_url: str = variable(
        "VAD_VLM_URL",
        "",
        "The address of an endpoint that speaks OpenAI's protocol and answers about pictures, such as "
        "http://127.0.0.1:11434/v1. Pictures are sent to another machine only for lines whose plan allows it.",
        unset="findings are not described",
    )
    vlm_model: str = variable(
        "VAD_VLM_MODEL",
        "",
        "The vision language model, as the endpoint calls it; `vad describe check` lists what it has.",
        unset="findings are not described",
    )
    vlm_api_key: SecretStr = variable(
        "VAD_VLM_API_KEY",
        SecretStr(""),
        "The secret that the endpoint asks for; better kept in a file, see VAD_VLM_API_KEY_FILE.",
        unset="no secret",
    )
    vlm_api_key_file: str = variable(
        "VAD_VLM_API_KEY_FILE",
        "",
        "The file whose first line is the secret that the endpoint asks for.",
        unset="no file",
    )
    vlm_seconds: float = variable(
        "VAD_VLM_SECONDS",
        60.0,
        "How many seconds the endpoint may take for one reply. A model on a CPU needs more.",
        gt=0,
        le=3600,
        allow_inf_nan=False,
    )
    vlm_language: str = variable(
        "VAD_VLM_LANGUAGE", "English", "The language in which findings are described, such as German.", max_length=64
    )
    vlm_findings_hour: int = variable(
        "VAD_VLM_FINDINGS_HOUR",
        60,
        "The most findings of one line that are described within an hour; more of them wait.",
        ge=0,
    )
    vlm_tokens_day: int = variable(
        "VAD_VLM_TOKENS_DAY",
        1_000_000,
        "The most tokens that descriptions and dialogues of one line may use within 24 hours; then they wait.",
        ge=0,
    )
    vlm_prompt_tokens: int = variable(
        "VAD_VLM_PROMPT_TOKENS",
        12_000,
        "The most tokens of one prompt of a dialogue: the oldest turns are left out. The endpoint needs a context of "
        "some 1,000 tokens more.",
        ge=500,
    )
    hf_hub_offline: bool = variable(
        "HF_HUB_OFFLINE", False, "Whether weights are never downloaded, even where there is a network."
    )


def settings() -> Settings:
    """Return the settings as the environment has them now.

    Raises:
        InputError: a variable has a value that cannot be used; the message names it, and never shows a secret.
    """
    return _read(tuple(os.environ.get(name) for name in NAMES.values()))


def keep_private() -> None:
    """Let what this process and its children make anew be for one user only, unless ``VAD_SHARED`` is set.

    What is there already keeps its rights, such as a watch folder that others write into.
    """
    if not settings().shared:
        os.umask(0o077)


@dataclass(frozen=True)
class Described:
    """One variable as ``vad settings`` and the page of the documentation show it; ``value`` holds no secret."""

    name: str
    value: str
    source: Literal["environment", "default"]
    kind: str
    default: str
    meaning: str


def described() -> list[Described]:
    """Return every variable with its value, where that came from, its default and its meaning."""
    now = settings()
    found = []
    for field, facts in Settings.model_fields.items():
        extra = facts.json_schema_extra if isinstance(facts.json_schema_extra, dict) else {}
        default = str(extra.get("unset") or _plain(facts.default))
        given = field in now.model_fields_set
        found.append(
            Described(
                name=NAMES[field],
                value=_plain(getattr(now, field)) if given else default,
                source="environment" if given else "default",
                kind=_kind(facts.annotation),
                default=default,
                meaning=str(facts.description),
            )
        )
    return found


NAMES = {field: str(facts.validation_alias) for field, facts in Settings.model_fields.items()}
"""The environment variable of each field."""


@lru_cache(maxsize=4)
def _read(values: tuple[str | None, ...]) -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        told = []
        for fault in error.errors(include_url=False):
            name = str(fault["loc"][0])
            what = fault["msg"].removeprefix("Value error, ")
            told.append(f"{name} is {without_password(str(fault['input']))!r}: {what}")
        raise InputError("\n".join(told)) from None


def without_password(address: str) -> str:
    """Return an address without the password that it may hold.

    >>> without_password("postgresql://vad:secret@db.local/vad")
    'postgresql://vad:**********@db.local/vad'
    """
    return re.sub(r"(://[^:/?#@]*):[^@/?#]*@", rf"\1:{HIDDEN}@", address)


def _plain(value: Any) -> str:
    if isinstance(value, SecretStr):
        return HIDDEN if value.get_secret_value() else ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:g}" if isinstance(value, float) else without_password(str(value))


def _kind(annotation: Any) -> str:
    if annotation is bool:
        return "0 or 1"
    if annotation in (float, int):
        return "a number"
    if annotation is SecretStr:
        return "a secret"
    if "Literal" in str(annotation):
        return "one of " + ", ".join(annotation.__args__)
    return "a folder" if "Path" in str(annotation) else "a text"
