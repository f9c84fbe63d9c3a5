"""Derives joules, money and carbon from stored raw quantities, with uncertainty bands (PROTOCOL section 1).

Boundaries, symmetric between CPU and QPU:

* `narrow`: CPU package + DRAM; for a QPU the whole system (cryostat and control) times the locked seconds;
* `wide`: narrow x wall factor (CPU) or + host (QPU), the idle share at the utilisation, calibration and maintenance,
  PUE. Embodied emissions are not joules: they enter the wide carbon figure, `footprint_gco2`;
* `marginal`: additional energy caused by the work. A cryostat draws nearly the same power busy or idle.

The energy of a QPU is always modelled; the energy of a simulator is never used as that of a QPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from infra.energy.coefficients import COEFFICIENTS, CoefficientsFile, read_coefficients
from infra.energy.usage import Usage

Boundary = Literal["narrow", "wide", "marginal"]
Objective = Literal["energy", "cost", "time"]
Device = Literal["superconducting", "trapped_ion", "neutral_atom", "annealer"]
Array = NDArray[np.float64]

DRAWS = 4000
SEED = 20
BANDS = 32_768  # kept: a page asks again and again for the joules of the same rows
J_PER_KWH = 3.6e6
S_PER_YEAR = 365.25 * 86400
SUB_JOB_FORMULA_S = 2.0  # seconds of a sub-job in the documented usage formula


def quantiles(draws: Array, shares: Sequence[float]) -> Array:
    """Return quantiles along the last axis, shape (..., shares): those of np.quantile, by one sort."""
    ordered = np.sort(draws, axis=-1)
    places = np.asarray(shares) * (ordered.shape[-1] - 1)
    before = places.astype(np.intp)
    low, high = ordered[..., before], ordered[..., np.minimum(before + 1, ordered.shape[-1] - 1)]
    weight, step = places - before, high - low
    return np.asarray(np.where(weight < 0.5, low + step * weight, high - step * (1 - weight)))


@dataclass(frozen=True)
class Band:
    """Median and the 5 % and 95 % points."""

    p5: float
    p50: float
    p95: float

    @classmethod
    def of(cls, draws: Array) -> Band:
        """Return the band of draws."""
        return cls(*quantiles(draws, (0.05, 0.5, 0.95)).tolist())

    def scaled(self, factor: float) -> Band:
        """Return every point times a factor that is not negative."""
        return Band(self.p5 * factor, self.p50 * factor, self.p95 * factor)


@dataclass(frozen=True)
class BreakEven:
    """Break-even of a QPU-second: the vCPU-hours it must replace, by price and by energy."""

    price_vcpu_h: float
    energy_vcpu_h: float
    system_power_w: float
    w_core_j: float
    price_usd_per_s: float

    def __str__(self) -> str:
        return (
            f"One QPU-second at ${self.price_usd_per_s:.2f} must replace {self.price_vcpu_h:.0f} vCPU-hours to pay, "
            f"and at {self.system_power_w / 1000:.0f} kW {self.energy_vcpu_h:.1f} vCPU-hours "
            f"({self.w_core_j:g} W per vCPU) to save energy."
        )


class Coefficients:
    """The coefficients with their shared draws, and the quantities derived from them.

    Attributes:
        version: version written in the file.
        hash: digest of the file.
        n: number of draws.
    """

    def __init__(self, file: CoefficientsFile, digest: str, n: int = DRAWS, seed: int = SEED) -> None:
        self.file = file
        self.version = file.version
        self.hash = digest
        self.n, self._seed = n, seed
        self._entries = file.entries
        self._cache: dict[str, Array] = {}
        self._band_of = lru_cache(maxsize=BANDS)(self._cpu_band)

    @staticmethod
    @lru_cache(maxsize=8)
    def load(path: Path | None = None, n: int = DRAWS, seed: int = SEED) -> Coefficients:
        """Read a coefficients file, this package's by default.

        Raises:
            BadInput: the file does not have the expected structure.
        """
        return Coefficients(*read_coefficients(path or COEFFICIENTS), n=n, seed=seed)

    def redrawn(self, seed: int) -> Coefficients:
        """Return the same coefficients with independent draws, as for another host."""
        return Coefficients(self.file, self.hash, self.n, seed)

    def value(self, name: str) -> float:
        """Return the value of a coefficient, e.g. `cpu.w_core`."""
        return self._entries[name].value

    def draws(self, name: str) -> Array:
        """Return the shared draws of a coefficient; the same array in every comparison."""
        return self._kept(name, lambda: self._entries[name].draws(name, self.n, self._seed))

    def residual(self, workload: str, coefficient: str = "cpu.workload_residual") -> Array:
        """Return the draws of the residual factor of a workload; 1 for the unnamed workload."""
        if not workload:
            return np.ones(self.n)
        entry = self._entries[coefficient]
        key = f"{coefficient}/{workload}"
        return self._kept(key, lambda: entry.draws(key, self.n, self._seed))

    def cpu_energy_draws(
        self, usage: Usage, boundary: Boundary = "narrow", workload: str = "", source: str = "measured"
    ) -> Array:
        """Return draws of the joules of CPU, DRAM and GPU.

        Joules of counters are used for the CPU seconds that they cover; the model fills in the rest.

        Args:
            usage: raw quantities.
            boundary: boundary of the energy: narrow, wide or marginal.
            workload: key of the workload whose residual applies, e.g. `pruning/greedy`.
            source: `attributed` if the counters were shared by CPU time.
        """
        modelled_s = max(0.0, usage.cpu_s - usage.counted_cpu_s)
        modelled = modelled_s * self.draws("cpu.w_core") * self.residual(workload)
        # Without a DRAM counter all memory is modelled, with a counter only the seconds that it does not cover.
        share = modelled_s / usage.cpu_s if usage.dram_j > 0 and usage.cpu_s > 0 else 1.0
        dram = share * usage.rss_gb_s * self.draws("cpu.w_dram")
        if not (usage.package_j or usage.dram_j or usage.gpu_j):
            return self._host(modelled + dram, boundary)
        counted = (usage.package_j + usage.dram_j) * self.draws("cpu.counter_error")
        counted = counted + usage.gpu_j * self.draws("gpu.counter_error")
        if source == "attributed":
            counted = counted * self.residual(workload or "attributed", "cpu.attribution_error")
        return self._host(modelled + dram + counted, boundary)

    def cpu_energy_j(self, usage: Usage, boundary: Boundary = "narrow", source: str = "measured") -> Band:
        """Return the joules of CPU, DRAM and GPU; joules of counters are used if there are any."""
        return self._band_of(usage, boundary, source)

    def _cpu_band(self, usage: Usage, boundary: Boundary, source: str) -> Band:
        return Band.of(self.cpu_energy_draws(usage, boundary, source=source))

    def simulation_energy_j(self, usage: Usage, boundary: Boundary = "narrow", source: str = "measured") -> Band:
        """Return the part of the CPU's joules that simulating circuits took. Never a QPU's energy."""
        if usage.cpu_s <= 0:
            return self.cpu_energy_j(Usage(cpu_s=usage.simulation_cpu_s), boundary)
        share = min(1.0, usage.simulation_cpu_s / usage.cpu_s)
        return self.cpu_energy_j(usage, boundary, source).scaled(share)

    def locked_draws(self, usage: Usage) -> Array:
        """Return draws of the seconds for which a QPU is occupied: billed seconds, else the projected bill.

        Projected seconds are split into sub-jobs and executions: recorded bills are fixed seconds for each sub-job plus
        a time for each execution, and both differ from the documented formula.
        """
        if usage.qpu_s_billed > 0:
            return np.full(self.n, usage.qpu_s_billed)
        sub_jobs = min(usage.sub_jobs or usage.jobs, usage.qpu_s_projected / SUB_JOB_FORMULA_S)
        executing_s = usage.qpu_s_projected - SUB_JOB_FORMULA_S * sub_jobs
        return np.asarray(sub_jobs * self.draws("qpu.job_seconds") + executing_s * self.draws("qpu.execution_ratio"))

    def device_draws(self, usage: Usage, boundary: Boundary = "narrow") -> tuple[Array, Array]:
        """Return draws of the seconds that are multiplied by the system power, and of the joules added to the product.

        The joules of a QPU are seconds times system power plus the added joules, see `qpu_energy_draws`.
        """
        locked_s, idle = self.locked_draws(usage), self.draws("qpu.idle_ratio")
        match boundary:
            case "narrow":
                return locked_s, np.zeros(self.n)
            case "marginal":
                return locked_s * (1 - idle), np.zeros(self.n)
            case "wide":
                share = self._idle_share(idle, "qpu") / (1 - self.draws("qpu.maintenance_share"))
                at_site_s = locked_s * self.draws("qpu.pue")
                return np.asarray(at_site_s * share), np.asarray(at_site_s * self.draws("qpu.host_power"))
            case _:
                assert_never(boundary)

    def qpu_energy_draws(self, usage: Usage, boundary: Boundary = "narrow") -> Array:
        """Return draws of the joules of a superconducting system, all of it attributed to the job."""
        seconds, fixed_j = self.device_draws(usage, boundary)
        return seconds * self.draws("qpu.superconducting_power") + fixed_j

    def qpu_energy_j(self, usage: Usage, boundary: Boundary = "narrow") -> Band:
        """Return the joules of a QPU for the billed seconds, else for the projected bill."""
        return Band.of(self.qpu_energy_draws(usage, boundary))

    def device_energy_j(self, usage: Usage, device: Device) -> Band:
        """Return the narrow joules if a device of a class ran the shots of a usage at its own repetition time.

        The sub-jobs keep their fixed seconds. This is a sweep over device classes, never a projection: nothing was
        compiled for such a device.
        """
        sub_jobs = usage.sub_jobs or usage.jobs
        locked_s = sub_jobs * self.draws("qpu.job_seconds") + usage.shots * self.draws(f"qpu.{device}_shot")
        return Band.of(locked_s * self.draws(f"qpu.{device}_power"))

    def qubit_share(self, usage: Usage) -> float | None:
        """Return the mean share of the device's qubits that the circuits use; None where it was not recorded."""
        if usage.shots <= 0 or usage.qubit_shots <= 0:
            return None
        return min(1.0, usage.qubit_shots / usage.shots / self.value("qpu.qubits"))

    def surviving_fidelity(self, usage: Usage) -> float | None:
        """Return (1 - error of a two-qubit gate) ^ gates of a mean circuit: the share of shots without such an error.

        None where no two-qubit gate was recorded. Readout and idling are left out, so this is an upper bound.
        """
        if usage.circuits <= 0 or usage.two_qubit_gates <= 0:
            return None
        return float((1 - self.value("qpu.two_qubit_error")) ** (usage.two_qubit_gates / usage.circuits))

    def cost_draws(
        self,
        usage: Usage,
        objective: Objective = "energy",
        backend: str = "",
        workload: str = "",
        boundary: Boundary = "narrow",
        source: str = "measured",
    ) -> Array:
        """Return draws of the objective of a decision: joules, USD or elapsed seconds.

        Only real expenses count: QPU seconds or dollars on a device that bills, CPU time of the simulator elsewhere.
        """
        billed = Usage(qpu_s_billed=usage.qpu_s_billed if _is_device(backend) else 0.0)
        match objective:
            case "time":
                return np.full(self.n, usage.wall_s)
            case "cost":
                return np.full(self.n, self.cost_usd(usage, backend or "ibm"))
            case "energy":
                cpu = self.cpu_energy_draws(usage, boundary, workload, source)
                return cpu + self.qpu_energy_draws(billed, boundary) if billed.qpu_s_billed else cpu
            case _:
                assert_never(objective)

    def probability_cheaper(
        self,
        a: Usage,
        b: Usage,
        objective: Objective = "energy",
        backend: str = "",
        workloads: tuple[str, str] = ("a", "b"),
        hysteresis: float = 0.0,
    ) -> float:
        """Return P(a costs less than (1 - hysteresis) x b) under shared draws, each with its workload's residual."""
        mine = self.cost_draws(a, objective, backend, workloads[0])
        its = self.cost_draws(b, objective, backend, workloads[1])
        return float(np.mean(mine < (1 - hysteresis) * its))

    def cpu_usd(self, usage: Usage) -> float:
        """Return the price of CPU time."""
        return usage.cpu_s * self.value("cpu.price") / 3600

    def cost_usd(self, usage: Usage, backend: str = "ibm") -> float:
        """Return the price of CPU time, of the seconds billed on a device that bills seconds, and other bills."""
        billed_s = usage.qpu_s_billed if _is_device(backend) else 0.0
        return self.cpu_usd(usage) + billed_s * self.value("qpu.price") + usage.usd_billed

    def projected_cost_usd(self, usage: Usage) -> Band:
        """Return the price if the projected seconds were billed as recorded jobs were."""
        return Band.of(
            self.cpu_usd(usage) + self.value("qpu.price") * self.locked_draws(replace(usage, qpu_s_billed=0.0))
        )

    def footprint_gco2(self, usage: Usage, country: str, qpu_country: str) -> Band:
        """Return the wide emissions: operation of CPU and QPU with the local grids, and the embodied share of both.

        Raises:
            BadInput: a country is not in the table.
        """
        intensity = self.file.carbon.intensity
        cpu = self.cpu_energy_draws(usage, "wide") * intensity(country)
        qpu = self.qpu_energy_draws(usage, "wide") * intensity(qpu_country)
        embodied = usage.cpu_s * self.embodied_g_per_s("cpu") / self.value("cpu.vcpus")
        embodied = embodied + self.locked_draws(usage) * self.embodied_g_per_s("qpu")
        return Band.of((cpu + qpu) / J_PER_KWH + embodied)

    def break_even(self) -> BreakEven:
        """Return the vCPU-hours that one QPU-second must replace to break even, by price and by energy."""
        power, w_core = self.value("break_even.system_power"), self.value("break_even.w_core")
        price = self.value("qpu.price")
        return BreakEven(
            price_vcpu_h=price / self.value("cpu.price"),
            energy_vcpu_h=power / w_core / 3600,
            system_power_w=power,
            w_core_j=w_core,
            price_usd_per_s=price,
        )

    def _host(self, narrow: Array, boundary: Boundary) -> Array:
        match boundary:
            case "narrow":
                return narrow
            case "marginal":
                return narrow * (1 - self.draws("cpu.idle_fraction"))
            case "wide":
                share = self._idle_share(self.draws("cpu.idle_fraction"), "cpu")
                share = share / (1 - self.draws("cpu.maintenance_share"))
                return np.asarray(narrow * self.draws("cpu.wall_factor") * share * self.draws("cpu.pue"))
            case _:
                assert_never(boundary)

    def _idle_share(self, idle: Array, machine: str) -> Array:
        # Each busy second includes the idle power of its share of unused time: 1/u - 1 idle seconds.
        return np.asarray(1 + idle * (1 / self.draws(f"{machine}.utilisation") - 1))

    def embodied_g_per_s(self, machine: str) -> Array:
        """Return draws of the embodied g CO2e of a busy second of a machine, `cpu` (a whole server) or `qpu`."""
        used_s = self.draws(f"{machine}.lifetime") * S_PER_YEAR * self.draws(f"{machine}.utilisation")
        return np.asarray(1000 * self.draws(f"{machine}.embodied") / used_s)

    def _kept(self, key: str, make: Callable[[], Array]) -> Array:
        found = self._cache.get(key)
        if found is None:
            found = make()
            found.setflags(write=False)
            self._cache[key] = found
        return found


def _is_device(backend: str) -> bool:
    return backend.startswith("ibm")
