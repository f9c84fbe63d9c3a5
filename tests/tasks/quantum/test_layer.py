from __future__ import annotations

import numpy as np
import pytest
import torch
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Statevector

from tasks.quantum.layer import CircuitLayer, expectations, reuploading_circuit


def layer(qubits: int, layers: int, seed: int = 0) -> CircuitLayer:
    return CircuitLayer(qubits, layers, generator=torch.Generator().manual_seed(seed))


def inputs(batch: int, qubits: int) -> torch.Tensor:
    return torch.randn(batch, qubits, generator=torch.Generator().manual_seed(1))


def qiskit_values(made: CircuitLayer, rows: torch.Tensor) -> np.ndarray:
    """Expectations of Z from Qiskit's statevector, complex128."""
    circuit = reuploading_circuit(made.qubits, made.layers).remove_final_measurements(inplace=False)
    signs = 1 - 2 * (np.arange(2**made.qubits)[:, None] >> np.arange(made.qubits) & 1)
    states = [Statevector(circuit.assign_parameters(row)) for row in made.bindings(rows)]
    return np.array([state.probabilities() @ signs for state in states])


@pytest.mark.parametrize(("qubits", "layers"), [(1, 1), (2, 2), (3, 1), (5, 2), (8, 3)])
def test_single_precision_values_are_those_of_qiskit(qubits: int, layers: int) -> None:
    made, rows = layer(qubits, layers), inputs(3, qubits)
    found = made(rows).detach().numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, qiskit_values(made, rows), atol=1e-6)


@pytest.mark.parametrize(("qubits", "layers"), [(1, 1), (2, 1), (4, 2)])
def test_gradients_are_those_of_parameter_shift(qubits: int, layers: int) -> None:
    """An angle of a Pauli rotation has the derivative (f(a + pi/2) - f(a - pi/2)) / 2, exactly."""
    made, rows = layer(qubits, layers), inputs(2, qubits)
    y, z = made.angles(rows).detach().requires_grad_(), made.phases.detach().view(layers, -1).requires_grad_()
    weights = torch.randn(2, qubits, generator=torch.Generator().manual_seed(2))
    (expectations(y, z) * weights).sum().backward()

    def shifted(tensor: torch.Tensor, index: tuple[int, ...]) -> float:
        values = []
        for sign in (1, -1):
            copies = [part.detach().double().clone() for part in (y, z)]
            copies[0 if tensor is y else 1][index] += sign * np.pi / 2
            values.append(float((expectations(*copies) * weights).sum()))
        return (values[0] - values[1]) / 2

    for tensor in (y, z):
        expected = [shifted(tensor, index) for index in np.ndindex(*tensor.shape)]
        np.testing.assert_allclose(tensor.grad.numpy().ravel(), expected, atol=1e-5)


def test_one_qubit_is_the_closed_form() -> None:
    """RY(a) RZ(b) RY(c) from |0>: <Z> = cos a cos c - sin a cos b sin c."""
    a, b, c = 0.3, 1.1, -0.7
    found = expectations(torch.tensor([[[a], [c]]], dtype=torch.float64), torch.tensor([[b]], dtype=torch.float64))
    assert float(found) == pytest.approx(np.cos(a) * np.cos(c) - np.sin(a) * np.cos(b) * np.sin(c))


def test_a_sampler_runs_the_same_circuit_in_one_pub() -> None:
    made, rows = layer(3, 2), inputs(4, 3)
    shots = 4096
    found = made.estimate(rows.view(2, 2, 3), StatevectorSampler(seed=0), shots)
    assert found.shape == (2, 2, 3)
    exact = made(rows).detach().view(2, 2, 3)
    error = torch.sqrt((1 - exact**2).clamp(min=0) / shots)
    assert ((found - exact).abs() <= 4.5 * error + 1e-6).all()


def test_the_layer_learns_through_leading_dimensions() -> None:
    made = layer(4, 2)
    rows = inputs(12, 4).view(3, 4, 4)
    target = torch.tanh(rows.flip(-1))
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(made(rows), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="1 to 16 qubits"):
        CircuitLayer(17, 1)
    with pytest.raises(ValueError, match="at least 1 layer"):
        CircuitLayer(2, 0)
    with pytest.raises(ValueError, match=r"y \(2, 2, 3\) and z \(2, 3\)"):
        expectations(torch.zeros(2, 2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least 1 shot"):
        layer(1, 1).estimate(torch.zeros(1, 1), StatevectorSampler(), 0)
