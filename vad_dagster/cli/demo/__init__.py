"""The demo: a line of real photographs with drawn defects, from images to inspected drops, through the real product.

Nothing here is a shortcut: images are trained with ``train_line``, land in the line's inbox, and are inspected because
a sensor of a running daemon saw them.
"""

from vad_dagster.cli.demo.running import run_demo

__all__ = ["run_demo"]
