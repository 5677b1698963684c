"""Results and states on an MQTT broker: ``TOPIC/LINE/results``, ``TOPIC/LINE/state`` and ``TOPIC/service``.

Each result counts as sent when the broker has acknowledged it (QoS 1). States are retained, so who subscribes later
knows them at once, and the broker itself says ``offline`` when the service is gone (last will).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vad_lib.errors import InputError
from vad_lib.queue.outbox import Attempt, Notification
from vad_lib.settings import settings

if TYPE_CHECKING:
    import paho.mqtt.client as paho

ACKNOWLEDGED_SECONDS = 5.0
MOST_QUEUED = 100
SCHEMES = {"mqtt": 1883, "mqtts": 8883}
logger = logging.getLogger("vad.serving.mqtt")


class MqttChannel:
    """Speaks to one broker, and connects again by itself. May be used by several threads.

    Args:
        url: ``mqtt://HOST[:PORT]`` or ``mqtts://HOST[:PORT]``, the latter encrypted.
        topic: under which everything is published.
        user: at the broker; empty: none.
        password: of the user.
    """

    def __init__(self, url: str, topic: str, user: str = "", password: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.hostname or parts.username or parts.password:
            raise InputError("VAD_MQTT_URL is written as mqtt://HOST:PORT or mqtts://HOST:PORT, without a password.")
        if not topic.strip("/") or set(topic) & set("+#\0"):
            raise InputError("VAD_MQTT_TOPIC is a topic without + and #, such as vad.")
        self._address = parts.hostname, parts.port or SCHEMES[parts.scheme]
        self._is_encrypted = parts.scheme == "mqtts"
        self.topic = topic.strip("/")
        self._user, self._password = user, password
        self._lock = threading.Lock()
        self._client: paho.Client | None = None
        self._states: dict[str, str] = {}

    @classmethod
    def of_settings(cls) -> MqttChannel | None:
        """Return the one that the environment names, or None."""
        now = settings()
        if not now.mqtt_url:
            return None
        return cls(now.mqtt_url, now.mqtt_topic, now.mqtt_user, now.mqtt_password.get_secret_value())

    def publish(self, notification: Notification) -> Attempt:
        """Send a result, and wait until the broker has it."""
        client = self._connected()
        body = json.dumps(notification.content, ensure_ascii=False, separators=(",", ":"))
        message = client.publish(f"{self.topic}/{notification.line}/results", body, qos=1)
        try:
            message.wait_for_publish(ACKNOWLEDGED_SECONDS)
        except (RuntimeError, ValueError) as error:  # not connected, or its own queue is full
            return Attempt("failed", f"MQTT: {error}")
        return (
            Attempt("sent") if message.is_published() else Attempt("failed", "the MQTT broker has not acknowledged it")
        )

    def tell_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Publish the state of each line that changed, retained."""
        client = self._connected()
        for line, state in states.items():
            body = json.dumps(state, sort_keys=True, ensure_ascii=False)
            if self._states.get(line) == body or not client.is_connected():
                continue
            if client.publish(f"{self.topic}/{line}/state", body, qos=1, retain=True).rc == 0:
                self._states[line] = body

    def close(self) -> None:
        """Say that the service is gone, and disconnect."""
        with self._lock:
            if self._client is not None:
                if self._client.is_connected():
                    self._client.publish(f"{self.topic}/service", "offline", qos=1, retain=True).wait_for_publish(1.0)
                self._client.disconnect()
                self._client.loop_stop()
                self._client = None

    def _connected(self) -> paho.Client:
        """Return the client, whose own thread connects and connects again."""
        import paho.mqtt.client as paho

        with self._lock:
            if self._client is None:
                made = paho.Client(paho.CallbackAPIVersion.VERSION2)
                if self._user:
                    made.username_pw_set(self._user, self._password or None)
                if self._is_encrypted:
                    made.tls_set()
                made.will_set(f"{self.topic}/service", "offline", qos=1, retain=True)
                made.reconnect_delay_set(1, 30)
                # what the outbox sends again must not pile up here while the broker is away
                made.max_queued_messages_set(MOST_QUEUED)
                made.on_connect = self._on_connect
                made.connect_async(*self._address, keepalive=30)
                made.loop_start()
                self._client = made
            return self._client

    def _on_connect(self, client: paho.Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            logger.warning("the MQTT broker refuses the service", extra={"error": str(reason)})
            return
        self._states.clear()  # a broker that was started anew may have forgotten them
        client.publish(f"{self.topic}/service", "online", qos=1, retain=True)
