"""Which vision language model is asked, as the settings say, and whether pictures leave this machine for it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vad_lib.errors import InputError
from vad_lib.settings import settings

OFF = (
    "Findings are not described: set VAD_VLM_URL to the address of an endpoint that speaks OpenAI's protocol, such as "
    "http://127.0.0.1:11434/v1, and VAD_VLM_MODEL to the name of a model that it has."
)
LONGEST_KEY = 10_000
SHORTEST_SECRET = 8
"""Characters; a shorter key is a word such as 'none' or 'ollama', which a reply may hold."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that speaks OpenAI's protocol, and the model that is asked there.

    Attributes:
        url: up to the part before ``/chat/completions``, usually ending in ``/v1``.
        model: as the endpoint calls it.
        key: the secret that it asks for; empty: none.
        seconds: the longest that one reply may take.
        connect_seconds: the longest that it may take to be reached.
        retries: how often a request is sent again where the endpoint is busy or away.
        most_tokens: of one reply.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    seconds: float = 60.0
    connect_seconds: float = 3.0
    retries: int = 2
    most_tokens: int = 2000

    def __post_init__(self) -> None:
        """Refuse what is no address of the web.

        Raises:
            InputError: it is another kind of address, or one with a password in it, or the secret is none.
        """
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            usable = usable and not (parts.username or parts.password or parts.query or parts.fragment)
        except ValueError:
            usable = False
        if not usable:
            raise InputError(
                "VAD_VLM_URL must be an address such as http://127.0.0.1:11434/v1, without a user name, a password "
                "or a question mark in it: secrets belong into the file that VAD_VLM_API_KEY_FILE names."
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise InputError("The secret of the endpoint must be plain ASCII: look into VAD_VLM_API_KEY(_FILE).")

    def without_key(self, said: bytes) -> bytes:
        """Return what the endpoint said without the secret, where it repeats it, as some do that do not take it."""
        return said.replace(self.key.encode(), b"(the secret)") if len(self.key) >= SHORTEST_SECRET else said

    @classmethod
    def of_settings(cls) -> Endpoint | None:
        """Return the endpoint that the environment names; None where it names none.

        Raises:
            InputError: the address or the file of the secret cannot be used.
        """
        now = settings()
        if not now.vlm_url or not now.vlm_model:
            return None
        key = _read_key(Path(now.vlm_api_key_file)) if now.vlm_api_key_file else now.vlm_api_key.get_secret_value()
        return cls(now.vlm_url.rstrip("/"), now.vlm_model, key, now.vlm_seconds)

    @classmethod
    def required(cls) -> Endpoint:
        """Return the endpoint that the environment names.

        Raises:
            InputError: it names none, or one that cannot be used; the message says what to set.
        """
        found = cls.of_settings()
        if found is None:
            raise InputError(OFF)
        return found

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine for sure: a loopback address, or the name localhost.

        >>> [Endpoint(f"http://{host}/v1", "m").is_local for host in ("127.0.0.1:1", "[::1]", "localhost", "10.0.0.7")]
        [True, True, True, False]
        """
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def require_leave(self, line: str, allow_images_to_leave: bool) -> None:
        """Refuse to send pictures of a line to another machine without its plan's leave.

        Raises:
            InputError: they may not leave.
        """
        if not self.is_local and not allow_images_to_leave:
            raise InputError(
                f"{self.url} is not on this machine, and the plan of the line {line!r} does not let its pictures leave "
                "it. Choose an endpoint on this machine, or set allow_images_to_leave: true in the plan's operation."
            )


def _read_key(file: Path) -> str:
    try:
        key = file.expanduser().read_text(encoding="utf-8")[:LONGEST_KEY].partition("\n")[0].strip()
    except (OSError, ValueError) as error:
        raise InputError(f"VAD_VLM_API_KEY_FILE: {file} cannot be read ({error}).") from error
    if not key:
        raise InputError(f"VAD_VLM_API_KEY_FILE: the first line of {file} is empty.")
    return key
