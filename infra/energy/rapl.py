"""Energy counters of the CPU packages and their DRAM, read from the powercap tree of Linux.

The module handles the layout of the tree and the wrap of its counters; it does not attribute energy to processes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
# `intel-rapl-mmio` repeats the same packages, and `psys` is the whole platform: neither is added.
_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")


@dataclass(frozen=True)
class Domain:
    """One counter: a CPU package or the DRAM behind it."""

    path: Path
    name: str
    range_uj: int

    @property
    def is_dram(self) -> bool:
        """Whether the counter is of DRAM, else of a package."""
        return self.name == "dram"

    def read_uj(self) -> int:
        """Return the counter in microjoules; it starts again at zero after `range_uj`."""
        return int((self.path / "energy_uj").read_text())


def find_domains(root: Path = POWERCAP) -> tuple[tuple[Domain, ...], str]:
    """Return the readable counters of all packages, and the reason if there are none."""
    if not root.is_dir():
        return (), f"{root} does not exist (no powercap driver; usual in virtual machines)"
    found: dict[str, Domain] = {}
    reason = f"{root} holds no CPU package"
    for path in sorted([*root.glob("intel-rapl:*"), *root.glob("intel-rapl:*/intel-rapl:*:*")]):
        if not _ZONE.fullmatch(path.name) or path.name in found:
            continue
        try:
            name = (path / "name").read_text().strip()
            if not name.startswith("package") and name != "dram":
                continue
            domain = Domain(path, name, int((path / "max_energy_range_uj").read_text()))
            domain.read_uj()
        except PermissionError:
            return (), f"permission denied on {path / 'energy_uj'}; let this user read it"
        except (OSError, ValueError) as error:
            reason = f"{path} cannot be read: {error}"
            continue
        found[path.name] = domain
    domains = tuple(found.values())
    if all(domain.is_dram for domain in domains):
        return (), reason
    return domains, ""


class RaplCounter:
    """Joules since the start; `update` must be called more often than a counter wraps (minutes)."""

    def __init__(self, domains: Sequence[Domain]) -> None:
        self._domains = tuple(domains)
        self._last = [domain.read_uj() for domain in self._domains]
        self._used_uj = [0] * len(self._domains)

    def update(self) -> None:
        """Read all counters and add their increments, also across a wrap."""
        for i, domain in enumerate(self._domains):
            now = domain.read_uj()
            went = now - self._last[i]
            self._used_uj[i] += went if went >= 0 else went + domain.range_uj
            self._last[i] = now

    @property
    def package_j(self) -> float:
        """Joules of all packages up to the last update."""
        return 1e-6 * sum(uj for d, uj in zip(self._domains, self._used_uj, strict=True) if not d.is_dram)

    @property
    def dram_j(self) -> float:
        """Joules of all DRAM counters up to the last update."""
        return 1e-6 * sum(uj for d, uj in zip(self._domains, self._used_uj, strict=True) if d.is_dram)
