"""Estimates of fault-tolerant machines against published ones, and against the estimator in qdk."""

from __future__ import annotations

import math

import pytest

from tasks.outlook.assumptions import load_assumptions
from tasks.outlook.fault_tolerant import (
    SUBROUTINES,
    Counts,
    Physical,
    amplitude_queries,
    estimate,
    grover_iterations,
    layout_qubits,
    with_factories,
)

RSA = Counts(12581, toffoli=3731607428, t=12, rotations=12, rotation_depth=12, measurements=1078154040)
PRESETS = load_assumptions(n=1).hardware.presets


def on(preset: str, counts: Counts, budget: float) -> Physical:
    machine = PRESETS[preset]
    return estimate(counts, machine.error, machine.two_qubit_gate_s, machine.measurement_s, budget)


@pytest.mark.parametrize(
    ("preset", "seconds", "millions"),
    [("qubit_gate_ns_e3", 2 * 86400, 37.65), ("qubit_gate_us_e3", 6 * 3.156e7, 37.38)],
)
def test_factoring_2048_bits_is_the_published_estimate(preset, seconds, millions):
    # Azure Quantum documentation, "extract resource estimates from logical resource counts", error budget .333:
    # 25,481 logical qubits, depth 1.2e10, T states 1.5e10, distance 27; 2 days and 6 years; factories 1.3 and .6 %.
    found = on(preset, RSA, 0.333)
    assert found.logical_qubits == 25481
    assert found.depth == pytest.approx(1.2e10, rel=0.05)
    assert found.t_states == pytest.approx(1.5e10, rel=0.05)
    assert found.distance == 27
    assert found.runtime_s == pytest.approx(seconds, rel=0.25)  # published in whole days and years
    factories = {"qubit_gate_ns_e3": 0.013, "qubit_gate_us_e3": 0.006}[preset]
    assert found.physical_qubits / (1 - factories) == pytest.approx(millions * 1e6, rel=0.002)


def test_a_published_simulation_of_quantum_dynamics():
    # The same documentation: 223 logical qubits, depth 3.64e6, 4.70e6 T states; at budget .001 distance 21 and 196,686
    # physical qubits for the algorithm, at budget .333 distance 17 and 25 s on qubits of nanoseconds.
    assert layout_qubits(97) == 223
    dynamics = Counts(97, t=3.64e6)
    strict, loose = on("qubit_gate_ns_e3", dynamics, 0.001), on("qubit_gate_ns_e3", dynamics, 0.333)
    assert (strict.distance, strict.physical_qubits) == (21, 196686)
    assert loose.distance == 17
    assert loose.runtime_s == pytest.approx(25, abs=0.5)


def test_a_published_multiplication():
    # devblogs.microsoft.com/qsharp/automate-resource-estimation-with-qir: 33 logical qubits become 84.
    assert layout_qubits(33) == 84


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("name", sorted(SUBROUTINES))
def test_the_closed_forms_are_those_of_the_estimator(name, preset):
    pytest.importorskip("qdk", reason="the extra estimator is not installed")
    counts = SUBROUTINES[name]()
    made = with_factories(counts, preset, 0.001)
    if made is None:
        assert counts.toffoli > 1e11  # the estimator cannot count that far
        return
    mine, physical = on(preset, counts, 0.001), made["physicalCounts"]
    assert mine.logical_qubits == physical["breakdown"]["algorithmicLogicalQubits"]
    assert mine.distance == made["logicalQubit"]["codeDistance"]
    assert mine.runtime_s == pytest.approx(physical["runtime"] / 1e9, rel=1e-3)
    assert mine.t_states == pytest.approx(physical["breakdown"]["numTstates"], rel=1e-3)
    assert mine.physical_qubits == physical["breakdown"]["physicalQubitsForAlgorithm"]


def test_queries():
    assert grover_iterations(2**20) == pytest.approx(804.2, abs=0.1)
    assert amplitude_queries(0.01) == pytest.approx(157.1, abs=0.1)


def test_reading_memory_is_counted():
    found = SUBROUTINES["duplicate_search"]()
    assert found.toffoli >= grover_iterations(2**20) * found.qram_cells  # every query reads every cell
    for name, make in SUBROUTINES.items():
        counts = make()
        assert counts.about, name
        assert counts.flops > 0, name
        assert math.isfinite(counts.toffoli + counts.rotations), name
