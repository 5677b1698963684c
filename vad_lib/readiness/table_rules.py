"""Rules on the table as text: columns, missing values, paths, rows that are there twice.

The working table of readiness has the columns row, image_path, label, given_split (as written, without spaces around;
None where missing), said (OK or NG in rows that a person's label made, else None) and file (absolute). A dropping rule
returns the reasons of its rows; nothing is dropped silently.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from pathlib import Path

import pandas as pd

from vad_lib.errors import UnsafePathError
from vad_lib.findings import MAX_EXAMPLES, Finding
from vad_lib.ground_truth import InputTable
from vad_lib.images.paths import SUFFIXES_TEXT, is_image_name, resolve_inside
from vad_lib.readiness.rules import Drop, examples, plural, some

MOST_NAMES = 5_000
"""Of a folder, among which the nearest to a missing one is looked for."""


def missing_columns(input_table: InputTable, split_column: str = "") -> Finding | None:
    """The columns that the plan names are in the table."""
    present = [str(name) for name in input_table.table.columns]
    wanted = {
        "path_column": input_table.path_column,
        "y_column": input_table.label_column or "",
        "train_validate_column": split_column,
    }
    missing = {argument: column for argument, column in wanted.items() if column and column not in present}
    if not missing:
        return None
    parts = []
    for argument, column in missing.items():
        near = difflib.get_close_matches(column.lower(), [name.lower() for name in present], n=1)
        meant = [name for name in present if near and name.lower() == near[0]]
        parts.append(f"'{column}' ({argument})" + (f", perhaps '{meant[0]}' is meant" if meant else ""))
    source = ", ".join(input_table.source_files) or "the table"
    return Finding(
        rule="missing_columns",
        severity="error",
        message=f"{source} has no column {'; no column '.join(parts)}. Its columns are {some(present, 30)}.",
        advice=f"Set {', '.join(missing)} in the plan to the right column, or rename the column.",
        blocking=True,
        count=len(missing),
        examples=tuple({"argument": argument, "column": column} for argument, column in missing.items()),
    )


def working_table(input_table: InputTable, split_column: str = "") -> pd.DataFrame:
    """Return the working table; the columns must be there."""
    table = input_table.table
    empty = pd.Series([None] * len(table), dtype=object)
    label = table[input_table.label_column] if input_table.label_column else empty
    split = table[split_column] if split_column else empty
    said = dict(zip(input_table.labels["row"], input_table.labels["label"], strict=True))
    return pd.DataFrame(
        {
            "row": range(len(table)),
            "image_path": table[input_table.path_column].to_numpy(dtype=object),
            "label": [_stripped(value) for value in label],
            "given_split": [_stripped(value) for value in split],
            "said": [said.get(row) for row in range(len(table))],
        }
    ).astype({"row": "int64", "image_path": object, "label": object, "given_split": object, "said": object})


def _stripped(value: object) -> str | None:
    return (str(value).strip() or None) if value is not None else None


def spaces_around_values(input_table: InputTable) -> Finding | None:
    """Spaces around labels are not meant and are taken away."""
    if not input_table.label_column:
        return None
    labels = input_table.table[input_table.label_column]
    spaced = labels[[isinstance(value, str) and value != value.strip() != "" for value in labels]]
    if spaced.empty:
        return None
    return Finding(
        rule="spaces_around_values",
        severity="warn",
        message=f"{plural(len(spaced), 'label')} in column '{input_table.label_column}' had spaces around, "
        f"such as '{spaced.iloc[0]}'. They are taken away.",
        count=len(spaced),
        examples=tuple({"row": int(str(row)), "label": label} for row, label in spaced.head(MAX_EXAMPLES).items()),
    )


def missing_values(table: pd.DataFrame, path_column: str, label_column: str | None) -> Drop | None:
    """Rows without a path, or without a label where labels are needed, are dropped.

    Args:
        table: The working table.
        path_column: The user's name of the column of paths.
        label_column: The user's name of the column of labels; None where labels are not needed.
    """
    no_path = table["image_path"].isna()
    no_label = table["label"].isna() if label_column else no_path & False
    found = table[no_path | no_label]
    if found.empty:
        return None
    reasons = pd.Series(f"no value in column '{label_column}'", index=found.index, dtype=object)
    reasons[no_path[found.index]] = f"no value in column '{path_column}'"
    counts = {path_column: int(no_path.sum())}
    if label_column:
        counts[label_column] = int(no_label.sum())
    text = " and ".join(f"{count} in column '{column}'" for column, count in counts.items() if count)
    return Drop(
        reasons,
        Finding(
            rule="missing_values",
            severity="warn",
            message=f"Missing values: {text}. {plural(len(found), 'row')} left out.",
            advice="Fill the cells in, or remove the rows. Only an empty cell is a missing value.",
            count=len(found),
            examples=examples(found, reason=reasons),
        ),
    )


def find_files(table: pd.DataFrame, input_table: InputTable) -> tuple[pd.DataFrame, list[Drop]]:
    """Add the column file to the working table and say which rows have none that may be read.

    Returns:
        The table with the column file (None where refused), and the drops of the rules path_leaves_folder,
        other_format_row and missing_file.
    """
    files: list[str | None] = []
    refused: dict[str, dict[object, str]] = {"path_leaves_folder": {}, "other_format_row": {}, "missing_file": {}}
    copies = dict(zip(input_table.labels["row"], input_table.labels["file"], strict=True))
    for index, row, path, label in zip(table.index, table["row"], table["image_path"], table["label"], strict=True):
        file = None
        try:
            file = Path(copies[row]) if row in copies else resolve_inside(input_table.data_folder, path)
            if not is_image_name(path.strip()):
                refused["other_format_row"][index] = f"{path} is not named {SUFFIXES_TEXT}" + _exchanged(label)
                file = None
            elif not os.path.lexists(file):
                near = _nearest(file) if len(refused["missing_file"]) < MAX_EXAMPLES else ""
                refused["missing_file"][index] = f"file not found: {path}" + (
                    f" (the nearest is '{near}')" if near else ""
                )
                file = None
        except UnsafePathError as error:
            refused["path_leaves_folder"][index] = str(error)
        files.append(str(file) if file else None)
    drops = [_refusal(rule, pd.Series(reasons, dtype=object), table) for rule, reasons in refused.items() if reasons]
    return table.assign(file=pd.Series(files, index=table.index, dtype=object)), drops


def _nearest(missing: Path) -> str:
    """Return the name in the same folder that was probably meant, or nothing: other numbers mean other images."""
    try:
        names = sorted(filter(str.isprintable, os.listdir(missing.parent)))[:MOST_NAMES]
    except OSError:
        return ""
    seen = {unicodedata.normalize("NFKC", name).casefold(): name for name in names}
    wanted = unicodedata.normalize("NFKC", missing.name).casefold()
    alike = [name for name in seen if _numbers(name) == _numbers(wanted)]
    near = difflib.get_close_matches(wanted, alike, n=1, cutoff=0.6)
    return seen[near[0]] if near else ""


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", name)]


def _exchanged(label: str | None) -> str:
    if label is None or not is_image_name(label):
        return ""
    return f", but its label {label} is: path_column and y_column may be exchanged"


def _refusal(rule: str, reasons: pd.Series, table: pd.DataFrame) -> Drop:
    found = table.loc[reasons.index]
    rows = plural(len(found), "row")
    named = some(list(found["image_path"]))
    texts = {
        "path_leaves_folder": (
            f"The path leaves the data folder in {rows}: {named}.",
            "Put the images into the folder.",
        ),
        "other_format_row": (f"No {SUFFIXES_TEXT} file in {rows}: {named}.", "Convert the images to PNG."),
        "missing_file": (
            f"The image does not exist in {rows}: {named}. Left out. First: {reasons.iloc[0]}.",
            "Paths are relative to the folder of the table; letter case counts.",
        ),
    }
    message, advice = texts[rule]
    return Drop(
        reasons,
        Finding(
            rule=rule,
            severity="error" if rule == "path_leaves_folder" else "warn",
            message=message,
            advice=advice,
            count=len(found),
            examples=examples(found, reason=reasons),
        ),
    )


def repeated_rows(table: pd.DataFrame) -> Drop | None:
    """The same file with the same label and split is used once."""
    again = table.duplicated(["file", "label", "given_split"])
    found = table[again]
    if found.empty:
        return None
    first = table.drop_duplicates(["file", "label", "given_split"]).set_index("file")["row"]
    first = first[~first.index.duplicated()]
    reasons = found["file"].map(lambda file: f"the same image as in row {first[file]}").astype(object)
    return Drop(
        reasons,
        Finding(
            rule="repeated_rows",
            severity="warn",
            message=f"Repeated and left out: {plural(len(found), 'row')}, {some(list(found['image_path']))}.",
            count=len(found),
            examples=examples(found, reason=reasons),
        ),
    )


def no_rows_left(table: pd.DataFrame, read: int, dropped: pd.DataFrame) -> Finding | None:
    """At least one row is left to work with.

    Args:
        table: What is left.
        read: Rows of the table as read.
        dropped: ``tables.DroppedRows``.
    """
    if len(table):
        return None
    counts = dropped["rule"].value_counts()
    first = dict(zip(dropped["rule"][::-1], dropped["reason"][::-1], strict=True))
    told = "; ".join(f"{rule} {count}, such as: {first[str(rule)]}" for rule, count in counts.items())
    return Finding(
        rule="no_rows_left",
        severity="error",
        message=f"None of the {plural(read, 'row')} can be used ({told}).",
        advice="See the reasons of the dropped rows.",
        blocking=True,
        count=read,
    )
