"""Runs that start in a fraction of a second: each is forked from a process that has imported everything already.

``launcher.WarmRunLauncher`` is named in ``dagster.yaml``. It hands a run to the fork server of its home (``server``),
which it starts when there is none, and falls back to the plain launcher where that cannot be done.
``docs/warm_runs.md`` says how the parts work together.
"""
