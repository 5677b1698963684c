"""What arrived, was predicted, refused and labelled, durably: one database for all lines and all processes."""

from vad_lib.inspection_db.database import InspectionDatabase, utc_now

__all__ = ["InspectionDatabase", "utc_now"]
