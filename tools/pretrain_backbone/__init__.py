"""Trains the backbone that ships with the package, from scratch, on images that a program draws."""
