"""JSON lines over a unix socket between processes of one user. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST_MESSAGE = 4 * 1024 * 1024
# what the kernel allows in a socket's address, less the terminating zero
LONGEST_ADDRESS = 107


class BrokenConversation(Exception):
    """The other side went away, was too slow, or said something that is no message."""


class WrongUser(PermissionError):
    """The other side runs as another user."""


@contextmanager
def address(path: Path) -> Iterator[str]:
    """Give an address for ``path`` that the kernel takes, however long the path is."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def connect(path: Path, timeout: float) -> socket.socket | None:
    """Connect to the server at ``path``; None where nobody listens.

    Raises:
        WrongUser: the listener is another user's.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with address(path) as name:
            connection.connect(name)
        refuse_other_users(connection)
    except (FileNotFoundError, ConnectionRefusedError, TimeoutError, BlockingIOError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def refuse_other_users(connection: socket.socket) -> None:
    """Raise WrongUser unless the kernel says that the other side has this process' user."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    if uid != os.getuid():
        raise WrongUser(f"The other side of the socket has user id {uid}, this process has {os.getuid()}.")


def send(connection: socket.socket, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    """Send one message, with open files beside it.

    Raises:
        BrokenConversation: the other side is gone.
    """
    data = json.dumps(message).encode() + b"\n"
    try:
        # the files travel with the first bytes
        sent = socket.send_fds(connection, [data], list(files)) if files else 0
        connection.sendall(data[sent:])
    except OSError as error:
        raise BrokenConversation(f"cannot send: {error}") from error


def receive(connection: socket.socket, files: int = 0) -> tuple[dict[str, Any], list[int]]:
    """Read one message and up to ``files`` open files that came with it.

    Raises:
        BrokenConversation: the other side closed, the socket's timeout passed, or it is no JSON object.
    """
    data, received = b"", list[int]()
    try:
        while not data.endswith(b"\n"):
            if files and not data:
                part, received, _flags, _address = socket.recv_fds(connection, 65536, files)
            else:
                part = connection.recv(65536)
            if not part:
                raise BrokenConversation("the other side closed the connection")
            data += part
            if len(data) > LARGEST_MESSAGE:
                raise BrokenConversation(f"a message of more than {LARGEST_MESSAGE} bytes")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise BrokenConversation("a message that is no JSON object")
    except (OSError, ValueError) as error:
        _close(received)
        raise BrokenConversation(str(error) or type(error).__name__) from error
    except BrokenConversation:
        _close(received)
        raise
    return message, received


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)
