"""Scoring with the fastest backend of the machine at hand, decided by measuring, allowed by parity."""

from vad_lib.compiled.choosing import ScoringChoice, load_for_scoring

__all__ = ["ScoringChoice", "load_for_scoring"]
