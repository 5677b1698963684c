"""How the tables of the inspection database came to be what they are: one revision a change, run by alembic.

A database is brought up to the newest revision by whoever opens it first (``vad_lib.inspection_db.revision``). After a
change of the tables, ``python -m tools.new_revision "what changes"`` drafts a revision for review.
"""
