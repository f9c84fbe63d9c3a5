"""Raw physical quantities of a piece of work; joules, money and carbon are derived from them later."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from operator import add, attrgetter, sub


@dataclass(frozen=True)
class Usage:
    """Quantities used by a piece of work.

    Attributes:
        cpu_s: CPU seconds, user + system, of this process and the processes it started.
        wall_s: elapsed seconds.
        rss_gb_s: resident memory integrated over time, GB s.
        package_j: joules of the CPU packages if a counter can be read, else 0.
        dram_j: joules of the DRAM if a counter can be read, else 0.
        gpu_j: joules of the GPUs if a counter can be read, else 0.
        simulation_cpu_s: the part of `cpu_s` spent simulating quantum circuits.
        qpu_s_billed: QPU seconds billed.
        qpu_s_projected: QPU seconds of the same circuits on the projection device by the documented usage formula;
            the projected bill is this times the recorded bill factor, see `infra.energy.model`.
        jobs: jobs sent to a backend; a job shared with other calls counts as a fraction.
        circuits: circuits executed; each parameter set counts as one.
        shots: shots over all circuits.
        two_qubit_gates: two-qubit gates executed once per circuit, of the circuit as run on the projection device.
        counted_cpu_s: the part of `cpu_s` covered by `package_j`; the CPU-time model covers the rest.
        sub_jobs: sub-jobs in the projected seconds, each with fixed seconds; a shared one counts as a fraction.
        qubit_shots: qubits of a circuit times its shots, over all circuits.
        two_qubit_depth: two-qubit gates on the longest path through each circuit, once per circuit, of the same form;
            0 beside gates where the evidence is of a version that did not record it.
        usd_billed: US dollars billed by a provider that charges by job and shot. Where QPU seconds are billed it is 0,
            and the price of those seconds is a coefficient.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    rss_gb_s: float = 0.0
    package_j: float = 0.0
    dram_j: float = 0.0
    gpu_j: float = 0.0
    simulation_cpu_s: float = 0.0
    qpu_s_billed: float = 0.0
    qpu_s_projected: float = 0.0
    jobs: float = 0.0
    circuits: int = 0
    shots: int = 0
    two_qubit_gates: int = 0
    counted_cpu_s: float = 0.0
    sub_jobs: float = 0.0
    qubit_shots: int = 0
    two_qubit_depth: int = 0
    usd_billed: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(add, _VALUES(self), _VALUES(other)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*map(sub, _VALUES(self), _VALUES(other)))

    def scaled(self, factor: float) -> Usage:
        """Return every quantity times `factor`; counts are rounded."""
        return Usage(**{k: round(v * factor) if k in _COUNTS else v * factor for k, v in vars(self).items()})

    def split(self, part: Usage) -> tuple[Usage, Usage]:
        """Subtract the work of `part` and return (rest, part).

        CPU seconds, memory and simulation are subtracted, at most to zero; counter joules follow the CPU seconds.
        Elapsed time and counts of the rest are unchanged, because the rest waited for the part.
        """
        share = min(1.0, part.cpu_s / self.cpu_s) if self.cpu_s > 0 else 0.0
        part = replace(
            part, **{name: getattr(self, name) * share for name in ("package_j", "dram_j", "gpu_j", "counted_cpu_s")}
        )
        names = ("cpu_s", "rss_gb_s", "package_j", "dram_j", "gpu_j", "counted_cpu_s", "simulation_cpu_s")
        return replace(self, **{n: max(0.0, getattr(self, n) - getattr(part, n)) for n in names}), part

    def asdict(self) -> dict[str, float | int]:
        """Return the quantities by name."""
        return dict(vars(self))


_VALUES = attrgetter(*(field.name for field in fields(Usage)))
_COUNTS = {field.name for field in fields(Usage) if isinstance(field.default, int)}
