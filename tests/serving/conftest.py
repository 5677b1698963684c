"""A test rig and a running inference service for each test."""

from __future__ import annotations

from serving_rig import db, inspection_url, receiver, source, start

__all__ = ["db", "inspection_url", "receiver", "source", "start"]
