"""Parametric circuits made fit for many parameter sets: every angle one bare parameter, its values a formula.

Aer evaluates each expression such as `2*gamma` in Python for each parameter set; for a thousand sets of a circuit of
five hundred rotations that costs as much as the simulation. Here an affine expression is evaluated for all sets at
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterExpression

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Angle:
    """An expression as `constant + sum(coefficient * values[:, column])`, or as itself where it is not affine."""

    constant: float
    terms: tuple[tuple[int, float], ...]
    expression: ParameterExpression | None = None

    def values(self, sets: FloatArray, parameters: tuple[Parameter, ...]) -> FloatArray:
        """Evaluate for all parameter sets (m, p): (m,)."""
        if self.expression is not None:
            free = [(i, p) for i, p in enumerate(parameters) if p in self.expression.parameters]
            return np.array([float(self.expression.bind({p: float(row[i]) for i, p in free})) for row in sets])
        result = np.full(len(sets), self.constant)
        for column, coefficient in self.terms:
            result += coefficient * sets[:, column]
        return result


@dataclass(frozen=True)
class Template:
    """A circuit whose parametric gates hold bare parameters only.

    Attributes:
        circuit: the circuit to run.
        parameters: the parameters of the original, in its order.
        angles: how each parameter of `circuit` follows from them.
    """

    circuit: QuantumCircuit
    parameters: tuple[Parameter, ...]
    angles: dict[Parameter, Angle]

    def binds(self, sets: FloatArray) -> dict[Parameter, FloatArray]:
        """Return the values of the circuit's parameters for all parameter sets (m, p)."""
        return {parameter: angle.values(sets, self.parameters) for parameter, angle in self.angles.items()}


def make_template(circuit: QuantumCircuit, parameters: tuple[Parameter, ...] | None = None) -> Template:
    """Lift the expressions of a circuit to bare parameters.

    Args:
        circuit: the circuit; it is not changed.
        parameters: parameters of the original circuit where this one is its compiled form.
    """
    order = tuple(circuit.parameters) if parameters is None else parameters
    columns = {parameter: index for index, parameter in enumerate(order)}
    blocks = any(item.is_control_flow() for item in circuit.data)
    bare = all(isinstance(p, Parameter) for item in circuit.data for p in item.params if _free(p))
    if blocks or (bare and not _free(circuit.global_phase)):
        return Template(circuit, order, {p: Angle(0.0, ((columns[p], 1.0),)) for p in circuit.parameters})
    lifted = circuit.copy_empty_like()
    lifted.global_phase = 0.0  # no count and no expectation value depends on it
    angles: dict[Parameter, Angle] = {}
    known: dict[str, Parameter] = {}
    for item in circuit.data:
        operation = item.operation
        if item.is_parameterized():
            operation = operation.to_mutable()
            operation.params = [_lift(p, columns, angles, known) if _free(p) else p for p in item.params]
        lifted.append(operation, item.qubits, item.clbits, copy=False)
    return Template(lifted, order, angles)


def _free(value: Any) -> bool:
    return isinstance(value, ParameterExpression) and bool(value.parameters)


def _lift(
    value: ParameterExpression,
    columns: dict[Parameter, int],
    angles: dict[Parameter, Angle],
    known: dict[str, Parameter],
) -> Parameter:
    text = str(value)
    if text not in known:
        parameter = Parameter(f"angle{len(known):06d}")
        known[text] = parameter
        angles[parameter] = _analyse(value, columns)
    return known[text]


def _analyse(value: ParameterExpression, columns: dict[Parameter, int]) -> Angle:
    terms = []
    for parameter in sorted(value.parameters, key=lambda p: columns[p]):
        slope = value.gradient(parameter)
        if _free(slope):
            return Angle(0.0, (), value)
        terms.append((columns[parameter], float(slope)))
    constant = float(value.bind(dict.fromkeys(value.parameters, 0.0)))
    return Angle(constant, tuple(terms))
