"""All arms of drift, by name."""

from __future__ import annotations

from tasks.contract import Arm, Kind
from tasks.monitoring.drift.arms import (
    solve_always_ok,
    solve_coin,
    solve_ks,
    solve_linear_twin,
    solve_mmd_rbf,
    solve_pool,
    solve_quantum,
    solve_quantum_linear,
    solve_twin,
)
from tasks.monitoring.drift.iqp_arms import (
    solve_hamming,
    solve_hamming_twin,
    solve_iqp,
    solve_iqp_twin,
    solve_projected,
    solve_projected_twin,
    solve_rbf_components,
)
from tasks.monitoring.drift.problem import Drift, Verdicts

INCUMBENT: Arm[Drift, Verdicts] = Arm("kernel-pool", Kind.CLASSICAL, solve_pool, version="2")
CHALLENGER: Arm[Drift, Verdicts] = Arm("quantum-kernel", Kind.QUANTUM, solve_quantum, twin="quantum-kernel-exact")
OTHERS: tuple[Arm[Drift, Verdicts], ...] = (
    Arm("quantum-kernel-exact", Kind.TWIN, solve_twin),
    Arm("quantum-kernel-linear", Kind.QUANTUM, solve_quantum_linear, twin="quantum-kernel-linear-exact"),
    Arm("quantum-kernel-linear-exact", Kind.TWIN, solve_linear_twin),
    Arm("iqp-kernel", Kind.QUANTUM, solve_iqp, twin="iqp-kernel-exact"),
    Arm("iqp-kernel-exact", Kind.TWIN, solve_iqp_twin),
    Arm("hamming-kernel", Kind.QUANTUM, solve_hamming, twin="hamming-kernel-exact"),
    Arm("hamming-kernel-exact", Kind.TWIN, solve_hamming_twin),
    Arm("projected-kernel", Kind.QUANTUM, solve_projected, twin="projected-kernel-exact"),
    Arm("projected-kernel-exact", Kind.TWIN, solve_projected_twin),
    Arm("mmd-rbf", Kind.CLASSICAL, solve_mmd_rbf, version="2"),
    Arm("mmd-rbf-components", Kind.CLASSICAL, solve_rbf_components),
    Arm("ks-bonferroni", Kind.CLASSICAL, solve_ks),
    Arm("always-ok", Kind.CONTROL, solve_always_ok, does_nothing=True),
    Arm("coin", Kind.CONTROL, solve_coin),
)
