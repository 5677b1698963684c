"""The one queue of a plant: incoming files as rows of the inspection database.

Four verbs. Whoever sees a complete file *registers* it (``register``). A worker *leases* files of one line (``lease``),
reads and scores them, and *finishes* them with their results in one transaction (``finish``). A lease whose worker died
or was not heard of *expires* (``expire``): its files are offered again, each then alone, and a file that too many
workers did not survive is refused. A worker may be a thread of the inference service on any machine, or a run of
Dagster; none of them knows of the others.

``predictions`` has one row a line, content and model version. That key, and not a lease, is what makes each image
counted once; a lease only saves work.
"""

from vad_lib.queue.facts import QueueFacts, queue_facts, services_of
from vad_lib.queue.leases import LEASE_SECONDS, Leased, expire, kept_leases, lease, new_worker, renew
from vad_lib.queue.pausing import Pause, pause_line, pauses, resume_line
from vad_lib.queue.registration import known_versions, register
from vad_lib.queue.results import Decision, Done, Later, Outcome, Prediction, Refused, Unchanged, finish

__all__ = [
    "LEASE_SECONDS",
    "Decision",
    "Done",
    "Later",
    "Leased",
    "Outcome",
    "Pause",
    "Prediction",
    "QueueFacts",
    "Refused",
    "Unchanged",
    "expire",
    "finish",
    "kept_leases",
    "known_versions",
    "lease",
    "new_worker",
    "pause_line",
    "pauses",
    "queue_facts",
    "register",
    "renew",
    "resume_line",
    "services_of",
]
