"""Detectors: from images to anomaly scores and maps.

``base`` says what a detector is, ``registry`` makes one, ``images`` feeds it, ``storage`` writes and reads its folder.
Each detector is a folder with a README that holds its measured table.
"""
