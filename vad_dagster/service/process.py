"""Run the inference service and its web interface until it is told to end."""

from __future__ import annotations

import ipaddress
import logging
import os
from dataclasses import dataclass, field
from typing import Any, NoReturn

from vad_lib.errors import InputError
from vad_lib.serving import ServiceLimits

DEFAULT_PORT = 8600


@dataclass(frozen=True)
class ServiceSettings:
    """Where the web interface listens, and how much the service takes on."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    max_upload_mb: int = 64
    log_level: str = "info"
    limits: ServiceLimits = field(default_factory=ServiceLimits)


def refuse_open_door(host: str, is_locked: bool) -> None:
    """Nobody is let in from other machines without a token.

    Raises:
        InputError: the address is not this machine's own, and there is no token.

    >>> refuse_open_door("127.0.0.1", False)
    """
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not is_locked:
        raise InputError(
            f"{host} can be reached from other machines, and VAD_TOKEN is not set: set it to a long random text, or "
            "listen on 127.0.0.1."
        )


def serve(settings: ServiceSettings) -> None:
    """Serve until SIGINT or SIGTERM. What is at work is finished; what waits stays in the queue.

    Raises:
        InputError: the door would be open (see ``refuse_open_door``).
    """
    from vad_dagster.service.people import Tokens
    from vad_lib.settings import settings as environment

    now = environment()
    secrets = (now.token, now.reviewer_token, now.viewer_token, now.proxy_token)
    tokens = Tokens(*(secret.get_secret_value() for secret in secrets))
    refuse_open_door(settings.host, bool(tokens.given()))
    from vad_dagster.home import prepare_home, prepare_tracking

    os.environ.update(prepare_home())
    prepare_tracking()

    from vad_dagster.service.champions import ChampionSource
    from vad_dagster.service.json_logs import log_as_json
    from vad_dagster.service.web_app import WebSettings, create_app
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.lines import Home
    from vad_lib.serving import InferenceService

    log_as_json(settings.log_level)
    home = Home.from_environment()
    service = InferenceService(InspectionDatabase.when_it_opens(home), ChampionSource(home), settings.limits)
    app = create_app(service, WebSettings(tokens, settings.max_upload_mb * 2**20))
    serve_and_end(app, settings)


def serve_and_end(app: Any, settings: ServiceSettings) -> NoReturn:
    """Serve a web application until a signal comes, and end the process, whatever its threads are at.

    All that counts is in the database. What still hangs in a receiver or in a decoder must not keep the process: Python
    itself would wait for such threads at its end.
    """
    import uvicorn

    from vad_dagster.service.connections import server_config

    code = 0
    try:
        uvicorn.Server(server_config(app, settings.host, settings.port)).run()
    except KeyboardInterrupt:  # uvicorn raises the signal again that it has obeyed
        pass
    except SystemExit as ended:  # it cannot listen, and has said so
        code = ended.code if isinstance(ended.code, int) else 1
    logging.shutdown()
    os._exit(code)
