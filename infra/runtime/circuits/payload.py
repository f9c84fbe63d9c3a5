"""How circuits, values and results are written down: stable digests, QPY, npz. Never pickle."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit, qpy
from qiskit.circuit import ClassicalRegister, Instruction, ParameterExpression, SwitchCaseOp

from infra.errors import BadInput

Arrays = dict[str, NDArray[Any]]
Seen = Callable[[str, NDArray[Any]], NDArray[Any]]

_NPY_1_0 = np.lib.format.magic(1, 0)


def circuit_digest(circuit: QuantumCircuit, seen: Seen = lambda _, matrix: matrix) -> str:
    """Hash what a circuit computes: gates, wires, registers, parameter names.

    The same circuit built in another process has the same digest, unlike its QPY file, which holds random parameter
    ids and a running number for a name. Numbers count to the last bit.

    Args:
        circuit: the circuit.
        seen: function of an operation's name and its matrix that returns what counts of the matrix; circuits that it
            makes equal have one digest.
    """
    digest = hashlib.sha256(b"circuit-1;")
    _feed_circuit(digest.update, circuit, seen)
    return digest.hexdigest()


def _feed_circuit(update: Callable[[bytes], None], circuit: QuantumCircuit, seen: Seen) -> None:
    qubits = {bit: index for index, bit in enumerate(circuit.qubits)}
    clbits = {bit: index for index, bit in enumerate(circuit.clbits)}
    registers = [(register.name, [clbits[bit] for bit in register]) for register in circuit.cregs]
    update(f"{len(qubits)};{len(clbits)};{registers};{_text(circuit.global_phase)};".encode())
    update(f"{[parameter.name for parameter in circuit.parameters]};".encode())
    for item in circuit.data:
        wires = [qubits[bit] for bit in item.qubits], [clbits[bit] for bit in item.clbits]
        update(f"{item.name}{wires}".encode())
        if item.is_standard_gate():
            update(",".join(map(_text, item.params)).encode())
            if item.is_controlled_gate():  # to look at the operation of any other gate would make it first
                update(f"^{item.operation.ctrl_state}".encode())
        else:
            _feed_operation(update, item.operation, clbits, seen)
        update(b";")


def _feed_operation(
    update: Callable[[bytes], None],
    operation: Any,
    clbits: Mapping[Any, int],
    seen: Seen,
) -> None:
    """Feed an operation that its name does not define: its parameters, and its definition where it has one."""
    for value in getattr(operation, "params", ()):
        if isinstance(value, QuantumCircuit):  # a block of a control-flow operation
            _feed_circuit(update, value, seen)
        elif isinstance(value, np.ndarray):
            update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(seen(operation.name, value)).tobytes())
        else:
            update(f"{_text(value)},".encode())
    for name in ("condition", "target"):
        if (value := getattr(operation, name, None)) is not None:
            update(f"{name}{_condition(value, clbits)}".encode())
    if isinstance(operation, SwitchCaseOp):
        update(repr([labels for labels, _ in operation.cases_specifier()]).encode())
    update(f"^{getattr(operation, 'ctrl_state', '')}@{getattr(operation, 'unit', '')}".encode())
    if any(isinstance(value, np.ndarray) for value in getattr(operation, "params", ())):
        return  # the matrix says it all, and a dense matrix takes minutes to define by gates
    definition = getattr(operation, "definition", None) if isinstance(operation, Instruction) else None
    if definition is not None and not any(isinstance(value, QuantumCircuit) for value in operation.params):
        _feed_circuit(update, definition, seen)


def _condition(condition: Any, clbits: Mapping[Any, int]) -> str:
    """Write a classical condition with bits by number; their own text holds memory addresses."""
    if isinstance(condition, tuple):
        return f"{_condition(condition[0], clbits)}=={int(condition[1])}"
    if condition in clbits:
        return f"c{clbits[condition]}"
    if isinstance(condition, ClassicalRegister):
        return f"r{[clbits.get(bit, -1) for bit in condition]}"
    text = repr(condition)
    for bit, index in clbits.items():
        text = text.replace(repr(bit), f"c{index}")
    return text


def _text(value: Any) -> str:
    if isinstance(value, ParameterExpression):
        return str(value)
    if isinstance(value, float | np.floating):
        return float(value).hex()
    return repr(value)


def encode_circuit(circuit: QuantumCircuit) -> bytes:
    """Write one circuit as QPY.

    Raises:
        BadInput: the circuit holds an operation that QPY cannot store.
    """
    stream = io.BytesIO()
    try:
        qpy.dump(circuit, stream)
    except (qpy.exceptions.QpyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"circuit {circuit.name!r} cannot be stored ({error}); decompose its custom operations"
        ) from error
    return stream.getvalue()


def decode_circuit(data: bytes) -> QuantumCircuit:
    """Read one circuit from QPY."""
    return qpy.load(io.BytesIO(data))[0]


def encode_arrays(arrays: Mapping[str, NDArray[Any]], *, compressed: bool = True) -> bytes:
    """Write arrays as an npz archive.

    Args:
        arrays: by name.
        compressed: whether to compress them; angles do not get smaller by it.
    """
    stream = io.BytesIO()
    # numpy's own savez_compressed takes the slowest level: three times the time for two per cent of the size
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", how, compresslevel=1) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)
    return stream.getvalue()


def decode_arrays(data: bytes) -> Arrays:
    """Read the arrays of an npz archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # np.load takes three times as long for a small one
        return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}


def _array(data: bytes) -> NDArray[Any]:
    """Read an array from the content of an npy file."""
    if data[:8] != _NPY_1_0:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    start = len(_NPY_1_0) + 2 + int.from_bytes(data[8:10], "little")
    shape, fortran, dtype = _header(data[:start])
    if dtype.hasobject:
        raise ValueError("an array of objects is not read: it is pickled")
    return np.ndarray(shape, dtype, data, start, order="F" if fortran else "C").copy(order="K")


@lru_cache(maxsize=256)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type of an array from the head of an npy file, which is Python's notation."""
    return np.lib.format.read_array_header_1_0(io.BytesIO(head[len(_NPY_1_0) :]))


def fingerprint(header: Mapping[str, Any], pubs: list[tuple[str, Arrays, Mapping[str, Any]]]) -> str:
    """Hash all that determines a call: primitive, backend, options, and the circuit, values and settings of each PUB.

    Args:
        header: plain values.
        pubs: digest of the circuit, arrays, plain values.
    """
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, default=str).encode())
    for circuit, arrays, settings in pubs:
        digest.update(f"{circuit};{json.dumps(settings, sort_keys=True)};".encode())
        for name, values in sorted(arrays.items()):
            digest.update(f"{name}{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
