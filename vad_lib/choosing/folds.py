"""The parts into which the images of a line are cut, so that each is judged by a model that never saw it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vad_lib.errors import InputError
from vad_lib.images.decoding import decode_image
from vad_lib.images.duplicates import MOST_COMPARED, near_between
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.synthetic.defects import DEFECT_KINDS, draw_defect

LEAST_NORMAL = 20
"""Normal images below which a comparison says next to nothing."""
MOST_DRAWN = 60
DRAWN = "drawn: "
"""Before the kind of a defect that was drawn, where there is no real one."""


def images_to_judge(dataset: ValidatedDataset) -> pd.DataFrame:
    """Return the rows that a comparison uses: all normal ones, and the anomalous ones that no fit may see.

    Returns:
        ``tables.ValidatedRows``, normal rows first.

    Raises:
        InputError: there are too few normal images.
    """
    rows = dataset.rows[dataset.rows["split"] != "inference"]
    rows = rows[rows["is_anomalous"].notna()].drop_duplicates("sha256")
    normal = int((~rows["is_anomalous"].astype(bool)).sum())
    if normal < LEAST_NORMAL:
        raise InputError(f"There are {normal} different normal images; a comparison needs {LEAST_NORMAL} at least.")
    return rows.sort_values("is_anomalous", kind="stable").reset_index(drop=True)


def make_folds(rows: pd.DataFrame, facts: pd.DataFrame, count: int, seed: int) -> pd.Series:
    """Return the number of each row's part, 0 to ``count - 1``.

    Normal images that look the same stay in one part (compared among the first 400 candidates, as readiness does), and
    each kind of defect is spread over the parts. The order follows the contents: the same images give the same parts.

    Args:
        rows: see ``images_to_judge``.
        facts: ``images.checking.check_images`` of them, with ``row``.
        count: parts, at least 2.
        seed: of the order.
    """
    order = [hashlib.sha256(f"{seed}:{sha256}".encode()).hexdigest() for sha256 in rows["sha256"]]
    ranked = rows.assign(order=order).sort_values("order")
    normal = ranked[~ranked["is_anomalous"].astype(bool)]
    part = pd.Series(-1, index=rows.index)
    sizes = np.zeros(count, dtype=int)
    for _, members in sorted(normal.groupby(_look_alikes(normal, facts)), key=lambda group: (-len(group[1]), group[0])):
        smallest = int(sizes.argmin())
        part[members.index] = smallest
        sizes[smallest] += len(members)
    start = 0
    for _, members in ranked[ranked["is_anomalous"].astype(bool)].groupby("label", sort=True):
        part[members.index] = (start + np.arange(len(members))) % count
        start += len(members)
    return part


def _look_alikes(normal: pd.DataFrame, facts: pd.DataFrame) -> pd.Series:
    """Return a number for each row; those that look the same have the same one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = normal.merge(facts.drop_duplicates("row"), on="row", how="left", suffixes=("", "_of_fact"))
    known.index = normal.index
    places: list[tuple[int, int]] = []
    if "phash" in known:
        for start in range(0, len(known), MOST_COMPARED):
            some = known.iloc[start : start + MOST_COMPARED]
            near = near_between(some, known)["near_to"]
            near = near[near.index != near]
            places += zip(known.index.get_indexer(near.index), known.index.get_indexer(pd.Index(near)), strict=True)
    first, second = np.array(places, dtype=int).reshape(-1, 2).T
    links = coo_array((np.ones(len(first)), (first, second)), shape=(len(known), len(known)))
    return pd.Series(connected_components(links, directed=False)[1], index=normal.index)


def with_drawn_defects(rows: pd.DataFrame, folder: Path, seed: int) -> pd.DataFrame:
    """Return the rows with defects drawn on some of the normal images, where there is no anomalous row.

    A drawn defect is judged by the model that did not learn the image below it, so it is put into that image's part.

    Args:
        rows: see ``images_to_judge``, with ``part``.
        folder: where the pictures are written.
        seed: of the drawing.
    """
    if rows["is_anomalous"].any():
        return rows
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    below = rows.iloc[np.random.default_rng(seed).permutation(len(rows))[:MOST_DRAWN]]
    for number, row in enumerate(below.to_dict("records")):
        kind = DEFECT_KINDS[number % len(DEFECT_KINDS)]
        made = draw_defect(decode_image(Path(row["file"])).pixels, kind, seed + number)
        file = folder / f"{row['sha256'][:16]}_{kind}.png"
        Image.fromarray(made.image).save(file)
        drawn.append(
            row
            | {
                "row": int(rows["row"].max()) + 1 + number,
                "image_path": file.name,
                "file": str(file),
                "label": f"{DRAWN}{kind}",
                "is_anomalous": True,
                "split": "valid",
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        )
    return pd.concat([rows, pd.DataFrame(drawn).astype(rows.dtypes.to_dict())], ignore_index=True)


def dataset_of_part(dataset: ValidatedDataset, rows: pd.DataFrame, part: int, *, watches: bool) -> ValidatedDataset:
    """Return the dataset of the fit whose model judges a part: the normal images of the others.

    Args:
        dataset: after readiness.
        rows: with ``part``.
        part: that is judged.
        watches: whether the fit looks at validation images. Then it gets those of the next part, and learns from the
            others: what keeps an epoch must not be what it is judged by.
    """
    watched = (part + 1) % (int(rows["part"].max()) + 1) if watches else part
    learnt = ~rows["is_anomalous"].astype(bool) & ~rows["part"].isin([part, watched])
    split = np.where(rows["part"] == watched, "valid", np.where(learnt, "train", "excluded"))
    return replace(dataset, rows=rows.drop(columns="part").assign(split=split))
