"""Fixtures of the tests about words: a tiny vision language model, alone and behind a server."""

from tests.words.tiny_vlm import tiny_vlm, vlm_server  # noqa: F401
