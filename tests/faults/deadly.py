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


def far_rule(text):
    """Pass every text, unless this is a machine that may die: the first one to read a noted document does."""
    if os.environ.get("MAY_DIE"):
        return rule(text)
    words = text.text.split(maxsplit=5)
    if words[0] == "NOTES":
        with Path(words[1]).open("a") as log:
            log.write(f"{words[3]} {os.getpid()}\n")
    return None


def hide(corpus):
    """Be on a machine that does not see the corpus."""
    from tasks.curation import exchange

    seen = vars(exchange)["digest_of"]
    vars(exchange)["digest_of"] = lambda path: "hidden" if Path(path).is_relative_to(corpus) else seen(path)


def curated_by_far(home, corpus):
    """Be the stage of curation in a Dask worker, with a rule that kills other machines."""
    options = {"corpus": (corpus,), "alone": True, "shard_mb": 1, "own_rules": ("deadly:far_rule",)}
    state = curation.prepare(Context("r", "curation", Path(home), 0, options), State())
    return {str(ref) for ref in state.refs.values()}


def curated(home, corpus):
    """Be the stage of curation in a Dask worker."""
    options = {"corpus": (corpus,), "alone": True, "shard_mb": 1, "own_rules": ("deadly:rule",)}
    state = curation.prepare(Context("r", "curation", home, 0, options), State())
    return {str(ref) for ref in state.refs.values()}
