"""Made defects on real pictures: for the demo, for tests, and for trying a detector before real defects exist.

A made defect tells whether a detector sees *something*; it does not stand for the defects of a real production.
"""

from vad_lib.synthetic.defects import DEFECT_KINDS, DefectKind, DefectRow, DrawnDefect, draw_defect
from vad_lib.synthetic.demo_line import TEXTURES, DemoLine, contact_sheet, make_demo_drop, make_demo_line

__all__ = [
    "DEFECT_KINDS",
    "TEXTURES",
    "DefectKind",
    "DefectRow",
    "DemoLine",
    "DrawnDefect",
    "contact_sheet",
    "draw_defect",
    "make_demo_drop",
    "make_demo_line",
]
