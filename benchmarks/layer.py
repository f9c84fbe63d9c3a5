"""The circuit layer beside PennyLane's backpropagation simulator and qiskit-machine-learning's torch connector.

    python -m benchmarks.layer [--write]

CPU seconds of a forward and a backward pass with the gradient of inputs and weights, the same circuit and weights, one
thread, in one process and in turns; also the largest difference of outputs and gradients. A peer that is not installed
is left out, and a line says so: `pip install pennylane==0.45.1 qiskit-machine-learning==0.9.1` into an environment of
its own that has this package too. The torch connector is measured on one input of the batch and scaled by the batch:
it evaluates the inputs one after the other.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

from benchmarks.page import write_part
from tasks.quantum.layer import CircuitLayer, ring

SIZES = ((4, 2), (8, 3))
BATCH, ROUNDS, REPEATS = 64, 7, 10
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "architecture.md"
SAID: list[str] = []
BARS = {"pennylane": 4.0, "qiskit-machine-learning": 1000.0}
Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def passes(forward: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, bias: torch.Tensor) -> Outputs:
    """Return outputs, gradient of the inputs and gradient of the RY weights of the sum of squared outputs."""
    given = inputs.clone().requires_grad_()
    bias.grad = None
    outputs = forward(given)
    outputs.square().sum().backward()
    return outputs.detach(), given.grad, bias.grad.clone()


def pennylane_layer(layer: CircuitLayer) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the same circuit on `default.qubit` with backpropagation, inputs broadcast."""
    import pennylane as qml

    n = layer.qubits
    scales, turns, phases = (part.view(-1, n) for part in (layer.scales, layer.turns, layer.phases))

    @qml.qnode(qml.device("default.qubit", wires=n), interface="torch", diff_method="backprop")
    def circuit(rows: torch.Tensor) -> object:
        for block in range(layer.layers):
            for qubit in range(n):
                qml.RY(rows[:, qubit] * scales[block, qubit] + turns[block, qubit], wires=qubit)
                qml.RZ(phases[block, qubit], wires=qubit)
            for pair in ring(n):
                qml.CZ(wires=pair)
        for qubit in range(n):
            qml.RY(turns[-1, qubit], wires=qubit)
        return [qml.expval(qml.PauliZ(qubit)) for qubit in range(n)]

    return lambda rows: torch.stack(list(circuit(rows)), dim=-1)


def connector_layer(layer: CircuitLayer) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.nn.Parameter]:
    """Return the same circuit, inputs unscaled, as an exact estimator network, and its weights (RY, then RZ)."""
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector
    from qiskit.primitives import StatevectorEstimator
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.gradients import ParamShiftEstimatorGradient
    from qiskit_machine_learning.neural_networks import EstimatorQNN

    n, turns = layer.qubits, layer.turns.numel()
    x, w = ParameterVector("x", n), ParameterVector("w", turns + layer.phases.numel())
    circuit = QuantumCircuit(n)
    for block in range(layer.layers):
        for qubit in range(n):
            circuit.ry(x[qubit], qubit)
            circuit.ry(w[block * n + qubit], qubit)
            circuit.rz(w[turns + block * n + qubit], qubit)
        for pair in ring(n):
            circuit.cz(*pair)
    for qubit in range(n):
        circuit.ry(w[layer.layers * n + qubit], qubit)
    estimator = StatevectorEstimator(default_precision=0.0)
    network = EstimatorQNN(
        circuit=circuit,
        estimator=estimator,
        observables=[SparsePauliOp.from_sparse_list([("Z", [q], 1.0)], n) for q in range(n)],
        input_params=list(x),
        weight_params=list(w),
        gradient=ParamShiftEstimatorGradient(estimator),
        input_gradients=True,
        default_precision=0.0,
    )
    weights = torch.cat([layer.turns.detach(), layer.phases.detach()])
    connector = TorchConnector(network, initial_weights=weights.numpy())
    return connector, connector.weight


def installed(name: str) -> str:
    """Return the version of a package, or an empty text."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def compare(qubits: int, layers: int) -> None:
    """Print the ratios at one size."""
    layer = CircuitLayer(qubits, layers, scale=1.0, generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(BATCH, qubits, generator=torch.Generator().manual_seed(1))
    ours = lambda: passes(layer, inputs, layer.turns)  # noqa: E731  (three of a kind)
    label = f"{qubits} qubits, {layers} input blocks, batch {BATCH}"
    if found := installed("pennylane"):
        peer = pennylane_layer(layer)
        report(f"{label}: PennyLane {found} backprop", ours, lambda: passes(peer, inputs, layer.turns), ROUNDS)
    if found := installed("qiskit-machine-learning"):
        connector, weights = connector_layer(layer)
        alone = inputs[:1]

        def theirs() -> Outputs:
            outputs, given, gradient = passes(connector, alone, weights)
            return outputs, given, gradient[: layer.turns.numel()]

        reference = lambda: passes(layer, alone, layer.turns)  # noqa: E731
        name = f"{label}: qiskit-machine-learning {found} TorchConnector (1 input, scaled)"
        report(name, ours, theirs, 1, BATCH, reference)


def report(
    name: str,
    ours: Callable[[], Outputs],
    theirs: Callable[[], Outputs],
    rounds: int,
    factor: int = 1,
    reference: Callable[[], Outputs] | None = None,
) -> None:
    """Print the ratio peer / ours of CPU seconds in turns, and the largest differences of values and gradients."""
    mine, other = (reference or ours)(), theirs() if rounds > 1 else None
    ratios, seconds = [], []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(REPEATS):
            ours()
        middle = time.process_time()
        other = theirs()
        seconds.append(((middle - began) / REPEATS, (time.process_time() - middle) * factor))
        ratios.append(seconds[-1][1] / seconds[-1][0])
    values, gradients = (max(float((a - b).abs().max()) for a, b in pairs) for pairs in differences(mine, other))
    ours_s, peer_s = (median(column) for column in zip(*seconds, strict=True))
    bar = next(bar for package, bar in BARS.items() if package in name.lower())
    said = (
        f"* {name}: {median(ratios):,.1f} times ours [{min(ratios):,.1f}, {max(ratios):,.1f}] (bar {bar:,.0f}), "
        f"ours {1e3 * ours_s:.2f} ms, peer {1e3 * peer_s:,.1f} ms; values differ by {values:.1e}, "
        f"gradients by {gradients:.1e}\n"
    )
    sys.stdout.write(said)
    SAID.append(said)


def differences(mine: Outputs, other: Outputs | None) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], ...]:
    """Return the pairs of values and the pairs of gradients."""
    assert other is not None
    return [(mine[0], other[0])], list(zip(mine[1:], other[1:], strict=True))


def main() -> None:
    """Compare with what is installed, and put the figures into the page with `--write`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layer", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the figures into docs/stages/architecture.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    missing = [package for package in BARS if not installed(package)]
    for package in missing:
        sys.stdout.write(f"{package} is not installed: not measured\n")
    for qubits, layers in SIZES:
        compare(qubits, layers)
    if given.write and not missing:
        write_part(PAGE, "layer", "".join(SAID))


if __name__ == "__main__":
    main()
