"""Which detector for the images of a line: cross-validation, figures with intervals, paired tests, and a page."""
