"""Send circuits through the queue that pays once: estimate, budget, send, and attach as another process would."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

from qiskit import QuantumCircuit

from infra.runtime.client import CountsReplayed, Queue


def ghz(qubits: int) -> QuantumCircuit:
    """Return a circuit whose shots are all zeros or all ones."""
    circuit = QuantumCircuit(qubits)
    circuit.h(0)
    for target in range(1, qubits):
        circuit.cx(0, target)
    circuit.measure_all()
    return circuit


def main(folder: Path) -> None:
    """Run a circuit on the ideal simulator; `ibm:<device>` in its place is the only change that hardware needs."""
    ledger, circuit = folder / "ledger.db", ghz(3)
    queue = Queue(ledger, "aer", run="ghz")
    estimate = queue.estimate([circuit], shots=1000)
    print(f"{estimate.executions} executions; on a device about {estimate.qpu_s:.1f} s (projected)")
    call = queue.submit([circuit], shots=1000, name="three qubits")
    counts = Queue(ledger, "aer").attach(call).result(timeout=60)[0].data.meas.get_counts()
    print("counts:", dict(sorted(counts.items())))

    with warnings.catch_warnings(record=True) as caught:  # the same call of the same run: nothing is executed
        warnings.simplefilter("always", CountsReplayed)
        again = queue.submit([circuit], shots=1000, name="three qubits")
    print(f"the same call: {again == call}; {caught[0].message}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
