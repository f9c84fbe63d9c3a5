"""Reads the coefficients file and draws from its distributions.

Draws are stratified and keyed by name and seed: a coefficient has the same draws in every comparison, so the ratio of
two arms is more precise than their bands, and adding a coefficient does not change the draws of others.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import BadInput
from infra.yaml_text import parse_yaml

COEFFICIENTS = Path(__file__).with_name("coefficients.yaml")
_Z95 = 1.6448536269514722


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fixed(_Strict):
    """A known value, or a stated convention."""

    kind: Literal["fixed"]

    def quantile(self, u: NDArray[np.float64], value: float) -> NDArray[np.float64]:
        """Return the value everywhere."""
        return np.full_like(u, value)


class LogT(_Strict):
    """Value times exp(scale x Student t): prediction for a new host from few calibrated hosts."""

    kind: Literal["log_t"]
    scale: float = Field(gt=0)
    degrees: int = Field(gt=0)

    def quantile(self, u: NDArray[np.float64], value: float) -> NDArray[np.float64]:
        """Return the quantiles at `u`."""
        from scipy.special import stdtrit

        return np.asarray(value * np.exp(self.scale * stdtrit(self.degrees, u)))


class LogNormal(_Strict):
    """Log-normal distribution, given by its 5 % and 95 % points."""

    kind: Literal["log_normal"]
    p5: float = Field(gt=0)
    p95: float = Field(gt=0)

    def quantile(self, u: NDArray[np.float64], value: float) -> NDArray[np.float64]:
        """Return the quantiles at `u`."""
        from scipy.special import ndtri

        return np.asarray(value * np.exp(math.log(self.p95 / self.p5) / (2 * _Z95) * ndtri(u)))


class LogUniform(_Strict):
    """Log-uniform distribution: only the range is known."""

    kind: Literal["log_uniform"]
    low: float = Field(gt=0)
    high: float = Field(gt=0)

    def quantile(self, u: NDArray[np.float64], value: float) -> NDArray[np.float64]:  # noqa: ARG002
        """Return the quantiles at `u`."""
        return np.asarray(self.low * (self.high / self.low) ** u)


class TwoTriangles(_Strict):
    """Triangular on either side of the value, half the mass on each, so that the value is the median."""

    kind: Literal["two_triangles"]
    low: float
    high: float

    def quantile(self, u: NDArray[np.float64], value: float) -> NDArray[np.float64]:
        """Return the quantiles at `u`."""
        below = self.low + (value - self.low) * np.sqrt(2 * np.minimum(u, 0.5))
        above = self.high - (self.high - value) * np.sqrt(2 * (1 - np.maximum(u, 0.5)))
        return np.asarray(np.where(u < 0.5, below, above), dtype=np.float64)


class Empirical(_Strict):
    """Recorded values, all equally likely."""

    kind: Literal["empirical"]
    values: tuple[float, ...] = Field(min_length=1)

    def quantile(self, u: NDArray[np.float64], value: float) -> NDArray[np.float64]:  # noqa: ARG002
        """Return the quantiles at `u`."""
        ordered = np.sort(np.asarray(self.values))
        return np.asarray(ordered[np.minimum((u * len(ordered)).astype(int), len(ordered) - 1)])


Distribution = Annotated[Fixed | LogT | LogNormal | LogUniform | TwoTriangles | Empirical, Field(discriminator="kind")]


class Coefficient(_Strict):
    """One number with its unit, its distribution and its source."""

    value: float = Field(gt=0, allow_inf_nan=False)
    unit: str
    distribution: Distribution
    source: str
    year: int

    def draws(self, name: str, n: int, seed: int) -> NDArray[np.float64]:
        """Return `n` stratified draws in an order that depends only on name and seed."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        u = (rng.permutation(n) + 0.5) / n
        return self.distribution.quantile(u, self.value)

    @property
    def band(self) -> tuple[float, float]:
        """The 5 % and 95 % points."""
        low, high = self.distribution.quantile(np.array([0.05, 0.95]), self.value)
        return float(low), float(high)


class Carbon(_Strict):
    """Yearly mean carbon intensity of electricity by country."""

    unit: str
    source: str
    countries: dict[str, tuple[str, float, int]]

    def intensity(self, country: str) -> float:
        """Return g CO2e per kWh of a country by its two- or three-letter code; `WORLD` is the mean.

        Raises:
            BadInput: the code is not in the table.
        """
        return self.countries[self.codes(country)[0]][1]

    def codes(self, country: str) -> tuple[str, ...]:
        """Return the three-letter and, where there is one, the two-letter code of a country given by either.

        Raises:
            BadInput: the code is not in the table.
        """
        code = country.upper()
        for three, (two, _, _) in self.countries.items():
            if code in (three, two or three):
                return (three, two) if two else (three,)
        raise BadInput(f"no carbon intensity for country {country!r}; use an ISO 3166 code such as DEU, or WORLD")


class CoefficientsFile(_Strict):
    """The whole file."""

    version: str
    cpu: dict[str, Coefficient]
    gpu: dict[str, Coefficient]
    qpu: dict[str, Coefficient]
    break_even: dict[str, Coefficient]
    carbon: Carbon

    @property
    def entries(self) -> dict[str, Coefficient]:
        """All coefficients by `group.name`."""
        groups = {"cpu": self.cpu, "gpu": self.gpu, "qpu": self.qpu, "break_even": self.break_even}
        return {f"{group}.{name}": entry for group, found in groups.items() for name, entry in found.items()}


def read_coefficients(path: Path = COEFFICIENTS) -> tuple[CoefficientsFile, str]:
    """Read a coefficients file and return it with the first 12 digits of its SHA-256.

    Raises:
        BadInput: the file does not have the expected structure; the message names the place.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"no coefficients file can be read at {path}: {error.strerror}") from error
    try:
        parsed = CoefficientsFile.model_validate(parse_yaml(content))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise BadInput(
            f"{path} is no coefficients file: {'; '.join(wrong[:5])}{more}; start from a copy of {COEFFICIENTS}"
        ) from error
    if path != COEFFICIENTS:
        known = read_coefficients()[0].entries.keys()
        wrong = [f"{name} is missing" for name in sorted(known - parsed.entries.keys())]
        wrong += [f"{name} is unknown" for name in sorted(parsed.entries.keys() - known)]
        if wrong:
            raise BadInput(f"{path}: {'; '.join(wrong)}; start from a copy of {COEFFICIENTS}")
    return parsed, hashlib.sha256(content).hexdigest()[:12]
