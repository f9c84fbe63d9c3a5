"""What an arm takes at any size: raw quantities fitted to its evidence, priced by the assumptions, draw by draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infra.energy.model import J_PER_KWH, Boundary
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from infra.runtime.backends.usage import REP_DELAY_S, SUB_JOB_S
from tasks.outlook.assumptions import Assumptions
from tasks.outlook.scaling import Scaling, fit

Array = NDArray[np.float64]
Currency = Literal["energy", "money", "time"]
Part = Literal["own", "simulation"]

CPU = ("cpu_s", "rss_gb_s", "counted_j", "gpu_j", "wall_s")
LEAST_SURVIVAL = 1e-30  # fewer shots than one in so many count as none


def quantities(row: EvidenceRow) -> dict[str, float]:
    """Return the raw quantities of a mean solve of one instance, those of simulating circuits apart.

    Args:
        row: one execution; what it shares with other arms is included.
    """
    used, n = row.usage + row.prepare, max(1, len(row.qualities))
    share = min(1.0, used.simulation_cpu_s / used.cpu_s) if used.cpu_s > 0 else 0.0
    modelled_s = max(0.0, used.cpu_s - used.counted_cpu_s)
    memory = modelled_s / used.cpu_s if used.dram_j > 0 and used.cpu_s > 0 else 1.0
    whole = {
        "cpu_s": modelled_s,
        "rss_gb_s": memory * used.rss_gb_s,
        "counted_j": used.package_j + used.dram_j,
        "gpu_j": used.gpu_j,
        "priced_s": used.cpu_s,
    }
    waited = min(used.simulation_cpu_s, used.wall_s)
    found = {f"own_{name}": value * (1 - share) / n for name, value in whole.items()}
    found |= {f"simulation_{name}": value * share / n for name, value in whole.items()}
    found |= {"own_wall_s": (used.wall_s - waited) / n, "simulation_wall_s": waited / n}
    jobs = min(used.sub_jobs or used.jobs, used.qpu_s_projected / SUB_JOB_S) if used.qpu_s_projected else used.jobs
    executing_s = max(0.0, used.qpu_s_projected - SUB_JOB_S * jobs)
    return found | {
        "jobs": jobs / n,
        "executing_s": executing_s / n,
        "billed_s": used.qpu_s_billed / n,
        "billed_usd": used.usd_billed / n,
        "circuits": used.circuits / n,
        "shots": used.shots / n,
        "gates": used.two_qubit_gates / used.circuits if used.circuits else 0.0,
        "depth": _depth(used),
        "qubits": used.qubit_shots / used.shots if used.shots else 0.0,
        "circuit_us": max(0.0, 1e6 * (executing_s / used.shots - REP_DELAY_S)) if used.shots else 0.0,
    }


def _depth(used: Usage) -> float:
    """Return the two-qubit depth of a mean circuit, nan where the evidence is older than its record."""
    if used.two_qubit_gates and not used.two_qubit_depth:
        return math.nan
    return used.two_qubit_depth / used.circuits if used.circuits else 0.0


def fits_of(rows: Sequence[EvidenceRow]) -> dict[str, Scaling]:
    """Return how each raw quantity of an arm grows with the size of the instance, by the rows that recorded it."""
    found = [quantities(row) for row in rows]
    fits = {}
    for name in found[0]:
        known = [(row, q[name]) for row, q in zip(rows, found, strict=True) if not math.isnan(q[name])]
        known = known or [(row, 0.0) for row in rows]
        sizes, units = [float(max(1, row.size)) for row, _ in known], [row.unit or row.problem for row, _ in known]
        fits[name] = fit(sizes, [value for _, value in known], units)
    return fits


@dataclass(frozen=True)
class ArmModel:
    """An arm at any size.

    Attributes:
        decision: `stage/name`.
        arm: name of the arm.
        fits: the fitted raw quantities.
        source: source of its joules.
        assumptions: what quantities are priced with.
    """

    decision: str
    arm: str
    fits: Mapping[str, Scaling]
    source: str
    assumptions: Assumptions

    @property
    def largest(self) -> float:
        """Largest size in its evidence."""
        return self.fits["own_cpu_s"].largest

    def quantity(self, name: str, sizes: Array) -> Array:
        """Return draws of a raw quantity, shape (sizes, draws)."""
        key = f"fit {self.decision} {self.arm} {name}"
        return self.assumptions.remember(
            (self.decision, self.arm, sizes.tobytes(), name), lambda: self.fits[name].at(sizes, self.assumptions, key)
        )

    def here(self, sizes: Array, currency: Currency, boundary: Boundary, part: Part) -> Array:
        """Return draws of what the arm takes on this side of the device, in joules, USD or seconds."""
        within = boundary if currency == "energy" else ""  # money and seconds here are the same in both boundaries
        return self.assumptions.remember(
            (self.decision, self.arm, sizes.tobytes(), currency, within, part),
            lambda: self._here(sizes, currency, boundary, part),
        )

    def _here(self, sizes: Array, currency: Currency, boundary: Boundary, part: Part) -> Array:
        if currency == "time":
            return self.quantity(f"{part}_wall_s", sizes)
        if currency == "money":
            return self.quantity(f"{part}_priced_s", sizes) * self.assumptions.value("cpu.price") / 3600
        total = np.zeros((len(sizes), self.assumptions.n))
        units = {"cpu_s": Usage(cpu_s=1), "rss_gb_s": Usage(rss_gb_s=1), "counted_j": Usage(package_j=1)}
        for name, unit in (units | {"gpu_j": Usage(gpu_j=1)}).items():
            if self._taken(f"{part}_{name}"):
                joules = self.assumptions.cpu_energy_draws(unit, boundary, f"{self.decision}/{self.arm}", self.source)
                total = total + self.quantity(f"{part}_{name}", sizes) * joules
        return total

    def all_here(self, sizes: Array, currency: Currency, boundary: Boundary) -> Array:
        """Return draws of what the arm takes here, simulated circuits included."""
        own = self.here(sizes, currency, boundary, "own")
        if not any(self._taken(name) for name in self.fits if name.startswith("simulation_")):
            return own  # the arm has no circuits: an array of zeros need not be added
        return own + self.here(sizes, currency, boundary, "simulation")

    def _taken(self, name: str) -> bool:
        """Return whether a raw quantity is more than zero at some size."""
        return self.fits[name].lines[0].form != "zero"

    @property
    def billed(self) -> bool:
        """Whether any of its evidence was billed."""
        return self._taken("billed_s") or self._taken("billed_usd")

    def bill(self, sizes: Array) -> Array:
        """Return draws of the USD that a solve was billed: dollars of a provider, QPU seconds at their price."""
        usd = self.quantity("billed_usd", sizes)
        if self._taken("billed_s"):
            usd = usd + self.quantity("billed_s", sizes) * self.assumptions.value("qpu.price")
        return usd

    def survival(self, sizes: Array, device: str) -> Array:
        """Return draws of the share of shots without an error of a two-qubit gate."""

        def make() -> Array:
            error = self.assumptions.draws(f"hardware.{device}.two_qubit_error")
            return np.asarray(np.exp(self.quantity("gates", sizes) * np.log1p(-error)))

        return self.assumptions.remember((self.decision, self.arm, sizes.tobytes(), "survival", device), make)

    def shot_factor(self, sizes: Array, device: str, *, noise: bool) -> Array:
        """Return draws of the factor on the evidence's shots for the same quality on a device."""
        factor = self.assumptions.draws("shots.equal_quality") * self.failed
        if not noise:
            return np.broadcast_to(factor, (len(sizes), self.assumptions.n))
        return factor / np.maximum(self.survival(sizes, device), LEAST_SURVIVAL)

    @property
    def failed(self) -> Array:
        """Draws of the factor for jobs that are sent again."""
        return np.asarray(1 / (1 - self.assumptions.draws("shots.failed")))

    def shot_s(self, sizes: Array, device: str) -> Array:
        """Return draws of the seconds of a shot."""
        if not self.assumptions.hardware.devices[device].compiled:
            shot = self.assumptions.draws(f"hardware.{device}.shot")
            return np.broadcast_to(shot, (len(sizes), self.assumptions.n))
        ratio = self.assumptions.draws("qpu.execution_ratio")
        return self.quantity("executing_s", sizes) / np.maximum(self.quantity("shots", sizes), 1e-12) * ratio

    def device_s(self, sizes: Array, device: str, *, noise: bool = True) -> Array:
        """Return draws of the seconds for which a device is held: fixed seconds a job plus the time of the shots."""

        def make() -> Array:
            shots = self.quantity("shots", sizes) * self.shot_factor(sizes, device, noise=noise)
            jobs = self.quantity("jobs", sizes) * self.failed
            return jobs * self.assumptions.draws(f"hardware.{device}.job") + shots * self.shot_s(sizes, device)

        return self.assumptions.remember((self.decision, self.arm, sizes.tobytes(), "device", device, noise), make)

    def on_device(
        self, sizes: Array, device: str, currency: Currency, boundary: Boundary, *, noise: bool = True
    ) -> Array:
        """Return draws of what the device takes, in joules, USD or seconds.

        Wide money adds the adoption, written off over the decisions of the plan; wide time adds the wait in the queue.
        """
        key = (self.decision, self.arm, sizes.tobytes(), "on", device, currency, boundary, noise)
        return self.assumptions.remember(key, lambda: self._on_device(sizes, device, currency, boundary, noise=noise))

    def _on_device(self, sizes: Array, device: str, currency: Currency, boundary: Boundary, *, noise: bool) -> Array:
        assumed, seconds = self.assumptions, self.device_s(sizes, device, noise=noise)
        match currency:
            case "energy":
                factor, fixed = assumed.device_draws(Usage(qpu_s_billed=1.0), boundary)
                return np.asarray(seconds * (factor * assumed.draws(f"hardware.{device}.power") + fixed))
            case "money":
                usd = self._price(sizes, device, seconds, noise=noise)
                return usd if boundary == "narrow" else usd + adoption_of_a_decision(assumed)
            case "time":
                queue = self.quantity("jobs", sizes) * self.failed * assumed.draws(f"hardware.{device}.queue")
                return seconds if boundary == "narrow" else seconds + queue

    def _price(self, sizes: Array, device: str, seconds: Array, *, noise: bool) -> Array:
        assumed, about, name = self.assumptions, self.assumptions.hardware.devices[device], f"hardware.{device}"
        usd = np.zeros_like(seconds)
        if about.price_second is not None:
            usd = usd + seconds * assumed.draws(f"{name}.price_second")
        if about.price_shot is not None:
            shots = self.quantity("shots", sizes) * self.shot_factor(sizes, device, noise=noise)
            usd = usd + shots * assumed.draws(f"{name}.price_shot")
        if about.price_task is not None:
            usd = usd + self.quantity("circuits", sizes) * self.failed * assumed.draws(f"{name}.price_task")
        return usd


def adoption(assumed: Assumptions) -> Array:
    """Return draws of the USD of integration and training."""
    days = assumed.draws("site.integration_days") + assumed.draws("site.training_days")
    return np.asarray(days * assumed.draws("site.day_rate"))


def upkeep(assumed: Assumptions) -> Array:
    """Return draws of the USD of upkeep in a year."""
    return np.asarray(assumed.draws("site.upkeep_days") * assumed.draws("site.day_rate"))


def adoption_of_a_decision(assumed: Assumptions) -> Array:
    """Return draws of the USD of adoption and upkeep that fall to one decision of the plan."""
    yearly = adoption(assumed) / assumed.draws("site.years") + upkeep(assumed)
    return np.asarray(yearly / assumed.draws("site.decisions"))


def grams(assumed: Assumptions, joules: Array, country: str) -> Array:
    """Return draws of the g CO2e of joules at a place."""
    intensity = assumed.file.carbon.intensity(country)
    return np.asarray(joules * intensity * assumed.draws("site.carbon_spread") / J_PER_KWH)
