"""Fixtures of the tests about words."""

from tests.words.tiny_vlm import tiny_vlm, vlm_server  # noqa: F401
from tests.words.words_rig import home_db, inspection_url, make_client, stub, words  # noqa: F401
