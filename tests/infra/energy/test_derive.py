"""Figures derived from evidence rows, against the centres of the coefficients."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest

from infra.energy.carbon import Grid, Series
from infra.energy.derive import derive, energy_draws, working_times
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow, orchestration_row, stage_row

C = Coefficients.load()
GRID = Grid(C.file.carbon, "DEU")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def row(name: str, usage: Usage, source: str = "modelled", minute: int = 0, **values: object) -> EvidenceRow:
    stamp = NOON.replace(minute=minute).isoformat()
    made = stage_row("r", "training", usage, problem=name, energy_source=source, created_at=stamp)
    return dataclasses.replace(made, **values)  # type: ignore[arg-type]


def test_rows_of_different_sources_are_derived_apart_and_added() -> None:
    measured = row("a", Usage(cpu_s=10, counted_cpu_s=10, package_j=50.0, dram_j=5.0, rss_gb_s=20), "measured")
    modelled = row("b", Usage(cpu_s=10, rss_gb_s=20))
    total = energy_draws([measured, modelled], C)
    counted = 55.0 * C.draws("cpu.counter_error")
    model = 10 * C.draws("cpu.w_core") + 20 * C.draws("cpu.w_dram")
    assert np.allclose(total, counted + model)
    assert derive([measured, modelled], C, GRID, working_times([measured, modelled])).source == "measured and modelled"


def test_nothing_is_nothing() -> None:
    found = derive([], C, GRID, {})
    assert found.energy_j.p95 == 0
    assert found.cost_usd == 0
    assert found.source == "none"


def test_work_ran_until_its_row_was_written_for_its_elapsed_time() -> None:
    work = row("a", Usage(cpu_s=1, wall_s=600))
    assert working_times([work]) == {work.row_id: (NOON.timestamp() - 600, NOON.timestamp())}


def test_orchestration_ran_as_long_as_the_run() -> None:
    work = row("a", Usage(cpu_s=1, wall_s=600))
    later = NOON.replace(minute=30)
    beside = orchestration_row("r", Usage(cpu_s=1), created_at=later.isoformat())
    assert working_times([work, beside])[beside.row_id] == (NOON.timestamp() - 600, later.timestamp())


def test_each_row_has_the_intensity_of_its_hour() -> None:
    hours = Series("s", NOON.timestamp() + 3600.0 * np.arange(-2, 3), np.array([0.0, 100.0, 400.0, 0.0, 0.0]))
    grid = Grid(C.file.carbon, "DEU", series=hours)
    before = row("a", Usage(cpu_s=1000, wall_s=60))  # ends at noon, ran in the hour before
    after = row("b", Usage(cpu_s=1000, wall_s=60), minute=10)
    rows = [before, after]
    one_j = energy_draws([before], C)
    expected = np.median(one_j * (100 + 400) / 3.6e6)
    assert derive(rows, C, grid, working_times(rows)).gco2.p50 == pytest.approx(float(expected))


def test_qpu_seconds_count_once_billed_at_the_site_of_the_qpu() -> None:
    projected = row("a", Usage(qpu_s_projected=5.0))
    billed = row("b", Usage(qpu_s_billed=2.0), backend="ibm:x")
    spans = working_times([projected, billed])
    assert derive([projected], C, GRID, spans).qpu_j.p95 == 0
    found = derive([projected, billed], C, Grid(C.file.carbon, "DEU", qpu_country="FRA"), spans)
    assert found.qpu_j.p50 == pytest.approx(2 * 18_000, rel=1e-3)
    assert found.gco2.p50 == pytest.approx(found.qpu_j.p50 * 44.2 / 3.6e6)
    assert found.cost_usd == pytest.approx(3.2)
