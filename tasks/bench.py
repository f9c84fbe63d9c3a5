"""A bench without runtime queue and cluster: to try an arm by hand, in tests and in benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from qiskit.primitives import (
    BaseSamplerV2,
    BitArray,
    DataBin,
    PrimitiveJob,
    PrimitiveResult,
    SamplerPubResult,
    StatevectorEstimator,
)
from qiskit.primitives.containers.sampler_pub import SamplerPub

from infra.runtime.backends.aer import IdealSimulator
from infra.runtime.backends.contract import Task
from infra.runtime.circuits.pubs import SamplerRequest
from tasks.contract import Bench

SHOTS = 1024  # of a PUB that does not say, as in Qiskit


class DirectSampler(BaseSamplerV2):  # type: ignore[misc]  # the library is not typed
    """The simulator of the runtime queue without the queue.

    Qiskit's own sampler simulates parameter sets one by one, and with a seed their shot noise is the same.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def run(self, pubs: Iterable[Any], *, shots: int | None = None) -> PrimitiveJob:
        """Sample every PUB in turn.

        Raises:
            BadInput: nothing is measured, or the simulator cannot run a gate.
        """
        job = PrimitiveJob(self._sample, [SamplerPub.coerce(pub, shots or SHOTS) for pub in pubs])
        job._submit()  # noqa: SLF001  (as Qiskit's samplers do)
        return job

    def _sample(self, pubs: list[SamplerPub]) -> PrimitiveResult:
        requests = [SamplerRequest(pub) for pub in pubs]
        tasks = [
            Task("sampler", r.circuit, f"pub {i}", r.arrays["sets"], r.shots, int(self._rng.integers(2**31)))
            for i, r in enumerate(requests)
        ]
        simulator, results = IdealSimulator(), []
        simulator.submit("here", tasks)
        for pub, (_, executed) in zip(pubs, simulator.results("here"), strict=True):
            if isinstance(executed, Exception):
                raise executed
            registers = {
                register.name: BitArray(
                    executed.arrays[register.name].reshape(*pub.shape, pub.shots, -1), register.size
                )
                for register in pub.circuit.cregs
            }
            results.append(SamplerPubResult(DataBin(**registers, shape=pub.shape), {"shots": pub.shots}))
        return PrimitiveResult(results)


def make_bench(seed: int = 1, scratch: Path = Path(), sampler: BaseSamplerV2 | None = None) -> Bench:
    """Return a bench whose circuits are simulated without noise; everything runs in this process, nothing is metered.

    Args:
        seed: of the random numbers, of the estimator, and of the sampler unless one is given.
        scratch: folder for the files and the checkpoints of the arm.
        sampler: runs the circuits; by default the simulator of the runtime queue.
    """
    cache: dict[str, Any] = {}

    def once(key: str, make: Callable[[], Any], /) -> Any:
        if key not in cache:
            cache[key] = make()
        return cache[key]

    return Bench(
        rng=np.random.default_rng(seed),
        sampler=sampler or DirectSampler(seed),
        estimator=StatevectorEstimator(seed=seed),
        map=lambda function, items: [function(item) for item in items],
        once=once,
        scratch=scratch,
        resume=lambda: scratch,
    )
