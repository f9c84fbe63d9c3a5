"""What the platform does with a program: decodes it, runs it on Aer, encodes the result.

Reads and writes the vendor's published schemas, so that what the client sends is what is executed.
"""

import json
import math
from functools import cache
from pathlib import Path

import qiskit_ibm_runtime.fake_provider as fakes
from ibm_quantum_schemas.common import CompressedTensorModel
from ibm_quantum_schemas.executor.version_2_0 import (
    ItemMetadataModel,
    MetadataModel,
    QuantumProgramResultItemModel,
    QuantumProgramResultModel,
)
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime.fake_provider.executor.run_quantum_program import run_quantum_program
from qiskit_ibm_runtime.options_models.simulator import SimulatorOptions
from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS

FOLDER = Path(fakes.__file__).parent / "backends"


@cache
def device_files(device):
    """Configuration and properties of a device snapshot under the name that the platform gives it."""
    folder = FOLDER / device.partition("_")[2]
    configuration = json.loads(next(folder.glob("conf_*.json")).read_text())
    properties = json.loads(next(folder.glob("props_*.json")).read_text())
    for found in (configuration, properties):
        found["backend_name"] = device
    return configuration, properties


@cache
def simulator(device, noisy):
    """Aer, ideal unless noise is asked for: a noise model of 133 qubits takes nine seconds."""
    if not noisy:
        return AerSimulator(max_parallel_threads=1)
    name = "".join(part.capitalize() for part in device.split("_")[1:])
    return AerSimulator.from_backend(getattr(fakes, f"Fake{name}V2", None) or getattr(fakes, f"Fake{name}"))


class Program:
    """A program of the executor as it arrived.

    Raises:
        ValueError: it is none, or of a version that is not spoken here.
    """

    def __init__(self, params):
        version = params.get("schema_version")
        if version != "v2.0":
            raise ValueError(f"schema version {version!r} is not supported")
        converter = QUANTUM_PROGRAM_PARAMS_CONVERTERS[version]
        self._model = converter.model.model_validate(params)
        self._program, _ = converter.decoder(self._model)
        for item in self._program.items:
            if hasattr(item, "samplex"):
                item.samplex.finalize()

    @property
    def circuits(self):
        return [item.circuit for item in self._program.items]

    @property
    def executions(self):
        """Circuits times shots, randomisations of twirling included."""
        return self._program.shots * sum(math.prod(item.shape) for item in self._program.items)

    def run(self, device, noisy=False, seed=None, halved=False, renamed=False):
        """Run it and return the body of the answer, perhaps with half of the shots or other registers."""
        if halved:
            self._program.shots //= 2
        options = SimulatorOptions(seed_simulator=seed, angle_decimals=12)
        outcome = run_quantum_program(simulator(device, noisy), self._program, options)
        data = [
            QuantumProgramResultItemModel(
                results={
                    f"x{name}" if renamed else name: CompressedTensorModel.from_numpy(values)
                    for name, values in item.items()
                },
                metadata=ItemMetadataModel(),
            )
            for item in outcome
        ]
        sent = self._model.quantum_program
        return QuantumProgramResultModel(
            data=data,
            metadata=MetadataModel(chunk_timing=[]),
            passthrough_data=sent.passthrough_data,
            semantic_role=sent.semantic_role,
        ).model_dump_json()
