import math

import numpy as np
import pytest

from infra.energy.model import Coefficients, quantiles
from infra.energy.usage import Usage

C = Coefficients.load()
HOUR = Usage(cpu_s=3600)


def test_the_break_even_sentence_comes_from_the_file() -> None:
    found = C.break_even()
    assert found.price_vcpu_h == pytest.approx(1.60 / 0.0408, rel=1e-9)
    assert round(found.price_vcpu_h) == 39
    assert found.energy_vcpu_h == pytest.approx(25_000 / 5 / 3600, rel=1e-9)
    assert round(found.energy_vcpu_h, 1) == 1.4
    assert str(found) == (
        "One QPU-second at $1.60 must replace 39 vCPU-hours to pay, and at 25 kW 1.4 vCPU-hours (5 W per vCPU) "
        "to save energy."
    )


def test_modelled_energy_is_cpu_seconds_times_power_plus_memory() -> None:
    assert C.cpu_energy_j(Usage(cpu_s=10)).p50 == pytest.approx(31, rel=0.01)
    assert C.cpu_energy_j(Usage(rss_gb_s=10)).p50 == pytest.approx(3, rel=0.01)
    band = C.cpu_energy_j(Usage(cpu_s=1))
    assert band.p95 / band.p5 == pytest.approx(9.0, rel=0.05)


def test_measured_joules_stand_before_modelled_ones() -> None:
    counted = Usage(cpu_s=100, rss_gb_s=5, package_j=40, dram_j=4, counted_cpu_s=100)
    band = C.cpu_energy_j(counted)
    assert band.p50 == pytest.approx(44, rel=0.01)
    assert band.p95 / band.p5 < 1.3


def test_the_model_fills_in_the_seconds_that_no_counter_covers() -> None:
    mixed = Usage(cpu_s=100, package_j=40, counted_cpu_s=60)
    assert C.cpu_energy_j(mixed).p50 == pytest.approx(40 + 40 * 3.1, rel=0.02)


def test_without_a_dram_counter_memory_is_modelled() -> None:
    counted = Usage(cpu_s=10, rss_gb_s=100, package_j=40, counted_cpu_s=10)
    assert C.cpu_energy_j(counted).p50 == pytest.approx(40 + 30, rel=0.05)


def test_attributed_joules_have_a_wider_band_than_measured_ones() -> None:
    counted = Usage(cpu_s=10, package_j=40, counted_cpu_s=10)
    measured, attributed = C.cpu_energy_j(counted), C.cpu_energy_j(counted, source="attributed")
    assert attributed.p95 - attributed.p5 > 2 * (measured.p95 - measured.p5)


def test_gpu_joules_are_added() -> None:
    assert C.cpu_energy_j(Usage(gpu_j=500)).p50 == pytest.approx(500, rel=0.01)


def test_both_machines_have_both_boundaries_and_the_wide_one_is_larger() -> None:
    for draws in (C.cpu_energy_draws(HOUR, "wide") / C.cpu_energy_draws(HOUR), _qpu("wide") / _qpu("narrow")):
        assert (draws > 1.3).all()
        assert (draws < 25).all()


def _qpu(boundary: str) -> np.ndarray:
    return C.qpu_energy_draws(Usage(qpu_s_billed=1.0), boundary)  # type: ignore[arg-type]


def test_a_cryostat_saves_little_when_idle() -> None:
    assert np.median(_qpu("marginal") / _qpu("narrow")) < 0.06
    assert np.median(C.cpu_energy_draws(HOUR, "marginal") / C.cpu_energy_draws(HOUR)) > 0.6


def test_billed_seconds_are_taken_as_they_are() -> None:
    assert C.qpu_energy_j(Usage(qpu_s_billed=2.0, qpu_s_projected=9.0)).p50 == pytest.approx(36_000, rel=0.01)


BILLS = [(1, 1024, s) for s in (10, 4, 4, 13, 10, 11, 11, 4, 4, 10)] + [(1, 496 * 2048, 276)]


def test_the_bill_is_fitted_to_all_recorded_jobs() -> None:
    jobs, shots, billed = np.array(BILLS, dtype=float).T
    fixed_s, shot_s = np.linalg.lstsq(np.array([jobs, shots]).T, billed, rcond=None)[0]
    assert C.value("qpu.job_seconds") == pytest.approx(fixed_s, rel=2e-3)
    assert C.value("qpu.execution_ratio") == pytest.approx(shot_s / 0.00035, rel=2e-3)
    assert C.draws("qpu.job_seconds").mean() == pytest.approx(fixed_s, rel=2e-3)


def test_projected_seconds_are_billed_as_fixed_seconds_and_executions() -> None:
    one = C.locked_draws(Usage(qpu_s_projected=2 + 0.00035 * 1024, sub_jobs=1, jobs=1))
    assert one.mean() == pytest.approx(8.1, rel=0.01)  # the mean of the ten bills of 4 to 13 s
    many = C.locked_draws(Usage(qpu_s_projected=2 + 0.00035 * 496 * 2048, sub_jobs=1))
    assert np.median(many) == pytest.approx(276, rel=0.02)
    shared = C.locked_draws(Usage(qpu_s_projected=0.5 + 0.00035 * 1024, sub_jobs=0.25))
    assert shared.mean() == pytest.approx(0.25 * 7.83 + 0.27, rel=0.02)


def test_device_classes_differ_by_power_and_by_the_time_of_a_shot() -> None:
    usage = Usage(qpu_s_projected=2.35, sub_jobs=1, shots=1000, circuits=1)
    joules = {name: C.device_energy_j(usage, name).p50 for name in ("superconducting", "trapped_ion", "annealer")}
    assert joules["trapped_ion"] > 5 * joules["superconducting"]  # 180 s of shots against .35 s
    assert joules["annealer"] < joules["superconducting"]


def test_a_deep_circuit_does_not_survive_and_a_shallow_one_does() -> None:
    deep, shallow = Usage(circuits=2, two_qubit_gates=2 * 2653), Usage(circuits=1, two_qubit_gates=10)
    assert C.surviving_fidelity(deep) == pytest.approx(0.993**2653, rel=1e-6)  # 8e-9
    assert C.surviving_fidelity(shallow) == pytest.approx(0.993**10)
    assert C.surviving_fidelity(Usage(circuits=1)) is None


def test_the_share_of_the_qubits_used_is_a_mean_over_shots() -> None:
    assert C.qubit_share(Usage(shots=300, qubit_shots=100 * 8 + 200 * 12)) == pytest.approx((800 + 2400) / 300 / 133)
    assert C.qubit_share(Usage(shots=300)) is None


def test_simulation_is_its_share_of_the_cpu_s_energy() -> None:
    usage = Usage(cpu_s=10, simulation_cpu_s=4)
    assert C.simulation_energy_j(usage).p50 == pytest.approx(0.4 * C.cpu_energy_j(usage).p50)
    assert C.simulation_energy_j(Usage(cpu_s=1)).p50 == 0
    assert C.simulation_energy_j(Usage(simulation_cpu_s=2)).p50 == pytest.approx(6.2, rel=0.01)


def test_a_ratio_from_shared_draws_is_sharper_than_the_bands() -> None:
    less, more = Usage(cpu_s=1), Usage(cpu_s=3)
    assert C.cpu_energy_j(less).p95 > C.cpu_energy_j(more).p5  # the bands overlap
    assert C.probability_cheaper(less, more) > 0.99


def test_equal_usage_is_undecided() -> None:
    assert C.probability_cheaper(HOUR, HOUR) == pytest.approx(0.5, abs=0.03)
    assert C.probability_cheaper(HOUR, HOUR, hysteresis=0.1) < 0.45


def test_the_residual_of_a_workload_is_its_own_and_stays() -> None:
    first = C.cost_draws(HOUR, workload="pruning/greedy")
    assert (first == C.cost_draws(HOUR, workload="pruning/greedy")).all()
    other = C.cost_draws(HOUR, workload="pruning/qaoa")
    assert abs(np.corrcoef(np.log(first / other), C.draws("cpu.w_core"))[0, 1]) < 0.05
    # two independent residuals of log standard deviation ln(1.52/0.66) / 3.29
    assert np.std(np.log(first / other)) == pytest.approx(math.sqrt(2) * math.log(1.52 / 0.66) / 3.29, rel=0.05)


def test_residuals_say_nothing_about_measured_joules() -> None:
    counted = Usage(cpu_s=10, package_j=40, dram_j=1, counted_cpu_s=10)
    assert (C.cost_draws(counted, workload="a") == C.cost_draws(counted, workload="b")).all()


def test_routing_counts_only_what_the_backend_really_spends() -> None:
    simulated = Usage(cpu_s=5, simulation_cpu_s=4, qpu_s_projected=100)
    assert (C.cost_draws(simulated, backend="aer") == C.cost_draws(Usage(cpu_s=5))).all()
    billed = Usage(cpu_s=1, qpu_s_billed=2)
    assert np.median(C.cost_draws(billed, backend="ibm:fez")) == pytest.approx(36_003, rel=0.01)
    assert C.cost_usd(billed, "ibm:fez") == pytest.approx(3.2, rel=1e-3)
    assert C.cost_usd(billed, "aer") < 1e-4


def test_the_objectives_are_joules_money_and_time() -> None:
    cheap_slow, dear_fast = Usage(cpu_s=1, wall_s=50), Usage(cpu_s=9, wall_s=5)
    assert C.probability_cheaper(cheap_slow, dear_fast, "energy") > 0.99
    assert C.probability_cheaper(cheap_slow, dear_fast, "cost") == 1
    assert C.probability_cheaper(cheap_slow, dear_fast, "time") == 0


def test_a_projected_price_follows_the_recorded_bills() -> None:
    # 1,024 shots in one job: 2.36 s by the formula, 3.8 USD; the recorded jobs would have cost 6.4 to 20.8
    band = C.projected_cost_usd(Usage(qpu_s_projected=2.3584, sub_jobs=1))
    assert (band.p5, band.p95) == pytest.approx((4 * 1.6, 13 * 1.6), rel=0.02)


def test_the_wide_footprint_holds_operation_and_embodied_emissions_of_both_machines() -> None:
    operation = C.cpu_energy_j(HOUR, "wide").p50 * 344.1 / 3.6e6
    cpu = C.footprint_gco2(HOUR, "DEU", "USA").p50
    # 1,500 kg over six years, half used, by 128 vCPUs: about 0.45 g in an hour
    assert cpu - operation == pytest.approx(1000 * 1500 * 3600 / (6 * 365.25 * 86400 * 0.5 * 128), rel=0.5)
    second = Usage(qpu_s_billed=1)
    assert C.footprint_gco2(second, "DEU", "USA").p5 > C.qpu_energy_j(second, "wide").p5 * 383.5 / 3.6e6


def test_the_computing_place_of_the_qpu_counts_for_the_qpu() -> None:
    second = Usage(qpu_s_billed=1)
    assert C.footprint_gco2(second, "FRA", "POL").p50 > 3 * C.footprint_gco2(second, "POL", "FRA").p50


@pytest.mark.parametrize("shape", [(1,), (2,), (101,), (3, 500)])
def test_quantiles_are_those_of_numpy(shape):
    draws, shares = np.random.default_rng(0).lognormal(size=shape), (0.0, 0.05, 0.5, 0.95, 1.0)
    expected = np.moveaxis(np.quantile(draws, shares, axis=-1), 0, -1)
    assert quantiles(draws, shares) == pytest.approx(expected, rel=1e-14)
