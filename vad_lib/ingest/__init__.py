"""Files that arrive in a watch folder: which are there (``scan``), which are complete, and which are new (``watch``).

A scan is the truth, an event of the operating system only a hint that makes things quick. Nothing here remembers what
was inspected: that is the queue.
"""

from vad_lib.ingest.scan import FileSeen, FileVersion, Scan, scan_folder
from vad_lib.ingest.watch import Arrival, FolderEvents, FolderWatch

__all__ = ["Arrival", "FileSeen", "FileVersion", "FolderEvents", "FolderWatch", "Scan", "scan_folder"]
