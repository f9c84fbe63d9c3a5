"""The parts of the fault-tolerant subroutines in `qualtran`, and two of their totals as symbols in `bartiq`.

`python -m benchmarks.estimates`, in an environment of its own beside the project's (`pip install qualtran bartiq`; they
pin other versions). Each part is built as a circuit description of qualtran 0.7 and its gates are counted by its cost
functions; a T gate counts as a quarter of a Toffoli gate. The counts that `ketcycle outlook` uses stand beside it.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from tasks.outlook.fault_tolerant import SUBROUTINES, TOFFOLI_OF_A_PRODUCT, t_of_a_rotation

warnings.filterwarnings("ignore")
BUDGET = 0.001  # probability that the whole computation may fail
LARGEST_BLOCK = 12  # binary logarithm of the blocks of select-swap that are tried
PHASE_BITS = 12  # of the phase gradient that qualtran rotates by


def toffoli(bloq: Any) -> float:
    """Return the Toffoli gates of a circuit description, four T gates as one."""
    from qualtran.resource_counting import QECGatesCost, get_cost_value

    counts = get_cost_value(bloq, QECGatesCost()).total_t_and_ccz_count()
    return float(counts["n_ccz"] + counts["n_t"] / 4)


def table(cells: int, bits: int) -> float:
    """Return the Toffoli gates of reading a table by unary iteration."""
    from qualtran.bloqs.data_loading import QROM

    return toffoli(QROM.build_from_bitsize((cells,), (bits,)))


def select_swap(cells: int, bits: int) -> float:
    """Return the Toffoli gates of reading a table by select-swap, with the best size of its blocks."""
    from qualtran.bloqs.data_loading import SelectSwapQROM

    return min(
        toffoli(SelectSwapQROM.build_from_bitsize((cells,), (bits,), log_block_sizes=(k,), use_dirty_ancilla=False))
        for k in range(LARGEST_BLOCK + 1)
    )


def preparation(width: int) -> float:
    """Return the Toffoli gates of preparing a random state by rotations from a phase gradient."""
    from qualtran.bloqs.state_preparation import StatePreparationViaRotations

    state = np.random.default_rng(0).standard_normal(width)
    amplitudes = tuple((state / np.linalg.norm(state)).astype(complex).tolist())
    return toffoli(StatePreparationViaRotations(phase_bitsize=PHASE_BITS, state_coefficients=amplitudes))


def parts() -> Iterator[tuple[str, str, float, float]]:
    """Yield subroutine, part, our Toffoli gates and those of qualtran."""
    from qualtran import QUInt
    from qualtran.bloqs.arithmetic import AddK, Equals, Product
    from qualtran.bloqs.basic_gates import Toffoli

    signatures, bits, blocks = 2**20, 128, 30
    yield "duplicate search", f"table of 2^20 x {bits} bits", signatures, table(signatures, bits)
    yield "duplicate search", f"comparison of {bits} bits", 2 * bits, toffoli(Equals(QUInt(bits)))
    added = toffoli(AddK(QUInt(16), 12345).controlled()) + toffoli(Toffoli())
    yield "block selection", f"addition of 16 bits if two of {blocks} bits are set", 16, added
    yield "settings search", "product of 24 bits", TOFFOLI_OF_A_PRODUCT, toffoli(Product(24, 24))
    for name, cells, width in (("mean discrepancy", 400 * 384, 10), ("attention", 3 * 1024 * 64, 16)):
        yield name, f"select-swap of {cells} x {width} bits", 2 * (cells * width) ** 0.5, select_swap(cells, width)
    cells = 576 * 1536
    yield "singular vectors", f"table of {cells} x 16 bits", cells, table(cells, 16)
    for name, width in (("load vector", 512), ("kernel matrix", 512)):
        rotations = width - 1
        of_all = SUBROUTINES[name.replace(" ", "_")]()
        ours = rotations * t_of_a_rotation(of_all, BUDGET) / 4
        yield name, f"preparation of {width} amplitudes", ours, preparation(width)


def symbols() -> Iterator[tuple[str, str, float, float]]:
    """Yield subroutine, the formula that bartiq derives from its parts, our Toffoli gates and its value."""
    for name, formula, values in (
        ("duplicate_search", {"table": "N", "compare": "2*b", "repeat": "pi/4*sqrt(N)"}, {"N": 2**20, "b": 128}),
        ("block_selection", {"add": "2*b*M*(M - 1)/2", "repeat": "pi/4*sqrt(2^M)"}, {"M": 30, "b": 16}),
    ):
        derived, value = compiled(name, formula, values)
        yield name.replace("_", " "), derived, SUBROUTINES[name]().toffoli, value


def compiled(name: str, formula: dict[str, str], values: dict[str, int]) -> tuple[str, float]:
    """Return the Toffoli gates of a repeated query as a formula and as a number."""
    from bartiq import compile_routine, evaluate
    from qref import SchemaV1

    def resources(value: str) -> list[dict[str, str]]:
        return [{"name": "toffoli", "type": "additive", "value": value}]

    children = {part: value for part, value in formula.items() if part != "repeat"}
    names = list(values)
    query = {
        "name": "query", "input_params": names,
        "linked_params": [{"source": n, "targets": [f"{part}.{n}" for part in children]} for n in names],
        "children": [{"name": part, "input_params": names, "resources": resources(v)} for part, v in children.items()],
        "resources": resources(" + ".join(f"{part}.toffoli" for part in children)),
    }  # fmt: skip
    program = {
        "name": name, "input_params": names, "children": [query],
        "linked_params": [{"source": n, "targets": [f"query.{n}"]} for n in names],
        "resources": resources(f"({formula['repeat']})*query.toffoli"),
    }  # fmt: skip
    routine = compile_routine(SchemaV1(version="v1", program=program)).routine
    found = evaluate(routine, values).routine.resources["toffoli"].value
    return str(routine.resources["toffoli"].value), float(found.subs(dict.fromkeys(found.free_symbols, math.pi)))


def main() -> None:
    """Print the comparison."""
    try:
        import bartiq  # noqa: F401
        import qualtran  # noqa: F401
    except ImportError:
        sys.exit("python -m benchmarks.estimates needs `pip install qualtran bartiq` in an environment of its own")
    lines = ["| subroutine | part | Toffoli here | by the tool | tool / here |", "| --- | --- | --- | --- | --- |"]
    for tool, rows in (("qualtran", parts()), ("bartiq", symbols())):
        for name, part, ours, theirs in rows:
            lines.append(f"| {name} | {part} ({tool}) | {ours:.4g} | {theirs:.4g} | {theirs / ours:.3g} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
