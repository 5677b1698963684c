"""The ground truth as it was read: a table of image paths and labels, or a table made from the images found.

Nothing is repaired, renamed or dropped here; that is readiness, which can then say what it changed. All cells are text:
a label 007 stays '007'. An empty cell is a missing value; words such as 'NA' or 'None' are text like any other. What
people said about images that the line inspected is joined as further rows, in the words of the table.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd

from vad_lib.csv_text import read_csv_text
from vad_lib.errors import InputError
from vad_lib.findings import MAX_EXAMPLES, Finding
from vad_lib.images.listing import FolderListing, list_folder
from vad_lib.images.paths import SUFFIXES_TEXT, as_meant, resolve_inside
from vad_lib.plan.arguments import InputArguments
from vad_lib.tables import NG, OK, ConfirmedLabels

FORMAT_VERSION = 1


def no_labels() -> pd.DataFrame:
    """Return the table of labels that were joined, without a row."""
    return pd.DataFrame(columns=["row", *ConfirmedLabels.to_schema().columns])


@dataclass(frozen=True)
class InputTable:
    """What the input step hands on.

    Attributes:
        table: The user's columns and rows, all text, missing cells None; the index counts from 0.
        data_folder: Absolute; relative image paths start here.
        path_column: Name of the column of image paths. It need not be in the table: readiness checks that.
        label_column: Name of the column of labels; None at inference where the table has none.
        source_files: The csv files that were read, in order, relative to the data folder.
        made_from_images: True where no csv was there and the table was made from the images found.
        findings: What was noticed on the way.
        masks: Pictures that mark what is wrong on an image: mask -> image, both relative to the data folder. Those of
            labels are absolute.
        labels: Labels of people whose images are rows of the table too: ``tables.ConfirmedLabels``, and the row. They
            are the last rows; their paths are absolute, and need not lie in the data folder.
    """

    table: pd.DataFrame
    data_folder: Path
    path_column: str
    label_column: str | None
    source_files: tuple[str, ...]
    made_from_images: bool
    findings: tuple[Finding, ...] = ()
    masks: Mapping[str, str] = field(default_factory=dict)
    labels: pd.DataFrame = field(default_factory=no_labels)

    @property
    def rows_of_files(self) -> int:
        """How many rows come from the user's own table."""
        return len(self.table) - len(self.labels)

    def with_labels(self, labels: pd.DataFrame, *, ok_class: str = "", split_column: str = "") -> InputTable:
        """Join the labels of people to the rows, in the words that the table has for normal, defect, train and valid.

        Normal images are to be fitted and defective ones validate, where a column says so. A kind of defect goes along
        where the table itself calls its defects by kinds, and boxes go along as masks. A table that lacks a column
        stays as it is: readiness stops at it.

        Args:
            labels: ``tables.ConfirmedLabels``; those without a file are left out.
            ok_class: Of the plan; empty takes the most frequent label of the table.
            split_column: Of the plan; empty where there is none.
        """
        wanted = {self.path_column, self.label_column, *([split_column] if split_column else [])}
        found = labels[labels["file"].notna()]
        if found.empty or not wanted <= set(self.table.columns):
            return self
        written = _words(self.table[self.label_column])
        ok_word = ok_class.strip() or (written.most_common(1)[0][0] if written else OK)
        is_ok = found["label"] == OK
        columns: dict[Any, Any] = {self.path_column: found["file"]}
        kinds = {word.lower(): word for word in written if word != ok_word}
        defects = found["kind"].fillna("").str.lower().map(kinds).fillna(usual_defect(written, ok_word))
        columns[self.label_column] = defects.mask(is_ok, ok_word)
        if split_column:
            train, valid = _split_words(_words(self.table[split_column]))
            columns[split_column] = is_ok.map({True: train, False: valid})
        added = pd.DataFrame(columns, dtype=object).reindex(columns=self.table.columns)
        rows = range(len(self.table), len(self.table) + len(found))
        return replace(
            self,
            table=_none_where_missing(pd.concat([self.table, added], ignore_index=True)),
            masks={
                **self.masks,
                **{mask: file for mask, file in zip(found["mask"], found["file"], strict=True) if mask},
            },
            labels=found.reset_index(drop=True).assign(row=rows)[["row", *labels.columns]],
        )

    def for_files(self, files: Sequence[str | Path]) -> InputTable:
        """Return the rows of these files only, in the order of ``files``; a file without a row gets one without label.

        Files are absolute or relative to the data folder.

        Raises:
            UnsafePathError: a file is not in the data folder.
        """
        known: dict[str, int] = {}
        for position, path in enumerate(self.table.get(self.path_column, ())):
            if isinstance(path, str) and path.strip():
                known.setdefault(os.path.normpath(self.data_folder / as_meant(self.data_folder, path)), position)
        rows: list[dict[str, Any]] = []
        columns = list(dict.fromkeys([*self.table.columns, self.path_column]))
        for file in files:
            absolute = os.path.normpath(self.data_folder / file)
            if not Path(absolute).is_relative_to(self.data_folder):
                absolute = str(resolve_inside(self.data_folder, file))  # written through a link to the folder
            if absolute in known:
                rows.append({str(name): cell for name, cell in self.table.iloc[known[absolute]].items()})
            else:
                rows.append({self.path_column: Path(absolute).relative_to(self.data_folder).as_posix()})
        return replace(self, table=_text_table(rows, columns), labels=no_labels())

    def save(self, folder: Path) -> None:
        """Write ``table.parquet``, ``labels.parquet`` and ``input.json`` into ``folder``, which is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_parquet(folder / "table.parquet", index=False)
        self.labels.to_parquet(folder / "labels.parquet", index=False)
        content = {
            "format_version": FORMAT_VERSION,
            "columns": list(self.table.columns),
            "data_folder": str(self.data_folder),
            "path_column": self.path_column,
            "label_column": self.label_column,
            "source_files": self.source_files,
            "made_from_images": self.made_from_images,
            "masks": dict(self.masks),
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
        }
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / "input.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> InputTable:
        """Read what ``save`` wrote.

        Raises:
            InputError: the folder does not hold it, or a newer version wrote it.
        """
        try:
            content = json.loads((folder / "input.json").read_text(encoding="utf-8"))
            table = pd.read_parquet(folder / "table.parquet")
            check_format_version(content, FORMAT_VERSION, folder)
            return cls(
                table=_none_where_missing(table),
                data_folder=Path(content["data_folder"]),
                path_column=content["path_column"],
                label_column=content["label_column"],
                source_files=tuple(content["source_files"]),
                made_from_images=content["made_from_images"],
                masks=content["masks"],
                findings=tuple(Finding.model_validate(finding) for finding in content["findings"]),
                labels=load_labels(folder),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no readable input table ({error}). Run the input step again.") from error


def load_labels(folder: Path) -> pd.DataFrame:
    """Return the labels that a stored table carries; none where it was stored before tables carried any."""
    file = folder / "labels.parquet"
    return pd.read_parquet(file) if file.is_file() else no_labels()


def usual_defect(labels: Counter[str], ok_label: str) -> str:
    """Return the word that is used most for what is not normal; 'NG' where there is none."""
    return next((label for label, _ in labels.most_common() if label != ok_label), NG)


def check_format_version(content: dict[str, Any], newest: int, folder: Path) -> None:
    """Raise ValueError where a newer program wrote the folder."""
    if (version := content["format_version"]) > newest:
        raise ValueError(f"{folder} was written in format {version}; this version reads up to {newest}")


def read_input(
    data_folder: Path,
    arguments: InputArguments,
    *,
    pipeline: Literal["train", "inference"],
    ignored_suffixes: tuple[str, ...] = (),
    may_be_empty: bool = False,
) -> InputTable:
    """Read the ground truth of a folder.

    All csv files that lie directly in the folder are read, in the order of their names, and joined if they have the
    same columns. Without a csv file the inference pipeline makes the table from the images found at any depth; the
    training pipeline needs one.

    Args:
        data_folder: Holds the table and, at any depth, the images.
        arguments: Of the plan's input step.
        pipeline: 'train' or 'inference'.
        ignored_suffixes: Of the plan's section operation; files that end so are no finding.
        may_be_empty: Training goes on with an empty table where the folder holds neither a row nor an image.

    Raises:
        InputError: no folder, no table, no image, a file that cannot be read as ``encoding``, differing columns.
    """
    if not data_folder.is_dir():
        what = "is a file" if data_folder.is_file() else "does not exist"
        raise InputError(f"The data folder {data_folder} {what}. Give the folder that holds the table and the images.")
    folder = Path(os.path.realpath(data_folder))
    listing = list_folder(folder)
    listing.others[:] = [path for path in listing.others if not path.lower().endswith(ignored_suffixes)]
    findings = [finding for finding in (_other_formats(listing), _badly_named(listing), _masks(listing)) if finding]
    if not listing.tables:
        if may_be_empty and not listing.images:
            return no_images(folder, arguments)
        if pipeline == "train":
            raise InputError(_no_table_message(folder, listing, arguments))
        if not listing.images:
            raise InputError(
                f"{folder} holds no {SUFFIXES_TEXT} image and no csv table ({len(listing.others)} other files). "
                "Put the images to inspect there, at any depth."
            )
        rows = [{arguments.path_column: path} for path in listing.images]
        table = _text_table(rows, [arguments.path_column])
        return InputTable(table, folder, arguments.path_column, None, (), True, tuple(findings), listing.masks)
    if deeper := _deeper_tables(listing):
        findings.append(deeper)
    wanted = (arguments.path_column, arguments.y_column)
    read = partial(read_csv_text, encoding=arguments.encoding, wanted=wanted, may_be_empty=may_be_empty)
    table = _join([(name, read(folder, name)) for name in listing.tables])
    if arguments.path_column in table.columns:
        named = _named_files(table, arguments.path_column, folder)
        told = _images_without_row(listing, named, folder), _rows_of_masks(listing, named, folder)
        findings += [finding for finding in told if finding]
    if may_be_empty and table.empty:
        findings.append(_no_training_images(folder))
    has_labels = arguments.y_column in table.columns or pipeline == "train"
    return InputTable(
        table=table,
        data_folder=folder,
        path_column=arguments.path_column,
        label_column=arguments.y_column if has_labels else None,
        source_files=tuple(listing.tables),
        made_from_images=False,
        findings=tuple(findings),
        masks=listing.masks,
    )


def no_images(folder: Path, arguments: InputArguments) -> InputTable:
    """Return the empty table of a line without training images; its finding says so.

    Args:
        folder: where the images would be.
        arguments: Of the plan's input step.
    """
    path, label = arguments.path_column, arguments.y_column
    return InputTable(_text_table([], [path, label]), folder, path, label, (), False, (_no_training_images(folder),))


def _no_training_images(folder: Path) -> Finding:
    return Finding(
        rule="no_training_images",
        severity="info",
        message=f"No training image is named in {folder}, and the detector needs none. Without labelled images nothing "
        "is known about misses and false alarms.",
        advice="A table of some normal and defective images, all of them for validation, would tell.",
        count=1,
    )


def _no_table_message(folder: Path, listing: FolderListing, arguments: InputArguments) -> str:
    header = f"{arguments.path_column},{arguments.y_column}"
    text = (
        f"{folder} holds no csv file, and training needs one. Put a table beside the images with the header "
        f"'{header}' and one line an image, such as './good/image0.png,good'."
    )
    if listing.deeper_tables:
        text += f" There is {listing.deeper_tables[0]}, but the table must lie directly in the data folder."
    elif listing.images:
        text += (
            f" 'vad line add' can write one for the {len(listing.images)} images there, labelled by their sub-folders."
        )
    return text


def _join(tables: list[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    first_name, first = tables[0]
    for name, table in tables[1:]:
        if set(table.columns) != set(first.columns):
            raise InputError(
                f"{first_name} has the columns {list(first.columns)}, {name} has {list(table.columns)}. Several csv "
                "files are joined only if their columns are the same: keep one, or move the others elsewhere."
            )
    return pd.concat([table[list(first.columns)] for _, table in tables], ignore_index=True)


def _words(column: pd.Series) -> Counter[str]:
    """Count the words of a column; spaces around them and empty cells do not count."""
    return Counter(word for word in column.dropna().str.strip() if word)


def _split_words(written: Counter[str]) -> tuple[str, str]:
    """Return how a table writes train and valid, as readiness reads it: whatever is not train is valid."""
    usual = [word for word, _ in written.most_common()]
    train = next((word for word in usual if word.lower() == "train"), "train")
    other = [word for word in usual if word.lower() != "train"]
    return train, next((word for word in other if word.lower() == "valid"), other[0] if other else "valid")


def _text_table(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    return _none_where_missing(pd.DataFrame(rows, columns=columns, dtype=object))


def _none_where_missing(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype(object).where(table.notna(), cast(Any, None))


def _other_formats(listing: FolderListing) -> Finding | None:
    if not listing.others:
        return None
    return Finding(
        rule="other_formats",
        severity="warn",
        message=f"{len(listing.others)} files or folders are not {SUFFIXES_TEXT} files and are passed over, "
        f"such as {listing.others[0]}.",
        advice="Convert images of other formats to PNG.",
        count=len(listing.others),
        examples=tuple({"path": path} for path in listing.others[:MAX_EXAMPLES]),
    )


def _badly_named(listing: FolderListing) -> Finding | None:
    if not listing.unnameable:
        return None
    return Finding(
        rule="undecodable_names",
        severity="warn",
        message=f"{len(listing.unnameable)} files are passed over because their names are not UTF-8, "
        f"such as {listing.unnameable[0]}.",
        advice="Rename them.",
        count=len(listing.unnameable),
        examples=tuple({"path": path} for path in listing.unnameable[:MAX_EXAMPLES]),
    )


def _masks(listing: FolderListing) -> Finding | None:
    if not listing.masks:
        return None
    mask, image = next(iter(listing.masks.items()))
    return Finding(
        rule="masks",
        severity="info",
        message=f"{len(listing.masks)} pictures are masks of other images by their names, such as {mask} of {image}. "
        "They are kept as masks, and are no images of parts.",
        count=len(listing.masks),
        examples=tuple({"path": path} for path in list(listing.masks)[:MAX_EXAMPLES]),
    )


def _deeper_tables(listing: FolderListing) -> Finding | None:
    if not listing.deeper_tables:
        return None
    return Finding(
        rule="tables_in_subfolders",
        severity="info",
        message=f"{len(listing.deeper_tables)} csv files lie in sub-folders and are not read, "
        f"such as {listing.deeper_tables[0]}.",
        count=len(listing.deeper_tables),
        examples=tuple({"path": path} for path in listing.deeper_tables[:MAX_EXAMPLES]),
    )


def _images_without_row(listing: FolderListing, named: set[str], folder: Path) -> Finding | None:
    without = [path for path in listing.images if str(folder / path) not in named]
    if not without:
        return None
    return Finding(
        rule="images_without_row",
        severity="info",
        message=f"{len(without)} images in the folder are in no row of the table and are not used, "
        f"such as {without[0]}.",
        count=len(without),
        examples=tuple({"path": path} for path in without[:MAX_EXAMPLES]),
    )


def _rows_of_masks(listing: FolderListing, named: set[str], folder: Path) -> Finding | None:
    found = [path for path in listing.masks if str(folder / path) in named]
    if not found:
        return None
    return Finding(
        rule="mask_rows",
        severity="warn",
        message=f"{len(found)} rows of the table name what are masks of other images by their names, "
        f"such as {found[0]} of {listing.masks[found[0]]}. They are used as images, as the table says.",
        advice="Remove these rows where they are masks: a model must not learn them as parts.",
        count=len(found),
        examples=tuple({"path": path} for path in found[:MAX_EXAMPLES]),
    )


def _named_files(table: pd.DataFrame, path_column: str, folder: Path) -> set[str]:
    return {os.path.normpath(folder / as_meant(folder, path)) for path in table[path_column] if path is not None}
