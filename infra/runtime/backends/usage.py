"""The vendor's documented usage formula, gate counts in closed form, and how circuits are compiled for devices."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

SUB_JOB_S = 2.0  # billed for each sub-job, whatever it holds
REP_DELAY_S = 250e-6  # default pause between two executions
MAX_EXECUTIONS = 5_000_000  # circuits x shots of one sub-job
LEVEL = 2  # of the transpiler: level 3 takes four times as long for 1-2 % fewer two-qubit gates
SEED_TRANSPILER = 11


def usage_s(executions: int, duration_s: float, rep_delay_s: float = REP_DELAY_S) -> float:
    """Return the billed seconds of a call by the vendor's formula, without any correction by earlier bills.

    Args:
        executions: circuits times shots.
        duration_s: of one execution.
        rep_delay_s: between two executions.
    """
    return SUB_JOB_S * sub_jobs(executions) + (rep_delay_s + duration_s) * executions


def sub_jobs(executions: int) -> int:
    """Return into how many sub-jobs a call is divided."""
    return ceil(executions / MAX_EXECUTIONS)


def shannon_gates(qubits: int) -> int:
    """Return the two-qubit gates of a dense unitary by quantum Shannon decomposition, before routing.

    23/48 4^n - 3/2 2^n + 4/3 (Shende, Bullock, Markov, IEEE TCAD 25, 1000 (2006), table 1).
    """
    return int((23 * 4**qubits - 72 * 2**qubits + 64) / 48)


@dataclass(frozen=True)
class Projection:
    """A circuit on a device.

    Attributes:
        two_qubit_gates: of its ISA form.
        duration_s: of one execution.
        error: why the device cannot run it; then the figures are 0.
        two_qubit_depth: how many of the gates lie on the longest path through it.
    """

    two_qubit_gates: int = 0
    duration_s: float = 0.0
    error: str | None = None
    two_qubit_depth: int = 0

    def qpu_s(self, executions: int, call_executions: int) -> float:
        """Return the projected seconds of some executions of a call, its overhead shared by executions.

        Args:
            executions: circuits times shots of this part.
            call_executions: the same of the whole call.
        """
        if self.error is not None or executions == 0:
            return 0.0
        return usage_s(call_executions, self.duration_s) * executions / call_executions

    def sub_jobs(self, executions: int, call_executions: int) -> float:
        """Return the share in the sub-jobs of a call, for the same arguments as `qpu_s`."""
        if self.error is not None or executions == 0:
            return 0.0
        return sub_jobs(call_executions) * executions / call_executions
