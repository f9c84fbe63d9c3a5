"""What the outlook assumes: coefficients, devices and site, each with unit, distribution and source, in shared draws.

Every read of an assumption is noted, so each figure can name the assumptions that it depends on. The same name has the
same draws in every figure.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import stdtrit

from infra.energy.coefficients import Coefficient, CoefficientsFile
from infra.energy.model import SEED, Coefficients
from infra.errors import BadInput

Array = NDArray[np.float64]
T = TypeVar("T")

HARDWARE = Path(__file__).with_name("hardware.yaml")
SITE = Path(__file__).with_name("site.yaml")
DRAWS = 10_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SameAs(_Strict):
    """A number that stands in `infra/energy/coefficients.yaml`."""

    same_as: str


Entry = Annotated[Coefficient | SameAs, Field(union_mode="left_to_right")]


class Device(_Strict):
    """A class of devices that run circuits.

    Attributes:
        about: which devices are meant.
        compiled: whether the evidence's projected seconds are of this class; otherwise shots x `shot` is used.
        power: W of the whole system.
        shot: seconds from one shot to the next.
        job: seconds billed for each job beside its executions.
        price_second: USD per second for which the device is held.
        price_shot: USD per shot.
        price_task: USD per circuit sent.
        two_qubit_error: error of a two-qubit gate.
        queue: seconds that a job waits.
    """

    about: str
    compiled: bool = False
    power: Entry
    shot: Entry
    job: Entry
    price_second: Entry | None = None
    price_shot: Entry | None = None
    price_task: Entry | None = None
    two_qubit_error: Entry
    queue: Entry


class Preset(_Strict):
    """Physical qubits of a fault-tolerant machine, by the names of the estimator in `qdk`."""

    about: str
    error: float = Field(gt=0, lt=0.01)
    two_qubit_gate_s: float = Field(gt=0)
    measurement_s: float = Field(gt=0)
    source: str


class HardwareFile(_Strict):
    """The file of devices."""

    version: str
    default: str
    devices: dict[str, Device]
    shots: dict[str, Entry]
    fault_tolerant: dict[str, Entry]
    presets: dict[str, Preset]


class SiteFile(_Strict):
    """The file of the reader's site; `coefficients` replaces entries of `infra/energy/coefficients.yaml` by name."""

    version: str
    site: dict[str, Entry]
    coefficients: dict[str, Coefficient] = {}


class Assumptions(Coefficients):
    """All assumptions by dotted name: `cpu.w_core`, `hardware.trapped_ion.power`, `site.day_rate`.

    Attributes:
        hardware: the devices.
        site: the reader's site.
        quantiles: fixed quantile for each name, an array of `n` values; names that are missing stay at the median.
            None = draws.
    """

    def __init__(
        self,
        file: CoefficientsFile,
        digest: str,
        hardware: HardwareFile,
        site: SiteFile,
        n: int = DRAWS,
        quantiles: Mapping[str, Array] | None = None,
        changed: Mapping[str, Coefficient] = MappingProxyType({}),
    ) -> None:
        super().__init__(file, digest, n, SEED)
        self.hardware, self.site, self.quantiles = hardware, site, quantiles
        self._aliases: dict[str, str] = {}
        self._read: set[str] = set()
        self._memory: dict[Any, tuple[Any, frozenset[str]]] = {}
        self._entries = {**self._entries, **site.coefficients}
        for name, entry in _named(hardware, site):
            if isinstance(entry, SameAs):
                self._aliases[name] = entry.same_as
            else:
                self._entries[name] = entry
        self._changed = changed
        self._entries.update(changed)

    def at(self, quantiles: Mapping[str, Array], n: int) -> Assumptions:
        """Return the same assumptions at given quantiles, the median where none is given."""
        return self._copied(n, quantiles)

    def replaced(self, name: str, value: float) -> Assumptions:
        """Return the same assumptions with one of them known: its value, without spread."""
        known = {"value": value, "distribution": {"kind": "fixed"}, "unit": "", "source": "given", "year": 2026}
        return self._copied(self.n, self.quantiles, {self._aliases.get(name, name): Coefficient.model_validate(known)})

    def _copied(
        self, n: int, quantiles: Mapping[str, Array] | None, changed: Mapping[str, Coefficient] = MappingProxyType({})
    ) -> Assumptions:
        return Assumptions(self.file, self.hash, self.hardware, self.site, n, quantiles, {**self._changed, **changed})

    def entries(self) -> dict[str, Coefficient]:
        """Return every assumption by name, those that stand elsewhere under both names."""
        return {**self._entries, **{name: self._entries[target] for name, target in self._aliases.items()}}

    def has(self, name: str) -> bool:
        """Return whether there is such an assumption."""
        return name in self._entries or name in self._aliases

    def value(self, name: str) -> float:
        """Return the value of an assumption."""
        return self._entries[self._noted(name)].value

    def draws(self, name: str) -> Array:
        """Return the shared draws of an assumption."""
        name = self._noted(name)
        entry = self._entries[name]
        return self._kept(name, lambda: entry.distribution.quantile(self._uniform(name), entry.value))

    def residual(self, workload: str, coefficient: str = "cpu.workload_residual") -> Array:
        """Return the draws of the residual factor of a workload."""
        if not workload:
            return np.ones(self.n)
        entry = self._entries[self._noted(coefficient)]
        key = f"{coefficient}/{workload}"
        return self._kept(key, lambda: entry.distribution.quantile(self._uniform(key), entry.value))

    def student(self, key: str, degrees: int) -> Array:
        """Return draws of Student's t, the uncertainty of a fitted number; 0 where there are no degrees of freedom."""
        if degrees < 1:
            return np.zeros(self.n)
        self._read.add(key)
        return self._kept(f"{key}/{degrees}", lambda: self._student(key, degrees))

    def uniform(self, key: str) -> Array:
        """Return draws between 0 and 1."""
        self._read.add(key)
        return self._kept(f"uniform {key}", lambda: self._uniform(key))

    def spread(self, name: str) -> Array:
        """Return the draws of anything that was read, by the name under which it was noted."""
        return self.draws(name) if self.has(name) else self.uniform(name)

    @contextmanager
    def reading(self) -> Iterator[set[str]]:
        """Note the names of all assumptions that are read within the block."""
        outer, self._read = self._read, set()
        inner = self._read
        try:
            yield inner
        finally:
            outer |= inner
            self._read = outer

    def note(self, names: Iterable[str]) -> None:
        """Note names as read."""
        self._read.update(names)

    def remember(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Return what was made for a key before; what it depends on is noted each time.

        Args:
            key: decision, arm, and what it is.
            make: makes it.
        """
        if key not in self._memory:
            with self.reading() as names:
                value = make()
            self._memory[key] = (value, frozenset(names))
        value, known = self._memory[key]
        self._read |= known
        return value

    def forget(self, decision: str, arm: str = "") -> None:
        """Free what was remembered for a decision, or for one of its arms."""
        own = (decision, arm) if arm else (decision,)
        self._memory = {key: value for key, value in self._memory.items() if key[: len(own)] != own}

    def _noted(self, name: str) -> str:
        name = self._aliases.get(name, name)
        self._read.add(name)
        return name

    def _student(self, key: str, degrees: int) -> Array:
        if self.quantiles is not None:
            return np.asarray(stdtrit(degrees, self._uniform(key)))
        # The draws of every key are the same quantiles in another order.
        quantiles = self._kept(f"t {degrees}", lambda: np.asarray(stdtrit(degrees, self._grid())))
        return np.asarray(quantiles[self._order(key)])

    def _uniform(self, key: str) -> Array:
        if self.quantiles is not None:
            return self.quantiles.get(key, np.full(self.n, 0.5))
        return np.asarray(self._grid()[self._order(key)])

    def _grid(self) -> Array:
        return np.asarray((np.arange(self.n) + 0.5) / self.n)

    def _order(self, key: str) -> NDArray[np.int64]:
        return np.random.default_rng([SEED, zlib.crc32(key.encode())]).permutation(self.n)


def _named(hardware: HardwareFile, site: SiteFile) -> Iterator[tuple[str, Coefficient | SameAs]]:
    for device, about in hardware.devices.items():
        for field in Device.model_fields:
            entry = getattr(about, field)
            if isinstance(entry, Coefficient | SameAs):
                yield f"hardware.{device}.{field}", entry
    for group, entries in (("shots", hardware.shots), ("fault_tolerant", hardware.fault_tolerant), ("site", site.site)):
        for name, entry in entries.items():
            yield f"{group}.{name}", entry


def load_assumptions(hardware: Path | None = None, site: Path | None = None, n: int = DRAWS) -> Assumptions:
    """Read coefficients, devices and site; a file of the reader's may name only what it changes.

    Raises:
        BadInput: a file cannot be read, has an unknown name, or refers to a coefficient that does not exist.
    """
    shipped = Coefficients.load()
    file, digest = shipped.file, shipped.hash
    devices, devices_digest = _read(HARDWARE, hardware, HardwareFile)
    place, place_digest = _read(SITE, site, SiteFile)
    known = file.entries
    for name in place.coefficients:
        if name not in known:
            raise BadInput(f"{site}: no coefficient {name!r}; infra/energy/coefficients.yaml names them all")
    if devices.default not in devices.devices:
        raise BadInput(f"{hardware}: default {devices.default!r} is none of {', '.join(devices.devices)}")
    for name, entry in _named(devices, place):
        if isinstance(entry, SameAs) and entry.same_as not in known:
            raise BadInput(f"{name}: same_as {entry.same_as!r} is no name in infra/energy/coefficients.yaml")
    together = hashlib.sha256(f"{digest}{devices_digest}{place_digest}".encode()).hexdigest()[:12]
    return Assumptions(file, together, devices, place, n)


F = TypeVar("F", bound=BaseModel)


def _read(shipped: Path, given: Path | None, model: type[F]) -> tuple[F, str]:
    content = _yaml(shipped)
    if given is not None:
        content = _merged(content, _yaml(given))
    try:
        return model.model_validate(content), hashlib.sha256(repr(content).encode()).hexdigest()
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise BadInput(f"{given or shipped}: {'; '.join(wrong[:5])}; start from a copy of {shipped}") from error


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no mapping; start from a copy of {HARDWARE} or {SITE}")
    return content


def _merged(base: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with given values put over it; an assumption (it has `value` or `same_as`) is replaced whole."""
    found = dict(base)
    for name, value in given.items():
        whole = isinstance(value, dict) and ({"value", "same_as"} & value.keys())
        both = isinstance(value, dict) and isinstance(found.get(name), dict) and not whole
        found[name] = _merged(found[name], value) if both else value
    return found
