"""Pretrained networks whose features the detectors use: where their weights come from, and how they are built.

``weight_file`` says what one file is, ``weights`` finds files and imports no torch, ``build`` makes the network,
``fallback`` is the end of the search order, and ``encoder`` is the one door for detectors that take any encoder.
"""
