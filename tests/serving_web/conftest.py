"""The test rig of the inference service, for its web interface."""

from __future__ import annotations

from serving_rig import db, inspection_url, source, start

__all__ = ["db", "inspection_url", "source", "start"]
