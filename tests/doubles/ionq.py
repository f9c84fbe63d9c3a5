"""A loopback server that speaks IonQ's REST protocol, version 0.4, as far as its Qiskit client uses it.

`Service.faults` are the answers to the next submissions, after the job is made; `Service.ending` is how jobs end.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit.library import PhaseGate, RXGate, RXXGate, RYGate, RYYGate, RZGate, RZZGate, SXGate, XGate
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.quantum_info import Statevector

TURNED = {"rx": RXGate, "ry": RYGate, "rz": RZGate, "z": PhaseGate, "xx": RXXGate, "yy": RYYGate, "zz": RZZGate}
NAMED = {
    **get_standard_gate_name_mapping(),
    "v": SXGate(),
    "si": get_standard_gate_name_mapping()["sdg"],
    "not": XGate(),
}


def probabilities(instructions: list[dict[str, Any]], qubits: int) -> dict[str, float]:
    """Return the probability of each outcome, qubit 0 in the lowest bit, by the outcome as a decimal number."""
    circuit = QuantumCircuit(qubits)
    for each in instructions:
        gate = TURNED[each["gate"]](each["rotation"]) if "rotation" in each else NAMED[each["gate"]]
        controls = each.get("controls", [])
        circuit.append(gate.control(len(controls)) if controls else gate, [*controls, *each["targets"]])
    found = Statevector(circuit).probabilities()
    return {str(outcome): float(p) for outcome, p in enumerate(found) if p > 1e-12}


class Service:
    """The jobs, and what goes wrong."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.faults: list[int] = []
        self.ending = "completed"

    def post(self, asked: dict[str, Any]) -> tuple[int, Any]:
        """Make a job."""
        name = f"job-{len(self.jobs)}"
        self.jobs[name] = asked | {"id": name, "status": "ready"}
        code = self.faults.pop(0) if self.faults else 200
        return code, {"id": name, "status": "ready"}

    def get(self, parts: list[str]) -> tuple[int, Any]:
        """Answer a question."""
        if parts[0] == "backends":
            return 200, {"qubits": 5}
        job = self.jobs.get(parts[1])
        if job is None:
            return 404, {"code": "NotFound", "message": "no such job"}
        if len(parts) == 2:
            job["status"] = {"ready": "started", "started": self.ending}.get(job["status"], job["status"])
            failure = {"failure": {"code": "NotEnoughQubits", "error": "too large"}} if self.ending == "failed" else {}
            url = {"probabilities": {"url": f"/v0.4/jobs/{job['id']}/results/probabilities"}}
            number = len(job["input"]["circuits"])
            facts = {"stats": {"qubits": job["input"]["qubits"], "circuits": number}, "execution_duration_ms": 5}
            shown = {name: job[name] for name in ("id", "status", "type", "metadata")}
            children = [f"{job['id']}-{index}" for index in range(number)]
            return 200, {**shown, **facts, **failure, "results": url, "child_job_ids": children}
        circuits, qubits = job["input"]["circuits"], job["input"]["qubits"]
        return 200, {f"{job['id']}-{i}": probabilities(each["circuit"], qubits) for i, each in enumerate(circuits)}

    def put(self, parts: list[str]) -> tuple[int, Any]:
        """Cancel a job."""
        self.jobs[parts[1]]["status"] = "canceled"
        return 200, {"id": parts[1], "status": "canceled"}


@contextmanager
def serve() -> Iterator[tuple[Service, str]]:
    """Serve on a free loopback port; yield the service and its address."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, code: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._answer(*service.get(self.path.partition("?")[0].split("/")[2:]))

        def do_POST(self) -> None:
            self._answer(*service.post(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def do_PUT(self) -> None:
            self._answer(*service.put(self.path.split("/")[2:]))

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield service, f"http://127.0.0.1:{server.server_port}/v0.4"
        finally:
            server.shutdown()
            thread.join()
