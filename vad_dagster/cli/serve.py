"""``vad serve``: the inference service."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's need VAD_TOKEN.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Of the web interface.")] = 8600,
    micro_batch: Annotated[int, typer.Option(min=1, help="Images scored together at most.")] = 16,
    warm_models: Annotated[int, typer.Option(min=1, help="Models kept in memory.")] = 8,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Largest image that is taken by the web.")] = 64,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Score images the moment they arrive, on all lines. Ctrl-C stops it; runs inspect whatever it leaves.

    Environment: VAD_TOKEN (who may ask by the web), VAD_WEBHOOK_URL ({line} is replaced) and VAD_WEBHOOK_SECRET (where
    results are sent, and the key of their signature), VAD_RESULT_FILES=1 (a JSON file beside each image).
    """
    from vad_dagster.service.process import ServiceSettings
    from vad_dagster.service.process import serve as run
    from vad_lib.serving import ServiceLimits

    run(
        ServiceSettings(
            host=host,
            port=port,
            max_upload_mb=max_upload_mb,
            log_level=log_level,
            limits=ServiceLimits(micro_batch=micro_batch, warm_models=warm_models),
        )
    )
