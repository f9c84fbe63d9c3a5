"""Looks for jobs that a service made of recent batches a second time and listed late.

A batch is looked at again when its age has doubled since the last look, and daily, until it is `SWEEP_S` old: a job may
be listed long after the request that made it.
"""

from __future__ import annotations

import logging
import time

from infra.errors import BadAnswer, NoAnswer
from infra.runtime.backends.contract import Backend
from infra.runtime.ledger.lane import Lane

log = logging.getLogger("ketcycle.queue")

RECENT_S = 3600.0  # age up to which a thorough sweep looks at every batch
SWEEP_S = 3 * 86_400.0  # age after which duplicates of a batch are no longer looked for
DAY_S = 86_400.0


def is_due(age_s: float, looked_s: float, listing_delay_s: float = 60.0) -> bool:
    """Say whether the jobs under a tag are to be listed again.

    Args:
        age_s: seconds since the batch was sent.
        looked_s: seconds from then to the last look; below 0 = never looked.
        listing_delay_s: how long after its creation a job may be missing from the list.
    """
    return looked_s < 0 or age_s > 2 * max(looked_s, listing_delay_s) or age_s - looked_s > DAY_S


def sweep(lane: Lane, backend: Backend, *, thorough: bool = False) -> int:
    """List the jobs of recent batches whose check is due; return the number of unknown jobs.

    Each of those is followed from now on: cancelled while it is queued, else charged and flagged.

    Args:
        lane: of the backend.
        backend: where the batches ran.
        thorough: look at each batch of the last hour, whenever it was looked at last.
    """
    if backend.local or not backend.priced:
        return 0
    now, found = time.time(), 0
    for tag, sent, looked in lane.recent(now - SWEEP_S):
        age_s, looked_s = now - sent, looked - sent
        if is_due(age_s, looked_s, backend.listing_delay_s) or (thorough and looked_s < age_s < RECENT_S):
            try:
                found += lane.looked(tag, backend.find(tag))
            except (NoAnswer, BadAnswer) as error:
                log.info("duplicates of batch %s could not be looked for: %s", tag, error)
    if found:
        log.warning("%s made %d further job(s) of recent batches; they are cancelled or charged", lane.name, found)
    return found
