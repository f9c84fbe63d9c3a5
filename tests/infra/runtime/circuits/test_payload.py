import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Gate, Parameter
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.quantum_info import Pauli

from infra.runtime.circuits.observables import decode_observables, encode_observables, group_terms, parity
from infra.runtime.circuits.payload import (
    circuit_digest,
    decode_arrays,
    decode_circuit,
    encode_arrays,
    encode_circuit,
    fingerprint,
)

BUILD = """
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
circuit = QuantumCircuit(3, 3)
a, b = Parameter("a"), Parameter("b")
circuit.h(0); circuit.rzz(2 * a - b, 0, 1); circuit.initialize([0.6, 0.8], 2)
circuit.unitary([[0, 1], [1, 0]], 1); circuit.measure(0, 0)
with circuit.if_test((circuit.clbits[0], 1)):
    circuit.x(1)
circuit.measure([0, 1, 2], [2, 1, 0])
"""


def build():
    scope: dict[str, Any] = {}
    exec(BUILD, scope)  # noqa: S102  (the same text is run in another process)
    return scope["circuit"]


def test_a_digest_is_the_same_in_another_process():
    code = BUILD + "\nfrom infra.runtime.circuits.payload import circuit_digest; print(circuit_digest(circuit))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == circuit_digest(build())


def test_a_digest_ignores_names_and_survives_storage():
    circuit = build()
    again = decode_circuit(encode_circuit(circuit))
    assert circuit_digest(again) == circuit_digest(circuit)
    again.name, again.metadata = "other", {"note": 1}
    assert circuit_digest(again) == circuit_digest(circuit)


def custom(angle):
    inner = QuantumCircuit(1)
    inner.rx(angle, 0)
    return inner.to_gate(label="mine")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.x(0),
        lambda c: c.rz(1e-16, 0),
        lambda c: c.rz(Parameter("c"), 0),
        lambda c: c.append(custom(0.1), [0]),
        lambda c: c.append(custom(0.2), [0]),
        lambda c: c.cx(0, 1, ctrl_state=0),
        lambda c: c.cx(0, 1),
        lambda c: c.cx(1, 0),
        lambda c: c.delay(10, 0, unit="ns"),
        lambda c: c.delay(10, 0, unit="us"),
        lambda c: c.unitary([[1, 0], [0, -1]], 0),
        lambda c: c.measure_all(),
    ],
)
def test_every_change_changes_the_digest(change):
    seen = {circuit_digest(build())}
    circuit = build()
    change(circuit)
    assert circuit_digest(circuit) not in seen


def test_different_changes_have_different_digests():
    changes = [lambda c: c.append(custom(0.1), [0]), lambda c: c.append(custom(0.2), [0])]
    changes += [lambda c: c.cx(0, 1), lambda c: c.cx(0, 1, ctrl_state=0), lambda c: c.delay(10, 0, unit="ns")]
    changes += [lambda c: c.delay(10, 0, unit="us"), lambda c: c.append(Gate("odd", 1, [0.5]), [0])]
    digests = set()
    for change in changes:
        circuit = QuantumCircuit(2)
        change(circuit)
        digests.add(circuit_digest(circuit))
    assert len(digests) == len(changes)


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_come_back_as_they_were(compressed: bool):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 4), np.uint8), "c": np.array(0.5)}
    back = decode_arrays(encode_arrays(arrays, compressed=compressed))
    assert back.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype
        assert back[name].shape == value.shape
    zeros = encode_arrays({"a": np.zeros((1000, 64, 1), np.uint8)})
    assert len(zeros) < 2000


def test_a_fingerprint_sees_values_shapes_and_settings():
    values = {"sets": np.arange(6.0).reshape(2, 3)}
    marks = {
        fingerprint({"backend": "aer"}, [("digest", values, {"shots": 10})]),
        fingerprint({"backend": "noisy:x"}, [("digest", values, {"shots": 10})]),
        fingerprint({"backend": "aer"}, [("other", values, {"shots": 10})]),
        fingerprint({"backend": "aer"}, [("digest", values, {"shots": 11})]),
        fingerprint({"backend": "aer"}, [("digest", {"sets": values["sets"].T}, {"shots": 10})]),
        fingerprint({"backend": "aer"}, [("digest", {"sets": values["sets"] + 1e-15}, {"shots": 10})]),
        fingerprint({"backend": "aer"}, [("digest", values, {"shots": 10})] * 2),
    }
    assert len(marks) == 7


def test_observables_are_written_in_order():
    observables = ObservablesArray([["ZZ", {"XI": 0.5, "IY": -1.0}]])
    assert decode_observables(encode_observables(observables)) == [{"ZZ": 1.0}, {"XI": 0.5, "IY": -1.0}]


def test_terms_that_commute_qubit_by_qubit_share_a_basis():
    grouped = group_terms({"XXI": 1.0, "IXX": 2.0, "ZZZ": 3.0, "ZIZ": 4.0, "YII": 5.0})
    bases = {label: basis for label, _, basis in grouped}
    assert bases["XXI"] == bases["IXX"] == "XXX"
    assert bases["ZZZ"] == bases["ZIZ"]
    assert len(set(bases.values())) == 3
    assert {label: weight for label, weight, _ in grouped} == {"XXI": 1, "IXX": 2, "ZZZ": 3, "ZIZ": 4, "YII": 5}
    for label, basis in bases.items():
        assert all(a in ("I", b) for a, b in zip(label, basis, strict=True))
        assert Pauli(label).commutes(Pauli(basis))


def test_parity_counts_the_qubits_of_the_string_only():
    bits = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], np.uint8)  # qubit 0 first
    np.testing.assert_array_equal(parity(bits, "IIZ"), [1, -1, 1, -1])
    np.testing.assert_array_equal(parity(bits, "XXI"), [1, 1, 1, 1])
    np.testing.assert_array_equal(parity(bits, "III"), [1, 1, 1, 1])
