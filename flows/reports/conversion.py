"""Conversion of raw quantities to joules, money and carbon: coefficients, grid intensities, times of the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.energy.carbon import Grid, read_series
from infra.energy.derive import derive, working_times
from infra.energy.model import J_PER_KWH, Band, Coefficients
from infra.errors import BadInput
from infra.evidence import EvidenceRow
from infra.settings import Settings


@dataclass(frozen=True)
class Conversion:
    """Converts the raw quantities of evidence rows to joules, money and carbon.

    Attributes:
        coefficients: joules, prices and carbon factors.
        grid: carbon intensity of the electricity.
        spans: start and end of each row's work (seconds since the epoch), by row id.
        note: why the carbon series of the settings was not used; empty if it was, or if none is set.
    """

    coefficients: Coefficients
    grid: Grid
    spans: Mapping[str, tuple[float, float]]
    note: str = ""

    @classmethod
    def of_rows(cls, loaded: Settings, coefficients: Coefficients, rows: Sequence[EvidenceRow]) -> Conversion:
        """Return the conversion for some rows, with the yearly mean if the carbon series does not cover their time.

        Raises:
            BadInput: a country is unknown.
        """
        spans = working_times(rows)
        try:
            grid, note = open_grid(loaded, coefficients), ""
            for span in spans.values():
                grid.intensity(*span)
        except BadInput as error:
            if not loaded.carbon_series:
                raise
            grid, note = open_grid(loaded.model_copy(update={"carbon_series": None}), coefficients), str(error)
        return cls(coefficients, grid, spans, note)

    def spent(self, rows: Sequence[EvidenceRow]) -> dict[str, Any]:
        """Return the joules that executions really took, all timing loops included, and their source."""
        found = derive(rows, self.coefficients, self.grid, self.spans)
        return {"narrow": points(found.energy_j), "wide": points(found.energy_wide_j), "source": found.source}

    def gco2(self, rows: Sequence[EvidenceRow], narrow_j: Band) -> Band:
        """Return the operational emissions of an energy at the mean carbon intensity of the rows' times."""
        intensities = [self.grid.intensity(*self.spans[row.row_id]) for row in rows]
        return narrow_j.scaled(sum(intensities) / len(intensities) / J_PER_KWH)


def open_grid(loaded: Settings, coefficients: Coefficients) -> Grid:
    """Return the carbon intensity of the electricity, by the settings.

    Raises:
        BadInput: the carbon series or a country cannot be used.
    """
    table = coefficients.file.carbon
    path = loaded.carbon_series
    series = read_series(path, table, loaded.country, loaded.carbon_timezone) if path else None
    return Grid(table, loaded.country, loaded.qpu_country, series)


def points(band: Band) -> list[float]:
    """Return a band in its stored form: [5 %, median, 95 %]."""
    return [band.p5, band.p50, band.p95]
