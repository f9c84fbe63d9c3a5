"""A rule of the user's own that notes what it reads, and the first time it meets a certain document kills its process.

The documents say where: `NOTES <file> PART <n>`, and the one to die of also `DIE`.
"""

import os
import signal
from pathlib import Path

from tasks.curation import stage as curation
from tasks.stage import Context, State


def rule(text):
    """Pass every text."""
    words = text.text.split(maxsplit=5)
    if words[0] != "NOTES":
        return
    notes, part = Path(words[1]), words[3]
    with notes.open("a") as log:
        log.write(f"{part} {os.getpid()}\n")
    if words[4] == "DIE":
        try:
            notes.with_suffix(".killed").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
    return


def curated(home, corpus):
    """Be the stage of curation in a Dask worker."""
    options = {"corpus": (corpus,), "alone": True, "shard_mb": 1, "own_rules": ("deadly:rule",)}
    state = curation.prepare(Context("r", "curation", home, 0, options), State())
    return {str(ref) for ref in state.refs.values()}
