"""Rules on labels: which one is normal, and what the others say."""

from __future__ import annotations

import difflib
import unicodedata

import pandas as pd

from vad_lib.findings import MAX_EXAMPLES, Finding
from vad_lib.ground_truth import InputTable
from vad_lib.readiness.rules import Drop, examples, plural, some
from vad_lib.tables import NG, OK

IMAGES_PER_ANOMALY = 10
EMPTY_WORDS = frozenset({"nan", "null", "none", "n/a", "na", "<na>", "#n/a", "nat", "undefined", "-", "?"})
"""What programs and people write for a missing value, in lower case."""
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters by category, and empty to the eye


def resolve_ok_class(labels: pd.Series, given: str) -> tuple[str | None, Finding | None]:
    """Return the normal label, and a finding where it cannot be known.

    Args:
        labels: Of the usable training rows; missing ones do not count.
        given: The argument ok_class; empty takes the most frequent label. A tie is not decided by guessing.
    """
    counts = labels.dropna().value_counts()
    listed = ", ".join(f"'{label}' ({count})" for label, count in counts.items())
    given = given.strip()
    if given in counts.index:
        return given, None
    if given:
        near = difflib.get_close_matches(as_seen(given), [as_seen(str(label)) for label in counts.index], n=1)
        meant = [label for label in counts.index if near and as_seen(label) == near[0]]
        return None, Finding(
            rule="ok_class",
            severity="error",
            message=f"ok_class '{given}' is not among the labels of the usable rows: {listed or 'there are none'}.",
            advice=f"Perhaps {_exactly(meant[0])} is meant."
            if meant
            else "Set ok_class to the label of the normal images.",
            blocking=True,
        )
    first = counts[counts == counts.max()]
    if len(first) > 1:
        return None, Finding(
            rule="ok_class",
            severity="error",
            message=f"The most frequent label is normal by default, but {some(list(first.index))} are equally frequent "
            f"({first.iloc[0]} each).",
            advice="Set ok_class to the label of the normal images.",
            blocking=True,
            count=len(first),
        )
    return (str(counts.index[0]) if len(counts) else None), None


def similar_labels(labels: pd.Series, ok_class: str) -> Finding | None:
    """No two labels look alike, as a 'Good' beside ok_class 'good' does: it would count as anomalous.

    Nor does one say what programs write into an empty cell, such as 'nan'.
    """
    distinct = [str(label) for label in labels.dropna().unique()]
    groups: dict[str, list[str]] = {}
    for label in distinct:
        groups.setdefault(as_seen(label), []).append(label)
    twice = [group for group in groups.values() if len(group) > 1]
    empty = [label for label in distinct if as_seen(label) in EMPTY_WORDS and label != ok_class]
    if not twice and not empty:
        return None
    told = []
    if twice:
        told.append("Labels look alike: " + "; ".join(" and ".join(map(_exactly, group)) for group in twice) + ".")
    if meant := [label for group in twice if ok_class in group for label in group if label != ok_class]:
        told.append(f"Only {_exactly(ok_class)} is normal: {', '.join(map(_exactly, meant))} counts as anomalous.")
    if empty:
        told.append(f"Programs write {some(empty)} into an empty cell: it counts as a kind of defect here.")
    return Finding(
        rule="similar_labels",
        severity="warn",
        message=" ".join(told),
        advice="Write a label the same way everywhere." if twice else "Leave the cell empty where there is no label.",
        count=len(twice) + len(empty),
        examples=tuple({"labels": group} for group in [*twice, *([label] for label in empty)][:MAX_EXAMPLES]),
    )


def as_seen(label: str) -> str:
    """Return a label as a person sees it: letter case, forms of letters, and what is invisible, do not count.

    >>> as_seen("Ｇｏｏｄ\\u200b"), as_seen("a  b")
    ('good', 'a b')
    """
    visible = "".join(sign for sign in unicodedata.normalize("NFKC", label) if not _is_invisible(sign))
    return " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())


def _is_invisible(sign: str) -> bool:
    return (
        (unicodedata.category(sign) in ("Cf", "Cc") and not sign.isspace())
        or sign in _BLANKS
        or ("\ufe00" <= sign <= "\ufe0f")
    )


def _exactly(label: str) -> str:
    """Show a label in quotes, and what cannot be seen of it, or looks like another letter, as its code."""
    shown = [sign if sign == " " or _is_plain(sign) else ascii(sign)[1:-1] for sign in label]
    decomposed = shown == list(label) and unicodedata.normalize("NFKC", label) != label
    return f"'{''.join(shown)}'" + (" (in decomposed letters)" if decomposed else "")


def _is_plain(sign: str) -> bool:
    return sign.isprintable() and not _is_invisible(sign) and unicodedata.normalize("NFKC", sign) == sign


def with_anomalous(table: pd.DataFrame, ok_class: str) -> pd.DataFrame:
    """Add the column is_anomalous: by the label of a row of the table, by what the person said in any other."""
    label = table["label"].mask(table["said"] == OK, ok_class)
    label = label.mask((table["said"] == NG) & (label == ok_class), NG)
    return table.assign(label=label, is_anomalous=(label != ok_class).mask(table["said"] == NG, True))


def labels_wait(source: InputTable, least: int) -> Finding | None:
    """Where a detector needs no images, people's labels validate it once they are enough.

    Args:
        source: A table without rows of the user's own.
        least: Normal images that are enough.
    """
    normal = int((source.labels["label"] == OK).sum())
    if source.labels.empty or normal >= least:
        return None
    return Finding(
        rule="labels_wait",
        severity="info",
        message=f"People labelled {plural(normal, 'normal image')} so far. From {least} on their labels find the "
        "threshold; until then it is the detector's own.",
        count=len(source.labels),
    )


def labels_against_table(table: pd.DataFrame, labels: pd.DataFrame) -> Drop | None:
    """A person's label and the table say the same of an image; where they do not, which is right cannot be known.

    A wrong row must not be learnt from, and one wrong click must not become a defect that moves the threshold. So
    neither counts until somebody settles it.

    Args:
        table: With said, sha256 and is_anomalous.
        labels: The labels that were joined; they say who gave them.
    """
    rows = table.groupby("sha256")
    both = rows["said"].transform("count").between(1, rows["said"].transform("size"), inclusive="left")
    found = table[both & (rows["is_anomalous"].transform("nunique") > 1)]
    if found.empty:
        return None
    people = labels.set_index("row").apply(lambda one: f"{one['person']} on {one['created_at']:%Y-%m-%d}", axis=1)
    by_person = found["said"].notna()
    says = found["said"].where(by_person, found["label"])
    who = found["row"].map(people).where(by_person, "the table")
    reasons = ("the table and a person differ about this image; here it is " + says + ", by " + who).astype(object)
    images = found["sha256"].nunique()
    return Drop(
        reasons,
        Finding(
            rule="labels_against_table",
            severity="error",
            message=f"The table and people differ about {plural(images, 'image')}, left out of training: "
            f"{some(list(found.loc[~by_person, 'image_path']))}.",
            advice="Look at the pictures. Correct the row of the table, or give the label anew or withdraw it "
            "(`vad label give`, `vad label withdraw`).",
            count=images,
            examples=examples(found.sort_values(["sha256", "row"]), says=says, who=who),
        ),
    )


def labelled_already(table: pd.DataFrame) -> Drop | None:
    """An image that the table holds already is not there twice by a person's label (rows that do not contradict)."""
    own = table[table["said"].isna()].drop_duplicates("sha256").set_index("sha256")["row"]
    found = table[table["said"].notna() & table["sha256"].isin(own.index)]
    if found.empty:
        return None
    reasons = ("the same image as in row " + found["sha256"].map(own).astype(str)).astype(object)
    return Drop(
        reasons,
        Finding(
            rule="labelled_already",
            severity="info",
            message=f"In the table already, with the same label: {len(found)} of the images that people labelled.",
            count=len(found),
            examples=examples(found, reason=reasons),
        ),
    )


def conflicting_labels(table: pd.DataFrame) -> Drop | None:
    """The same bytes are not normal in one row and anomalous in another; which is right cannot be known."""
    kinds = table.groupby("sha256")["is_anomalous"].transform("nunique")
    found = table[kinds > 1]
    if found.empty:
        return None
    reasons = pd.Series("the same image is labelled normal and anomalous", index=found.index, dtype=object)
    return Drop(
        reasons,
        Finding(
            rule="conflicting_labels",
            severity="error",
            message=f"Labelled normal in one row and anomalous in another, and left out: "
            f"{plural(found['sha256'].nunique(), 'image')} in {plural(len(found), 'row')}, "
            f"{some(list(found['image_path']))}.",
            advice="Correct the labels.",
            count=len(found),
            examples=examples(found),
        ),
    )


def several_kinds(table: pd.DataFrame) -> tuple[pd.DataFrame, Drop | None]:
    """Rows of one file are one image, which may have several kinds of defect.

    Args:
        table: With file, label, split and is_anomalous.

    Returns:
        The table with the labels of each file joined in all its rows, and a column kinds with the list of them; and
        the drop of all rows but the first of each file.
    """
    image = table.groupby(["file", "split", "is_anomalous"], sort=False, dropna=False).ngroup()
    first = table["row"].groupby(image).transform("first")
    kinds_of: dict[int, set[str]] = {}
    for number, label in zip(image, table["label"], strict=True):
        kinds_of.setdefault(number, set()).update([] if pd.isna(label) else [label])
    kinds = [sorted(kinds_of[number]) for number in image]
    joined = [" + ".join(labels) or None for labels in kinds]
    table = table.assign(
        **{name: pd.Series(values, table.index, object) for name, values in (("kinds", kinds), ("label", joined))}
    )
    found = table[table["row"] != first]
    if found.empty:
        return table, None
    reasons = ("the same image as in row " + first[found.index].astype(str) + ": " + found["label"]).astype(object)
    return table, Drop(
        reasons,
        Finding(
            rule="several_kinds",
            severity="info",
            message=f"Images with several kinds of defect, in a row each: {found['file'].nunique()}, such as "
            f"{found['image_path'].iloc[0]} ({found['label'].iloc[0]}). Each counts as one image.",
            count=int(found["file"].nunique()),
            examples=examples(found, reason=reasons),
        ),
    )


def mostly_anomalous(table: pd.DataFrame) -> Finding | None:
    """Most images are normal."""
    anomalous = int(table["is_anomalous"].sum())
    normal = len(table) - anomalous
    if anomalous <= normal:
        return None
    return Finding(
        rule="mostly_anomalous",
        severity="warn",
        message=f"Most images are anomalous: {anomalous}, and only {normal} normal.",
        advice="The model learns from normal images: collect more of them, and check ok_class.",
        count=anomalous,
    )


def only_normal_images(table: pd.DataFrame) -> Finding | None:
    """Without anomalous images a model is trained, but not measured."""
    if table["is_anomalous"].any():
        return None
    return Finding(
        rule="only_normal_images",
        severity="info",
        message="All images are normal: the model is trained, but its performance cannot be measured.",
        advice="Add a few anomalous images, such as can occur in operation.",
    )


def images_per_anomaly(table: pd.DataFrame) -> Finding | None:
    """About 10 images of each kind of anomaly are in valid."""
    kinds = table.loc[table["is_anomalous"].astype(bool), ["split", "kinds"]].explode("kinds")
    counts = kinds["kinds"].value_counts() * 0
    counts = counts.add(kinds.loc[kinds["split"] == "valid", "kinds"].value_counts(), fill_value=0).astype(int)
    few = counts[counts < IMAGES_PER_ANOMALY]
    if few.empty:
        return None
    listed = ", ".join(f"'{label}' {count}" for label, count in few.head(10).items())
    return Finding(
        rule="images_per_anomaly",
        severity="warn",
        message=f"Kinds of anomaly with fewer than {IMAGES_PER_ANOMALY} validation images: {len(few)} ({listed}).",
        advice="Performance on these kinds is uncertain: collect more images of them.",
        count=len(few),
        examples=tuple({"label": str(label), "images": int(count)} for label, count in few.head(MAX_EXAMPLES).items()),
    )
