"""Plays many cases at once: a few players, each of which forks the callers of its cases one case at a time."""

import gc
import json
import multiprocessing
import resource
import shutil
import traceback
from pathlib import Path

import harness

from infra.runtime.ledger.ledger import Ledger

PLAYERS = 2


def play_all(cases, worlds, folder):
    """Play all cases and return what came of each: what failed or None, whether a process was killed, CPU s.

    Args:
        cases: what is to be played.
        worlds: a service for each player.
        folder: an empty folder.
    """
    folder = Path(folder)
    new = multiprocessing.get_context("spawn")  # a fork of a process that has imported everything is slow to fork again
    players = [new.Process(target=_play_some, args=(cases, k, len(worlds), w, folder)) for k, w in enumerate(worlds)]
    for player in players:
        player.start()
    for player in players:
        player.join()
    found = {}
    for number in range(len(worlds)):
        for line in (folder / f"player{number}").read_text().splitlines():
            entry = json.loads(line)
            found[entry.pop("index")] = entry
    return {case: found[index] for index, case in enumerate(cases)}


def _play_some(cases, number, step, world, folder):
    right = world.prepare(folder / f"alone{number}")
    ready, place = folder / f"ready{number}", folder / f"case{number}"
    ready.mkdir()
    harness.set_limits(Ledger(ready / "ledger.db"))
    _lay_out(ready, place)
    harness.rehearse(world, place, right)
    gc.freeze()  # a child that looks through all that its parent imported takes longer than its case
    with (folder / f"player{number}").open("w") as results:
        for index in range(number, len(cases), step):
            before, failure, killed = _cpu_s(), None, False
            _lay_out(ready, place)
            try:
                killed = harness.play(cases[index], world, place, right).killed
            except BaseException as error:
                failure = "".join(traceback.format_exception(error))[-3000:]
            entry = {"index": index, "failure": failure, "killed": killed, "cpu_s": _cpu_s() - before}
            results.write(json.dumps(entry) + "\n")
            results.flush()


def _cpu_s():
    """Return the CPU seconds of this process and of the callers it has waited for."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _lay_out(ready, place):
    """Lay out a new ledger where the last case had its own: what is compiled for a ledger is kept by its address."""
    harness.forget_ledgers()
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ready, place)


def summary(name, played):
    """Say how many cases were played, in how many a process was killed, and how much CPU time they took."""
    killed = sum(entry["killed"] for entry in played.values())
    failed = sum(entry["failure"] is not None for entry in played.values())
    seconds = sum(entry["cpu_s"] for entry in played.values())
    return f"{name}: {len(played)} cases, a process was killed in {killed}, {failed} failed, {seconds:.0f} CPU s"
