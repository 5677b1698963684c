"""Publishing a folder whole: readers see the old tree or the new one, never a half-written one.

The tree is built beside its place, in ``.trees/<name>/<id>.partial``, forced to disk, renamed, and then the name is
pointed at it by replacing a symbolic link, which is one step for the file system. Whatever kills the process, the name
still leads to the last good tree; the next publisher clears the remains away.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from vad_lib.errors import InputError

STORE = ".trees"
_FOUND = "found-"


@contextmanager
def publish_tree(target: Path, keep: int = 5) -> Iterator[Path]:
    """Yield an empty folder; when the block ends without an error, ``target`` becomes that folder's contents.

    If the block raises, the folder is removed and ``target`` stays as it was. A real folder that stands at ``target``
    is moved to ``.trees/<name>/found-<id>`` and never removed (an empty one is). Two publishers of one target do not
    disturb each other; the last to finish wins.

    Args:
        target: where readers look. A symbolic link that leads elsewhere is followed.
        keep: how many published trees stay on disk, the current one included; at least 2, because a reader may be in
            the one before.

    Raises:
        InputError: ``target`` is a file.
    """
    target = _followed(Path(os.path.abspath(target)))
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file, but a folder of artifacts goes there: move it or name another folder.")
    store = target.parent / STORE / target.name
    store.mkdir(parents=True, exist_ok=True)
    identity = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(3)}"
    partial, final = store / f"{identity}.partial", store / identity
    with _alive(store, identity):
        _clear_remains(target, store, identity)
        try:
            partial.mkdir()
            yield partial
            _force_to_disk(partial)
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _point(target, final, identity)
    _prune(store, target, max(keep, 2))


def _followed(target: Path) -> Path:
    """Follow a user's own link, for instance to another disk; a link into our store is ours."""
    for _ in range(40):
        if not target.is_symlink():
            return target
        leads_to = Path(os.path.normpath(target.parent / target.readlink()))
        if leads_to.parent == target.parent / STORE / target.name:
            return target
        target = leads_to
    raise InputError(f"{target} is a symbolic link that leads to itself: remove it.")


@contextmanager
def _alive(store: Path, identity: str) -> Iterator[None]:
    """Hold a lock that the kernel releases when the process dies, however it dies."""
    file = store / f"{identity}.lock"
    # Where another publisher takes the new file for a dead one's and removes it, the lock is taken anew.
    with FileLock(file):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _clear_remains(target: Path, store: Path, own_identity: str) -> None:
    """Remove what publishers left that are no longer alive."""
    for lock in store.glob("*.lock"):
        identity = lock.name.removesuffix(".lock")
        if identity == own_identity:
            continue
        with contextlib.suppress(Timeout), FileLock(lock, blocking=False):
            found = store / f"{_FOUND}{identity}"
            if found.is_dir() and not target.exists() and not target.is_symlink():
                found.rename(target)  # it died between moving the folder aside and pointing the name
            shutil.rmtree(store / f"{identity}.partial", ignore_errors=True)
            _link_in_the_making(target, identity).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def _point(target: Path, final: Path, identity: str) -> None:
    link = _link_in_the_making(target, identity)
    # Relative, so that the folder that holds both can be moved.
    link.symlink_to(final.relative_to(target.parent), target_is_directory=True)
    if target.is_dir() and not target.is_symlink():
        try:
            target.rmdir()
        except OSError:
            target.rename(final.parent / f"{_FOUND}{identity}")
    os.replace(link, target)
    _fsync(target.parent)


def _link_in_the_making(target: Path, identity: str) -> Path:
    return target.parent / f".{target.name}.{identity}.link"


def _prune(store: Path, target: Path, keep: int) -> None:
    """Remove the oldest published trees; names begin with the time, so their order is that of their making."""
    current = target.resolve()
    published = sorted(
        folder
        for folder in store.iterdir()
        if folder.is_dir() and folder.suffix != ".partial" and not folder.name.startswith(_FOUND)
    )
    for folder in published[:-keep]:
        if folder.resolve() != current:
            shutil.rmtree(folder, ignore_errors=True)


def _force_to_disk(folder: Path) -> None:
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _fsync(Path(place, name))
        _fsync(Path(place))
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
