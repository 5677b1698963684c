"""Where results go, so that a line can act on them: to a web address, or into a file beside the image."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any

from vad_lib.atomic_files import write_whole
from vad_lib.ingest.scan import RESULT_SUFFIX
from vad_lib.inspection_db.database import utc_now
from vad_lib.queue.outbox import Attempt, Notification

WEBHOOK, FILE, MQTT = "webhook", "file", "mqtt"
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Sinks:
    """Where the results of one line go.

    Attributes:
        webhook_url: results are POSTed here as JSON; empty: nowhere.
        secret: key of the signature; empty: not signed.
        result_files: whether a JSON file is written beside each image.
        mqtt: whether results are published on the MQTT broker of the settings.
    """

    webhook_url: str = ""
    secret: str = field(default="", repr=False)
    result_files: bool = False
    mqtt: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are in use, as the outbox calls them."""
        used = {WEBHOOK: bool(self.webhook_url), FILE: self.result_files, MQTT: self.mqtt}
        return tuple(name for name, is_used in used.items() if is_used)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of ``X-VAD-Signature``: HMAC-SHA256 over the timestamp, a dot and the body.

    >>> signature("key", "1700000000", b"{}")[:15]
    'sha256=9d713ed4'
    """
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def post_webhook(session: Any, sinks: Sinks, notification: Notification) -> Attempt:
    """POST a notification. Anything but an answer of 2xx is a failure; the address is not changed by redirections."""
    import requests

    body = json.dumps(notification.content, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = str(int(utc_now().timestamp()))
    headers = {"Content-Type": "application/json", "X-VAD-Id": notification.id, "X-VAD-Timestamp": timestamp}
    if sinks.secret:
        headers["X-VAD-Signature"] = signature(sinks.secret, timestamp, body)
    try:
        answer = session.post(
            sinks.webhook_url.replace("{line}", notification.line),
            data=body,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            # what the receiver has to say beside the status is not read, however much it is
            stream=True,
        )
        answer.close()
    except requests.RequestException as error:
        return Attempt("failed", f"{type(error).__name__}: {error}")
    if 200 <= answer.status_code < 300:
        return Attempt("sent")
    refused = 400 <= answer.status_code < 500 and answer.status_code not in (401, 403, 404, 408, 429)
    return Attempt("failed", f"the receiver answered {answer.status_code}", only_this=refused)


def write_result_file(notification: Notification) -> Attempt:
    """Write ``<image>.vad.json`` beside the image, whole or not at all.

    Not for a version of the image that another took the place of: the file is about the image that lies beside it.
    """
    if notification.superseded:
        return Attempt("sent")
    target = notification.file.with_name(notification.file.name + RESULT_SUFFIX)
    content = json.dumps(notification.content, indent=2, ensure_ascii=False) + "\n"
    try:
        write_whole(target, content.encode(errors="replace"), durable=False, for_all_of_folder=True)
    except OSError as error:
        return Attempt("failed", f"{target}: {error.strerror or error}", only_this=True)
    return Attempt("sent")
