"""Pretrained networks whose features the detectors use: where their weights come from, and how they are built.

``weights`` finds files and imports no torch; ``build`` makes the network; ``shipped`` is the end of the search order.
"""
