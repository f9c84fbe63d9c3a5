"""The dispatcher is killed at every edge, under every fault: nothing is sent twice, nobody gets what is not his.

`make test` plays pairwise cases, `make test-faults` all of them, or with `CRASHES=0/3` every third from the first;
against a scripted service in a file, and, fewer, through the vendor's own client against the double of its platform.
"""

import itertools
import os
import tempfile
from pathlib import Path

import edges
import harness
import hosted
import pytest
import scripted
from covering import pairwise
from players import PLAYERS, play_all, summary

pytestmark = pytest.mark.slow

SCRIPTED = (scripted.FAULTS, (1, 2), (1, 3), (1, 8))  # faults, dispatchers, polls of a job, parts that it may hold
HOSTED = (tuple(hosted.FAULTS), (1, 2), (0, 2), (256,))
MEMORY = Path("/dev/shm")  # noqa: S108  (processes are killed here, not machines: nothing has to reach a disk)


def cases(name, *, everything):
    factors = SCRIPTED if name == "scripted" else HOSTED
    if everything:
        return [harness.Case(*row) for row in itertools.product(edges.EDGES, *factors)]
    chosen = edges.QUICK if name == "scripted" else edges.REMOTE
    return [harness.Case(*row) for row in pairwise((chosen, *factors))]


def some(name):
    """Parameters of a test: pairwise cases of the quick edges, and all cases of all edges behind the marker."""
    first, step = map(int, os.environ.get("CRASHES", "0/1").split("/"))
    few = [pytest.param((name, False, index), id=str(case)) for index, case in enumerate(cases(name, everything=False))]
    every = [
        pytest.param((name, True, index), id=f"all: {case}", marks=pytest.mark.faults)
        for index, case in [*enumerate(cases(name, everything=True))][first::step]
    ]
    return few + every


@pytest.fixture(scope="session")
def doubles():
    made = [hosted.Double(devices=("lagos",)) for _ in range(PLAYERS)]
    yield made
    for double in made:
        double.stop()


@pytest.fixture(scope="session")
def played(request):
    """Plays the cases of a kind that were selected when the first of them is asked for, and keeps what came of them."""
    known = {}
    tests = [item.callspec.params["key"] for item in request.session.items if "played" in item.fixturenames]

    def outcome(key):
        name, everything, index = key
        if (name, everything) not in known:
            worlds = [scripted.World()] * PLAYERS
            if name == "hosted":
                worlds = [hosted.World(double) for double in request.getfixturevalue("doubles")]
            every = cases(name, everything=everything)
            chosen = [number for kind, whole, number in tests if (kind, whole) == (name, everything)]
            with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
                outcomes = list(play_all([every[number] for number in chosen], worlds, folder).values())
            known[name, everything] = dict(zip(chosen, outcomes, strict=True))
            with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                print("\n" + summary(f"{name}, {'all' if everything else 'pairwise'}", dict(enumerate(outcomes))))
        return known[name, everything][index]

    return outcome


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("key", some("scripted"))
def test_scripted(key, played):
    assert played(key)["failure"] is None, played(key)["failure"]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("key", some("hosted"))
def test_hosted(key, played):
    assert played(key)["failure"] is None, played(key)["failure"]
