"""Measures several arms on the same problem: each once cold, then short ones looped in interleaved blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from numpy.random import Generator

from infra.energy.meter import Meter, Source
from infra.energy.usage import Usage

T = TypeVar("T")

SHORT_S, AGAIN_S = 0.5, 2.0


@dataclass(frozen=True)
class Measured(Generic[T]):
    """Result and usage of one arm.

    Attributes:
        value: return value of the cold run, None if it raised.
        cold: usage of the first run, caches empty.
        warm: mean usage of one looped run, the empty loop subtracted; None if the arm was not looped.
        loops: looped runs.
        total: usage of the whole measurement of this arm, all loops included.
        source: source of the joules; the weakest source of the blocks that count.
        error: exception of the cold run.
        note: reason why looping stopped early.
    """

    value: T | None
    cold: Usage
    warm: Usage | None = None
    loops: int = 0
    total: Usage = field(default_factory=Usage)
    source: Source = "modelled"
    error: Exception | None = None
    note: str = ""

    @property
    def per_run(self) -> Usage:
        """Usage of one run: the warm mean if the arm was looped, else the cold run."""
        return self.cold if self.warm is None else self.warm


@dataclass
class _Loops:
    """Sums over the blocks of one arm."""

    usage: Usage = field(default_factory=Usage)
    spent: Usage = field(default_factory=Usage)
    loops: int = 0
    sources: list[Source] = field(default_factory=list)
    note: str = ""


def measure_arms(
    functions: Mapping[str, Callable[[], T]],
    rng: Generator,
    *,
    blocks: int = 5,
    minimum_s: float = 1.0,
    loopable: Collection[str] = (),
    foreign: Callable[[], Usage] = Usage,
    meter: Callable[[], Meter] = Meter,
    around: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Measured[T]]:
    """Run every function once cold, then loop the short ones in interleaved blocks (PROTOCOL section 1).

    Within each block the arms come in a new random order, so that a drift of the machine affects all of them alike.

    Args:
        functions: the arms by name, in the order of the cold runs; each runs the same problem.
        rng: random generator of the order of arms within a block.
        blocks: number of interleaved blocks.
        minimum_s: minimum elapsed seconds of a looped arm, over all blocks.
        loopable: arms that may run again; an arm is looped only if a run takes under 0.5 s. An arm whose cold run took
            up to 2 s is timed a second time, because loading libraries may be most of a cold run.
        foreign: function that returns the total usage so far of work for other callers; its increase during a block is
            subtracted from the block.
        meter: function that creates the meter of a block.
        around: what to enter, with the name of an arm, around its cold run; it is not metered.

    Raises:
        MeterBusy: a metered block is open in this process.
    """
    names = list(functions)
    measured: dict[str, Measured[T]] = {}
    for name in names:
        with around(name):
            measured[name] = _cold(functions[name], foreign, meter)
    again = [n for n in names if n in loopable and measured[n].error is None and measured[n].cold.wall_s < AGAIN_S]
    sums = {name: _Loops() for name in again}
    for name in again:
        if measured[name].cold.wall_s >= SHORT_S:
            _block(functions[name], 0.0, sums[name], foreign, meter)
    short = [name for name in again if sums[name].usage.wall_s < SHORT_S]
    for _ in range(blocks):
        for name in _shuffled(short, rng):
            if not sums[name].note:
                _block(functions[name], minimum_s / blocks, sums[name], foreign, meter)
    return {name: _with_loops(measured[name], sums.get(name)) for name in names}


def _cold(function: Callable[[], T], foreign: Callable[[], Usage], meter: Callable[[], Meter]) -> Measured[T]:
    value: T | None = None
    error: Exception | None = None
    before = foreign()
    with meter() as block:
        try:
            value = function()
        except Exception as caught:  # noqa: BLE001  (an arm that fails is a result; the caller decides what follows)
            error = caught
    cold, _ = block.usage.split(foreign() - before)
    return Measured(value, cold, total=cold, source=block.source, error=error)


def _block(
    function: Callable[[], object],
    minimum_s: float,
    sums: _Loops,
    foreign: Callable[[], Usage],
    meter: Callable[[], Meter],
) -> None:
    before = foreign()
    loops = 0
    with meter() as block:
        try:
            loops = _loop(function, minimum_s)
        except Exception as caught:  # noqa: BLE001  (as above; what the blocks before measured is thrown away)
            sums.note = f"not looped: {type(caught).__name__}: {caught}"
    usage, _ = block.usage.split(foreign() - before)
    with meter() as empty:
        _repeat(_nothing, loops)
    sums.usage += _less(usage, empty.usage)
    sums.spent += usage + empty.usage
    sums.loops += loops
    sums.sources.append(block.source)


def _loop(function: Callable[[], object], minimum_s: float) -> int:
    end = time.perf_counter() + minimum_s
    loops = 0
    while True:
        function()
        loops += 1
        if time.perf_counter() >= end:
            return loops


def _repeat(function: Callable[[], object], times: int) -> None:
    loops = 0
    while loops < times:
        function()
        loops += 1
        time.perf_counter()


def _nothing() -> None:
    """Do nothing, in place of the arm in the empty loop."""


def _less(usage: Usage, empty: Usage) -> Usage:
    rest, _ = usage.split(Usage(cpu_s=empty.cpu_s, rss_gb_s=empty.rss_gb_s))
    return rest + Usage(wall_s=max(0.0, usage.wall_s - empty.wall_s) - rest.wall_s)


def _with_loops(cold: Measured[T], sums: _Loops | None) -> Measured[T]:
    if sums is None:
        return cold
    total = cold.total + sums.spent
    if sums.note or not sums.loops:
        return Measured(cold.value, cold.cold, None, 0, total, cold.source, None, sums.note)
    source = max([*sums.sources, cold.source], key=("measured", "attributed", "modelled").index)
    return Measured(cold.value, cold.cold, sums.usage.scaled(1 / sums.loops), sums.loops, total, source)


def _shuffled(names: list[str], rng: Generator) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))]
