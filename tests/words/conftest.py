"""Fixtures of the tests about words."""

from tests.words.words_rig import inspection_url, make_client, stub, words  # noqa: F401
