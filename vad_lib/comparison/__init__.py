"""Detectors beside one another on the same images: ``image_sets`` are compared on, ``running`` measures one detector on
one set, ``pages`` makes the tables and the page with pictures.
"""
