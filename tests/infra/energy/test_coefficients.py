from pathlib import Path

import numpy as np
import pytest
import yaml

from infra.energy.coefficients import COEFFICIENTS, Coefficient, read_coefficients
from infra.errors import BadInput

FILE, _ = read_coefficients()
SEED_DATA = Path(__file__).parents[3].parent / "shared/data"


def coefficient(value: float, **distribution: object) -> Coefficient:
    return Coefficient.model_validate(
        {"value": value, "unit": "", "distribution": distribution, "source": "a test", "year": 2026}
    )


@pytest.mark.parametrize("name", sorted(FILE.entries))
def test_every_number_has_unit_source_and_a_value_inside_its_band(name: str) -> None:
    entry = FILE.entries[name]
    assert entry.unit
    assert len(entry.source) >= 7
    assert 2000 < entry.year < 2100
    low, high = entry.band
    assert low <= entry.value <= high
    draws = entry.draws(name, 4000, 1)
    assert np.isfinite(draws).all()
    assert (draws > 0).all()
    if entry.distribution.kind == "empirical":
        assert draws.mean() == pytest.approx(entry.value, rel=0.01)
    else:
        assert np.median(draws) == pytest.approx(entry.value, rel=0.01)


def test_cpu_power_is_a_predictive_t_with_four_degrees_from_about_1_to_9() -> None:
    entry = FILE.cpu["w_core"]
    # t(4) has its 95 % point at 2.1318; the spread between hosts is ln 1.6, the next host adds sqrt(1 + 1/5)
    expected = 3.1 * np.exp(np.array([-1, 1]) * 2.1318 * np.log(1.6) * np.sqrt(1.2))
    assert entry.band == pytest.approx(tuple(expected), rel=0.01)
    assert entry.band == pytest.approx((1.0, 9.3), rel=0.05)


def test_draws_depend_on_name_and_seed_alone() -> None:
    entry = FILE.cpu["w_core"]
    assert (entry.draws("cpu.w_core", 100, 1) == entry.draws("cpu.w_core", 100, 1)).all()
    assert (entry.draws("cpu.w_core", 100, 1) != entry.draws("cpu.w_core", 100, 2)).any()


def test_coefficients_of_cpu_and_qpu_are_independent() -> None:
    n = 4000
    cpu, qpu = FILE.cpu["pue"].draws("cpu.pue", n, 1), FILE.qpu["pue"].draws("qpu.pue", n, 1)
    assert abs(np.corrcoef(cpu, qpu)[0, 1]) < 0.05


def test_the_bill_factor_is_the_recorded_jobs() -> None:
    entry = FILE.qpu["bill_factor"]
    billed = np.array([10, 4, 4, 13, 10, 11, 11, 4, 4, 10])
    assert sorted(entry.distribution.values) == pytest.approx(sorted(billed / (2 + 0.00035 * 1024)), abs=0.005)  # type: ignore[union-attr]


def test_half_the_mass_lies_on_either_side_of_a_two_sided_triangle() -> None:
    draws = coefficient(1.54, kind="two_triangles", low=1.09, high=2.0).draws("x", 10_000, 0)
    assert np.mean(draws < 1.54) == pytest.approx(0.5)
    assert draws.min() > 1.09
    assert draws.max() < 2.0
    assert draws.mean() == pytest.approx(0.5 * ((1.09 + 2 * 1.54) / 3 + (2 * 1.54 + 2.0) / 3), rel=1e-3)


def test_a_log_normal_has_the_points_it_was_given() -> None:
    assert coefficient(1.0, kind="log_normal", p5=0.5, p95=2.0).band == pytest.approx((0.5, 2.0))


def test_countries_are_found_by_either_code() -> None:
    assert FILE.carbon.intensity("DEU") == FILE.carbon.intensity("de")
    assert FILE.carbon.intensity("NO") < 50 < FILE.carbon.intensity("POL")
    with pytest.raises(BadInput, match="Atlantis"):
        FILE.carbon.intensity("Atlantis")


@pytest.mark.skipif(not (SEED_DATA / "carbon").is_dir(), reason="the source table is not beside the repository")
def test_the_country_table_is_the_source_s() -> None:
    rows = (SEED_DATA / "carbon/carbontracker_carbon-intensities.csv").read_text().splitlines()[1:]
    source = {row.split(",")[-2]: float(row.split(",")[-1]) for row in rows}
    ours = {code: entry[1] for code, entry in FILE.carbon.countries.items() if code != "WORLD"}
    assert ours == pytest.approx({code: g for code, g in source.items() if len(code) == 3}, abs=0.051)


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    copy = tmp_path / "coefficients.yaml"
    copy.write_text(COEFFICIENTS.read_text())
    assert read_coefficients(copy)[1] == read_coefficients()[1]
    copy.write_text(COEFFICIENTS.read_text().replace("value: 3.1", "value: 3.2"))
    assert read_coefficients(copy)[1] != read_coefficients()[1]


@pytest.mark.parametrize("break_it", ["source", "unit", "year", "distribution"])
def test_a_number_without_provenance_is_refused(tmp_path: Path, break_it: str) -> None:
    content = yaml.safe_load(COEFFICIENTS.read_text())
    del content["cpu"]["w_core"][break_it]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput, match=break_it):
        read_coefficients(tmp_path / "c.yaml")
