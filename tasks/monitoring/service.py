"""The decision `drift` outside a run, for `ketcycle drift` and the hourly watch: settled and recorded like any other.

A window of real traffic has no known truth, so the arms beside the decision run on a *probe*: windows of known truth
planted among the vectors of the reference. All probes of one reference are one unit of independence, so evidence on a
single model's traffic never certifies an arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from infra.settings import Settings
from tasks.monitoring.drift.bank import probes
from tasks.monitoring.drift.problem import Drift
from tasks.monitoring.drift.subtask import DRIFT
from tasks.settle import run_shadow, settle
from tasks.workbench import Workbench

SMALLEST = 60  # vectors of a reference among which a probe can be planted


def service_bench(loaded: Settings, run_id: str, **chosen: Any) -> Workbench:
    """Return what decisions outside a run work with.

    Args:
        loaded: the settings.
        run_id: under which the evidence is kept.
        chosen: further attributes of `Workbench`.
    """
    return Workbench(
        run_id=run_id,
        home=loaded.home,
        ledger=loaded.ledger,
        objective=loaded.objective,
        projection_device=loaded.projection_device,
        remote_deadline_s=loaded.remote_deadline_s,
        **{"simulation_limit_s": loaded.simulation_limit_s, **chosen},
    )


@dataclass
class SettledDrift:
    """Settles the views of a window, each as one problem of the decision `drift`.

    Attributes:
        bench: what the decision works with.
        left: problem and arms to run beside it, by view, after `judge`.
    """

    bench: Workbench
    left: dict[str, tuple[Drift, tuple[str, ...]]] = field(default_factory=dict)

    def judge(self, problems: Mapping[str, Drift]) -> dict[str, float]:
        """Return the p-value of each view by the arm that the method names."""
        found = {}
        for name, problem in problems.items():
            outcome, beside = settle(DRIFT, problem, self.bench)
            found[name] = outcome.solution.p_values[0]
            self.left[name] = problem, (outcome.decision.arm, *beside) if beside else ()
        return found

    def run_beside(self, allowance_s: float) -> int:
        """Run the arms left beside the decision on one probe of each view; return how many ran.

        Args:
            allowance_s: CPU seconds of optional arms, and of the simulation that one call may be expected to take.
        """
        bench = replace(self.bench, probe=True, simulation_limit_s=min(allowance_s, self.bench.simulation_limit_s))
        ran = 0
        for name, (problem, arms) in self.left.items():
            if arms and len(problem.reference) + len(problem.background) >= SMALLEST:
                (planted,) = probes(problem, bench.generator(DRIFT.key, "probe", name), count=1)
                ran += run_shadow(DRIFT, planted, arms, bench, allowance_s)
        return ran
