"""Draft a revision of the inspection database: ``python -m tools.new_revision "what changes"``.

Compares the tables as the code has them with those that all revisions together make, and writes the difference beside
the other revisions, for review. ``HEAD`` in ``vad_lib/inspection_db/revision.py`` is changed by hand.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from vad_lib.inspection_db.engine import create_inspection_engine
from vad_lib.inspection_db.revision import alembic_config
from vad_lib.inspection_db.schema import metadata


def main(message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = create_inspection_engine(f"sqlite:///{Path(folder) / 'draft.db'}")
        with engine.begin() as connection:
            config = alembic_config(connection)
            config.attributes["tables"] = metadata
            number = 1 + len(list(ScriptDirectory.from_config(config).walk_revisions()))
            config.set_main_option("file_template", f"r{number:04d}_%%(slug)s")
            command.upgrade(config, "head")
            made = command.revision(config, message, autogenerate=True, rev_id=f"v2_{number:04d}")
            print(made.path)  # type: ignore[union-attr]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
