"""What readiness hands on: the rows that passed, and everything that was dropped, changed or noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vad_lib.errors import InputError
from vad_lib.findings import ArgumentChange, Finding
from vad_lib.ground_truth import check_format_version, load_labels, no_labels
from vad_lib.images.paths import resolve_inside
from vad_lib.tables import DroppedRows, ValidatedRows

FORMAT_VERSION = 1
LEAST_TO_FIT, LEAST_TO_VALIDATE = 10, 5
"""Normal images below which a first version waits for a person."""


@dataclass(frozen=True)
class ValidatedDataset:
    """The data after readiness.

    Attributes:
        rows: ``tables.ValidatedRows``.
        dropped: ``tables.DroppedRows``.
        image_facts: ``images.checking.check_images`` of every image that was looked at, with row in front.
        input_table: The user's own columns as read; its index is ``row``.
        data_folder: Absolute.
        path_column: The user's name of the column of paths.
        label_column: The user's name of the column of labels; None without labels.
        source_files: The csv files, relative to the data folder.
        made_from_images: True where the table was made from the images found.
        ok_class: The normal label; empty where it is not known (inference without labels).
        threshold_method: 'F1' or 'Percentile' in force; empty at inference.
        monitor_metric: In force; empty at inference.
        changes: Arguments that were changed automatically.
        findings: All, those of the input step included.
        arguments: As given: {'readiness': {…}, 'train': {…}}, JSON-ready.
        masks: Pictures that mark what is wrong on an image: mask -> image, both relative to the data folder. Those of
            labels are absolute.
        labels: Labels of people that were joined to the table: ``tables.ConfirmedLabels``, and the row.
    """

    rows: pd.DataFrame
    dropped: pd.DataFrame
    image_facts: pd.DataFrame
    input_table: pd.DataFrame
    data_folder: Path
    path_column: str
    label_column: str | None
    source_files: tuple[str, ...]
    made_from_images: bool
    ok_class: str
    threshold_method: str
    monitor_metric: str
    changes: tuple[ArgumentChange, ...]
    findings: tuple[Finding, ...]
    arguments: Mapping[str, Any]
    masks: Mapping[str, str] = field(default_factory=dict)
    labels: pd.DataFrame = field(default_factory=no_labels)

    @property
    def train_rows(self) -> pd.DataFrame:
        """Normal rows that fit the model."""
        return self.rows[self.rows["split"] == "train"]

    @property
    def valid_rows(self) -> pd.DataFrame:
        """Rows that find the threshold and measure the model."""
        return self.rows[self.rows["split"] == "valid"]

    @property
    def normal_facts(self) -> pd.DataFrame:
        """Facts of the usable normal images: what ``environment.compare_environment`` compares new images with."""
        normal = self.rows.loc[self.rows["is_anomalous"].eq(False).fillna(False), "row"]
        return self.image_facts[self.image_facts["row"].isin(normal)]

    @property
    def digest(self) -> str:
        """A sha256 of what a model sees of the dataset: contents, labels and splits, in any order."""
        rows = self.rows[["sha256", "is_anomalous", "split"]].astype(str).sort_values(["sha256", "split"])
        return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()

    def mask_of_files(self) -> dict[str, Path]:
        """Return image -> mask, both absolute.

        Raises:
            UnsafePathError: a relative path leaves the data folder.
        """

        def placed(path: str) -> Path:
            return Path(path) if Path(path).is_absolute() else resolve_inside(self.data_folder, path)

        return {str(placed(image)): placed(mask) for mask, image in self.masks.items()}

    def labels_used(self) -> pd.DataFrame:
        """Return the labels of people with what became of each.

        Returns:
            ``labels`` and ``used_as``: the split of its row, or the rule that left it out.
        """
        used = pd.concat([self.rows.set_index("row")["split"], self.dropped.set_index("row")["rule"]])
        return self.labels.assign(used_as=self.labels["row"].map(used[~used.index.duplicated()]).fillna("nothing"))

    def people_in_words(self) -> str:
        """Say how many images are there by labels of people, and who gave them; empty where there is none."""
        labels = self.labels_used()
        used = labels[labels["used_as"].isin(["train", "valid"])]
        if used.empty:
            return ""
        people = ", ".join(sorted(set(used["person"])))
        fitted = int((used["used_as"] == "train").sum())
        return (
            f"{len(used)} of the images are there by labels of people ({people}; the last of "
            f"{used['created_at'].max():%Y-%m-%d %H:%M} UTC): {fitted} to fit, {len(used) - fitted} to validate."
        )

    def doubts(self, *, fits: bool = True) -> tuple[str, ...]:
        """Say in sentences why a model of these rows can hardly be trusted; empty where nothing speaks against it.

        Args:
            fits: whether the detector learns from the training rows.

        Only what makes its numbers meaningless counts: so few normal images that they say next to nothing.
        """
        fitted = len(self.train_rows)
        validated = int((~self.valid_rows["is_anomalous"].astype(bool)).sum())
        told = []
        if fits and fitted < LEAST_TO_FIT:
            told.append(f"It learnt from {fitted} normal images; fewer than {LEAST_TO_FIT} do not show what is normal.")
        if validated < LEAST_TO_VALIDATE:
            told.append(
                f"It was validated on {validated} normal images; fewer than {LEAST_TO_VALIDATE} say nothing about "
                "false alarms."
            )
        return tuple(told)

    def config(self) -> dict[str, Any]:
        """Return the content of readiness_config.json, JSON-ready."""
        labels = self.rows["label"].value_counts().sort_index()
        counts: dict[str, Any] = {"rows_read": len(self.input_table), "rows_used": len(self.rows)}
        for split in ("train", "valid", "excluded", "inference"):
            anomalous = self.rows.loc[self.rows["split"] == split, "is_anomalous"]
            if len(anomalous):
                counts[split] = {
                    "normal": int(anomalous.eq(False).sum()),
                    "anomalous": int(anomalous.eq(True).sum()),
                    "unlabelled": int(anomalous.isna().sum()),
                }
        counts["labels"] = {str(label): int(count) for label, count in labels.items()}
        if len(self.labels):
            counts["labels_of_people"] = {
                str(used_as): int(count) for used_as, count in self.labels_used()["used_as"].value_counts().items()
            }
        counts["dropped"] = {str(rule): int(count) for rule, count in self.dropped["rule"].value_counts().items()}
        return {
            "ok_class": self.ok_class,
            "threshold_method": self.threshold_method,
            "monitor_metric": self.monitor_metric,
            "automatic_changes": [change.model_dump(mode="json") for change in self.changes],
            "counts": counts,
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
            "arguments": dict(self.arguments),
            "masks": dict(self.masks),
            "path_column": self.path_column,
            "label_column": self.label_column,
            "source_files": list(self.source_files),
            "made_from_images": self.made_from_images,
            "data_folder": str(self.data_folder),
        }

    def save(self, folder: Path) -> None:
        """Write five parquet files and ``dataset.json`` into ``folder``, which is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("rows", "dropped", "image_facts", "input_table", "labels"):
            getattr(self, name).to_parquet(folder / f"{name}.parquet", index=False)
        content = {"format_version": FORMAT_VERSION, **self.config()}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ValidatedDataset:
        """Read what ``save`` wrote.

        Raises:
            InputError: the folder does not hold it, it is damaged, or a newer version wrote it.
        """
        try:
            content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
            check_format_version(content, FORMAT_VERSION, folder)
            tables = {
                name: pd.read_parquet(folder / f"{name}.parquet")
                for name in ("rows", "dropped", "image_facts", "input_table")
            }
            return cls(
                rows=ValidatedRows.validate(tables["rows"]),
                dropped=DroppedRows.validate(tables["dropped"]),
                image_facts=tables["image_facts"],
                input_table=tables["input_table"],
                data_folder=Path(content["data_folder"]),
                path_column=content["path_column"],
                label_column=content["label_column"],
                source_files=tuple(content["source_files"]),
                made_from_images=content["made_from_images"],
                ok_class=content["ok_class"],
                threshold_method=content["threshold_method"],
                monitor_metric=content["monitor_metric"],
                changes=tuple(ArgumentChange.model_validate(change) for change in content["automatic_changes"]),
                findings=tuple(Finding.model_validate(finding) for finding in content["findings"]),
                arguments=content["arguments"],
                masks=content["masks"],
                labels=load_labels(folder),
            )
        except Exception as error:  # damaged parquet and JSON raise many kinds
            raise InputError(f"{folder} holds no readable dataset ({error}). Run the readiness step again.") from error
