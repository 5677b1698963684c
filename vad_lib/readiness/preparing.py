"""The readiness step: apply the rules in their order, and say everything that they found.

Rules that need no images come first, then each image is decoded once, then the rules on labels, split and images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vad_lib.errors import ReadinessError
from vad_lib.findings import Finding
from vad_lib.ground_truth import InputTable
from vad_lib.images.checking import FACT_TYPES, check_images
from vad_lib.plan.arguments import ReadinessArguments, TrainArguments
from vad_lib.progress import Progress, silent
from vad_lib.readiness import environment, image_rules, label_rules, pose, splitting, table_rules
from vad_lib.readiness.dataset import LEAST_TO_VALIDATE, ValidatedDataset
from vad_lib.readiness.rules import RULES, Drop
from vad_lib.readiness.threshold_method import change_finding, choose_threshold_method, too_few_for_budget
from vad_lib.tables import OK, DroppedRows, ValidatedRows

logger = logging.getLogger(__name__)
_MANDATORY = {rule.name for rule in RULES if rule.mandatory}
_LEVELS = {"info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def prepare_training_data(
    input_table: InputTable,
    arguments: ReadinessArguments,
    train: TrainArguments,
    progress: Progress = silent,
    workers: int | None = None,
) -> ValidatedDataset:
    """Check, clean and split the training data, and settle the arguments that depend on them.

    Args:
        input_table: From ``ground_truth.read_input`` with pipeline 'train'.
        arguments: Of the readiness step.
        train: Of the train step; experiment_seed and monitor_metric are used, and whether its detector needs images.
        progress: Of the checking of images.
        workers: Threads for it.

    Raises:
        ReadinessError: training is impossible, or a mandatory requirement is broken and enforce_requirements is set.
            All findings up to then are in it.
    """
    gathered = _Gathered(input_table, arguments)
    column = arguments.train_validate_column.strip()
    gathered.note(table_rules.missing_columns(input_table, column))
    gathered.stop_if_blocked()
    given = {
        "readiness": arguments.model_dump(mode="json"),
        "train": train.model_dump(mode="json", include={"experiment_seed", "monitor_metric"}),
    }
    if not input_table.rows_of_files and not train.needs_images and _has_too_few_labels(gathered):
        nothing = pd.DataFrame(columns=list(ValidatedRows.to_schema().columns))
        method, metric = arguments.threshold_method, train.monitor_metric
        return gathered.dataset(
            nothing,
            ok_class=arguments.ok_class,
            threshold_method=method,
            monitor_metric=metric,
            changes=(),
            arguments=given,
        )
    table = _usable_images(gathered, column, input_table.label_column, progress, workers)
    gathered.stop_if_blocked()

    ok_class, finding = _ok_class(table, input_table, arguments.ok_class)
    gathered.note(finding)
    if ok_class is None:
        gathered.note_all(_image_findings(table))
        gathered.stop_if_blocked()
        raise AssertionError("a label that is not known blocks")
    gathered.note(label_rules.similar_labels(table["label"], ok_class))
    table = label_rules.with_anomalous(table, ok_class)
    table = gathered.drop(table, label_rules.labels_against_table(table, input_table.labels))
    table = gathered.drop(table, label_rules.labelled_already(table))
    table = gathered.drop(table, label_rules.conflicting_labels(table))

    if column:
        gathered.note(splitting.other_split_values(table, column))
        table["split"] = splitting.split_by_column(table)
        gathered.note(splitting.anomalous_train_rows(table))
        table = gathered.drop(table, splitting.train_valid_leak(table))
    else:
        table["split"] = splitting.split_by_rate(table, arguments.validation_split_rate, train.experiment_seed)
    if not train.needs_images:  # nothing is fitted: what people say is there to validate
        table.loc[table["said"].notna(), "split"] = "valid"
    table["split"], finding = splitting.labels_beside_look_alikes(table)
    gathered.note(finding)
    table = gathered.drop(*label_rules.several_kinds(table))
    normal = table[~table["is_anomalous"]]
    gathered.note_all(
        [
            splitting.normal_rows_to_split(table, column, fits=train.needs_images),
            image_rules.normal_image_count(len(normal), arguments.allow_small_dataset),
            label_rules.mostly_anomalous(table),
            label_rules.only_normal_images(table),
            label_rules.images_per_anomaly(table),
            splitting.near_duplicates_across_split(table),
            image_rules.format_tells_label(table),
            *_image_findings(table),
        ]
    )
    gathered.stop_if_blocked()
    gathered.note_all([pose.pose(normal), environment.focus(normal), environment.environment(normal)])

    valid = table.loc[table["split"] == "valid", "is_anomalous"]
    choice = choose_threshold_method(int((~valid).sum()), int(valid.sum()), arguments, train.monitor_metric)
    rule = train.learning_rule(choice.threshold_method)
    gathered.note_all(
        [
            change_finding(choice, "threshold_method"),
            change_finding(choice, "monitor_metric"),
            too_few_for_budget(int((~valid).sum()), rule.method, rule.budget),
        ]
    )
    return gathered.dataset(
        table,
        ok_class=ok_class,
        threshold_method=choice.threshold_method,
        monitor_metric=choice.monitor_metric,
        changes=choice.changes,
        arguments=given,
    )


def prepare_inference_data(
    input_table: InputTable,
    ok_class: str | None = None,
    *,
    arguments: ReadinessArguments | None = None,
    train_facts: pd.DataFrame | None = None,
    files: Sequence[str | Path] | None = None,
    allow_empty: bool = False,
    progress: Progress = silent,
    workers: int | None = None,
) -> ValidatedDataset:
    """Check the data to inspect. Rows without a label stay; rows without a usable image are dropped with a reason.

    Args:
        input_table: From ``ground_truth.read_input`` with pipeline 'inference'.
        ok_class: The model's normal label; without it labels are carried, but say nothing about is_anomalous.
        arguments: Of the readiness step; only enforce_requirements matters here.
        train_facts: ``ValidatedDataset.normal_facts`` of the training data, to compare the new images with.
        files: Take only these files (absolute, or relative to the data folder); one without a row gets one.
        allow_empty: Return a dataset without rows where nothing can be used, instead of raising.
        progress: Of the checking of images.
        workers: Threads for it.

    Raises:
        ReadinessError: the column of paths is missing, nothing can be used, or a mandatory requirement is broken and
            enforce_requirements is set.
    """
    if files is not None:
        input_table = input_table.for_files(files)
    gathered = _Gathered(input_table, arguments or ReadinessArguments())
    gathered.note(table_rules.missing_columns(input_table))
    gathered.stop_if_blocked()
    table = _usable_images(gathered, "", None, progress, workers)
    if not allow_empty:
        gathered.stop_if_blocked()
    table["split"] = "inference"
    known = table["label"].notna() if ok_class else pd.Series(False, index=table.index)
    table["is_anomalous"] = (table["label"] != ok_class).astype("boolean").mask(~known)
    if ok_class:
        gathered.note(label_rules.similar_labels(table["label"], ok_class))
    table = gathered.drop(*label_rules.several_kinds(table))
    if len(table):
        gathered.note_all(_image_findings(table))
    if not allow_empty:
        gathered.stop_if_blocked()
    if train_facts is not None:
        gathered.note_all(environment.compare_environment(train_facts, table))
    return gathered.dataset(
        table,
        ok_class=ok_class or "",
        threshold_method="",
        monitor_metric="",
        changes=(),
        arguments={"readiness": gathered.arguments.model_dump(mode="json")},
    )


def _has_too_few_labels(gathered: _Gathered) -> bool:
    """Say whether there is nothing to validate with, in a table without rows of the user's own."""
    gathered.note(finding := label_rules.labels_wait(gathered.input_table, LEAST_TO_VALIDATE))
    return finding is not None or gathered.input_table.labels.empty


def _ok_class(table: pd.DataFrame, source: InputTable, given: str) -> tuple[str | None, Finding | None]:
    """Return the normal label of the user's own rows: what people labelled changes it not."""
    if not source.rows_of_files:
        return given.strip() or OK, None
    return label_rules.resolve_ok_class(table.loc[table["said"].isna(), "label"], given)


class _Gathered:
    """Findings and dropped rows, while the rules are applied."""

    def __init__(self, input_table: InputTable, arguments: ReadinessArguments) -> None:
        self.input_table = input_table
        self.arguments = arguments
        self.findings: list[Finding] = list(input_table.findings)
        self.facts = pd.DataFrame(columns=["row", *FACT_TYPES])
        self._dropped: list[pd.DataFrame] = []

    @property
    def dropped(self) -> pd.DataFrame:
        empty = pd.DataFrame(columns=["row", "image_path", "rule", "reason"])
        parts = self._dropped or [empty]
        return DroppedRows.validate(pd.concat(parts, ignore_index=True).sort_values("row", ignore_index=True))

    def note(self, finding: Finding | None) -> None:
        if finding is None:
            return
        enforced = self.arguments.enforce_requirements and finding.rule in _MANDATORY and finding.severity == "error"
        if enforced:
            finding = finding.model_copy(update={"blocking": True})
        self.findings.append(finding)
        logger.log(_LEVELS[finding.severity], "%s: %s %s", finding.rule, finding.message, finding.advice)

    def note_all(self, findings: Iterable[Finding | None]) -> None:
        for finding in findings:
            self.note(finding)

    def drop(self, table: pd.DataFrame, drop: Drop | None) -> pd.DataFrame:
        """Note the finding and return the table without the dropped rows."""
        if drop is None:
            return table
        self.note(drop.finding)
        rows = table.loc[drop.reasons.index, ["row", "image_path"]]
        self._dropped.append(rows.assign(rule=drop.finding.rule, reason=drop.reasons))
        return table.drop(index=drop.reasons.index)

    def stop_if_blocked(self) -> None:
        blocking = [finding for finding in self.findings if finding.blocking]
        if blocking:
            lines = [f"- {finding.message} {finding.advice}".rstrip() for finding in blocking]
            text = f"The data in {self.input_table.data_folder} cannot be used:\n" + "\n".join(lines)
            raise ReadinessError(text, self.findings, self.dropped)

    def dataset(self, table: pd.DataFrame, **settled: Any) -> ValidatedDataset:
        columns = list(ValidatedRows.to_schema().columns)
        source = self.input_table
        return ValidatedDataset(
            rows=ValidatedRows.validate(table.reset_index(drop=True)[columns]),
            dropped=self.dropped,
            image_facts=self.facts.reset_index(drop=True),
            input_table=source.table,
            data_folder=source.data_folder,
            path_column=source.path_column,
            label_column=source.label_column,
            source_files=source.source_files,
            made_from_images=source.made_from_images,
            findings=tuple(self.findings),
            masks=source.masks,
            labels=source.labels,
            **settled,
        )


def _usable_images(
    gathered: _Gathered, split_column: str, label_column: str | None, progress: Progress, workers: int | None
) -> pd.DataFrame:
    """Return the working table with the facts of its images; ``label_column`` is None where labels may be missing."""
    source = gathered.input_table
    gathered.note(table_rules.spaces_around_values(source))
    table = table_rules.working_table(source, split_column)
    table = gathered.drop(table, table_rules.missing_values(table, source.path_column, label_column))
    table, drops = table_rules.find_files(table, source)
    for drop in drops:
        table = gathered.drop(table, drop)
    table = gathered.drop(table, table_rules.repeated_rows(table))
    facts = check_images(list(table["file"]), progress, workers)
    facts.index = table.index
    gathered.facts = facts.assign(row=table["row"])[["row", *FACT_TYPES]]
    table = table.join(facts.drop(columns="file"))
    table = gathered.drop(table, image_rules.unreadable_image(table))
    own = table[table["said"].isna()] if source.rows_of_files else table
    gathered.note(table_rules.no_rows_left(own, source.rows_of_files, gathered.dropped))
    return table


def _image_findings(table: pd.DataFrame) -> list[Finding | None]:
    """Rules on images that hold in both pipelines."""
    return [
        image_rules.channels(table),
        image_rules.resolution(table),
        image_rules.recommended_resolution(table),
        image_rules.mixed_sizes(table),
        image_rules.converted_images(table),
        image_rules.unique_names(table),
        image_rules.exact_duplicates(table),
        image_rules.near_duplicates(table),
    ]
