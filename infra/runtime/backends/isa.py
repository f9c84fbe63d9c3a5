"""Circuits compiled for one state of a device: laid out once for each structure, bound many times."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qiskit import QuantumCircuit
from qiskit.exceptions import QiskitError
from qiskit.transpiler import Target, generate_preset_pass_manager

from infra.errors import BadInput
from infra.runtime.backends.templates import Template, make_template
from infra.runtime.backends.usage import LEVEL, SEED_TRANSPILER

KEPT = 256


@dataclass(frozen=True)
class Isa:
    """A circuit in the instructions of a device.

    Attributes:
        template: the compiled circuit with bare parameters.
        compiled: as the compiler left it, with the layout that observables need.
        duration_s: of one execution, readout included; 0 where it is known only when it runs.
        cpu_s: CPU seconds of the compilation.
    """

    template: Template
    compiled: QuantumCircuit
    duration_s: float
    cpu_s: float

    @property
    def qubits(self) -> list[int]:
        """The device's qubits that are used."""
        active = {
            self.compiled.find_bit(bit).index
            for item in self.compiled.data
            if item.name not in ("barrier", "delay")
            for bit in item.qubits
        }
        return sorted(active)


class IsaCache:
    """Compiled circuits of one state of a device.

    Args:
        name: of the device, for messages.
        target: what it can do.
    """

    def __init__(self, name: str, target: Target) -> None:
        self.name, self.target = name, target
        self._made: OrderedDict[tuple[Any, ...], Isa] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, circuit: QuantumCircuit, digest: str, options: Mapping[str, Any]) -> Isa:
        """Return the compiled form of a circuit, made once while it is among the recent ones.

        Raises:
            BadInput: the device cannot run it.
        """
        level, seed = options.get("optimization_level", LEVEL), options.get("seed_transpiler", SEED_TRANSPILER)
        key = (digest, level, seed)
        with self._lock:
            if key not in self._made:
                self._made[key] = self._compile(circuit, level, seed)
                if len(self._made) > KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]

    def check(self, circuit: QuantumCircuit, shots: int) -> None:
        """Refuse a circuit that the device cannot run.

        Raises:
            BadInput: too many qubits, or an exact expectation value (0 shots).
        """
        self._check_size(circuit)
        if shots == 0:
            raise BadInput(f"{self.name} estimates from shots; set a precision above 0, such as 0.02")

    def _check_size(self, circuit: QuantumCircuit) -> None:
        if circuit.num_qubits > self.target.num_qubits:
            raise BadInput(
                f"the circuit has {circuit.num_qubits} qubits, {self.name} has {self.target.num_qubits}; "
                "use a larger device or aer"
            )

    def _compile(self, circuit: QuantumCircuit, level: int, seed: int) -> Isa:
        self._check_size(circuit)
        start = time.thread_time()
        try:
            compiled: QuantumCircuit = generate_preset_pass_manager(
                level, target=self.target, seed_transpiler=seed
            ).run(circuit)
        except QiskitError as error:
            raise BadInput(f"{self.name} cannot run the circuit: {error}") from None
        template = make_template(compiled, tuple(circuit.parameters))
        return Isa(template, compiled, self._duration_s(compiled), time.thread_time() - start)

    def _duration_s(self, compiled: QuantumCircuit) -> float:
        measured = compiled
        if not compiled.count_ops().get("measure"):
            measured = compiled.measure_all(inplace=False)
        try:
            return float(measured.estimate_duration(self.target, unit="s"))
        except QiskitError:  # a branch
            return 0.0
