"""Results and states on a real MQTT broker, which goes away and comes back."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from brightness_model import write_image
from serving_rig import RigSource, Starter, until

from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import Actor
from vad_lib.queue import pause_line
from vad_lib.queue.outbox import notification_counts
from vad_lib.serving.mqtt import MqttChannel

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
pytestmark = pytest.mark.skipif(not MOSQUITTO, reason="needs mosquitto, a package of Debian")


class Broker:
    """A broker that keeps what it was told, on one port, and somebody who listens to everything."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.got: list[tuple[str, Any, bool]] = []
        self._listens = threading.Event()
        self._config = folder / "mosquitto.conf"
        (folder / "users").touch(mode=0o600)
        subprocess.run(
            [str(shutil.which("mosquitto_passwd") or "true"), "-b", str(folder / "users"), "vad", "s3cret"], check=True
        )
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {folder / 'users'}\n"
            f"persistence true\npersistence_location {folder}/\nuser root\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        # one whose messages the broker keeps while it is away
        self._listener = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self._listener.username_pw_set("vad", "s3cret")
        self._listener.reconnect_delay_set(1, 1)
        self._listener.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._listener.on_subscribe = lambda *_: self._listens.set()
        self._listener.on_message = lambda _, __, message: self.got.append(
            (message.topic, message.payload.decode(), message.retain)
        )

    def start(self) -> None:
        self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._config)], stderr=subprocess.DEVNULL)

        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        until(listens)
        if not self._listener.is_connected():
            self._listener.connect_async("127.0.0.1", self.port)
            self._listener.loop_start()
        assert self._listens.wait(30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def end(self) -> None:
        self._listener.disconnect()
        self._listener.loop_stop()
        self.stop()

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(body) for topic, body, _ in self.got if topic == "plant/bottles/results"]

    def last(self, topic: str) -> str:
        return next((body for found, body, _ in reversed(self.got) if found == topic), "")


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    if not shutil.which("mosquitto_passwd"):
        pytest.skip("needs mosquitto_passwd, which comes with mosquitto")
    folder = tmp_path / "broker"
    folder.mkdir()
    made = Broker(folder)
    for name, value in {"URL": made.url, "TOPIC": "plant/", "USER": "vad", "PASSWORD": "s3cret"}.items():
        monkeypatch.setenv(f"VAD_MQTT_{name}", value)
    yield made
    made.end()


def test_results_and_states_are_published_and_wait_while_the_broker_is_away(
    broker: Broker, source: RigSource, start: Starter, db: InspectionDatabase
) -> None:
    line = source.lines["bottles"]
    source.lines["bottles"] = replace(line, sinks=replace(line.sinks, mqtt=True))
    broker.start()
    service = start()
    write_image(line.folder / "first.png", 200)
    until(lambda: len(broker.results()) == 1)
    assert (broker.results()[0]["image_path"], broker.results()[0]["predicted"]) == ("first.png", "NG")
    until(lambda: '"running"' in broker.last("plant/bottles/state"))
    assert broker.last("plant/service") == "online"

    broker.stop()
    write_image(line.folder / "second.png", 50, 1)
    until(lambda: db.count_predictions("bottles") == 2)  # no result waits for the broker
    assert notification_counts(db)["waiting"] == 1
    pause_line(db, "bottles", Actor("Kim"), "the lamp is broken")
    broker.start()
    until(
        lambda: {one["image_path"] for one in broker.results()} == {"first.png", "second.png"},
        seconds=60,
        seen=lambda: broker.got,
    )
    until(lambda: '"paused"' in broker.last("plant/bottles/state"), seconds=60, seen=lambda: broker.got)
    assert "the lamp is broken" in broker.last("plant/bottles/state")
    service.stop()
    until(lambda: broker.last("plant/service") == "offline")


def test_the_broker_itself_says_that_a_service_is_gone(broker: Broker) -> None:
    broker.start()
    channel = MqttChannel.of_settings()
    assert channel is not None
    channel.tell_states({})
    until(lambda: broker.last("plant/service") == "online")
    client = channel._connected()
    held = client.socket()
    assert held is not None
    client.loop_stop()
    held.shutdown(socket.SHUT_RDWR)  # as when a machine is switched off
    held.close()
    until(lambda: broker.last("plant/service") == "offline")


@pytest.mark.parametrize("url", ["127.0.0.1:1883", "http://x", "mqtt://", "mqtt://user:s3cret@x"])
def test_what_is_no_address_of_a_broker_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InputError, match="VAD_MQTT_URL") as caught:
        MqttChannel(url, "vad")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InputError, match="VAD_MQTT_TOPIC"):
        MqttChannel("mqtt://x", "a/#")
