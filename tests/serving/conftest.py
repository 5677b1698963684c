"""A plant and a running scorer for each test."""

from __future__ import annotations

from scorer_plant import db, inspection_url, source, start

__all__ = ["db", "inspection_url", "source", "start"]
