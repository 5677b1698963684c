"""Detectors: from images to anomaly scores and maps.

``base`` says what a detector is, ``registry`` is the table of those that there are, ``images`` feeds one, ``storage``
writes and reads its folder, ``fit_forecast`` is what it says of a fit before it. Each detector is a folder that holds
everything of its own, with a README of what was measured; docs/architecture.md shows how to add one.
"""
