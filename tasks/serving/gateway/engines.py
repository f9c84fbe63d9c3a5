"""Maintained engines, started beside the gateway as child processes on loopback; their package is an extra."""

from __future__ import annotations

import importlib.util
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from infra.errors import BadInput, ServerFailed
from tasks.serving.source import Found, Source

log = logging.getLogger("ketcycle.serving")

Name = Literal["builtin", "transformers", "llama.cpp", "vllm"]
START_S = 600.0
AFTER_FAILURE_S = 60.0
PACKAGES = {"transformers": "transformers", "llama.cpp": "xllamacpp", "vllm": "vllm"}
EXTRAS = {"llama.cpp": "ketcycle[llama-cpp]", "vllm": "vllm"}


@dataclass(frozen=True)
class Started:
    """An engine that answers.

    Attributes:
        url: its address.
        version: of the model.
        process: its process.
    """

    url: str
    version: str
    process: subprocess.Popen[bytes]

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it; its standard input closes, then SIGTERM, then SIGKILL."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Engine:
    """How an engine is started.

    Attributes:
        name: which.
        source: the model.
        scratch: folder for exports that the engine needs.
        threads: CPU threads.
        rows: texts written side by side at most.
    """

    name: Name
    source: Source
    scratch: Path
    threads: int = 1
    rows: int = 16

    def check(self) -> None:
        """See whether the package is installed.

        Raises:
            BadInput: it is not.
        """
        package = PACKAGES[self.name]
        if importlib.util.find_spec(package) is None:
            wanted = EXTRAS.get(self.name, package)
            raise BadInput(f"the engine {self.name} needs the package {package}; `pip install '{wanted}'`")

    def start(self, found: Found) -> Started:
        """Start it with a model and wait until it answers.

        Raises:
            ServerFailed: it ended or did not answer in time.
            BadInput: the model cannot be given to this engine.
        """
        port = _free_port()
        command = self._command(found, port)
        process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603
        started = Started(f"http://127.0.0.1:{port}", found.version or _version(found.folder), process)
        try:
            _wait(started)
        except BaseException:
            started.stop()
            raise
        return started

    def _command(self, found: Found, port: int) -> list[str]:
        folder, at = str(found.folder), ["--host", "127.0.0.1", "--port", str(port)]
        match self.name:
            case "transformers":
                return [sys.executable, "-m", "transformers.cli.transformers", "serve", folder, *at]
            case "vllm":
                served = ["--model", folder, "--served-model-name", self.source.name]
                return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *served, *at]
            case "llama.cpp":
                return [sys.executable, "-m", "tasks.serving.gateway.llama_cpp", *self._llama_cpp(found, port)]
            case "builtin":
                raise BadInput("the builtin engine needs no gateway")

    def _llama_cpp(self, found: Found, port: int) -> list[str]:
        from tasks.model.pretrained import check_folder
        from tasks.serving.gateway.gguf_export import export

        context = int(check_folder(found.folder).get("max_position_embeddings", 2048))
        self.scratch.mkdir(parents=True, exist_ok=True)
        file = export(found.folder, self.scratch / f"{_version(found.folder)}.gguf")
        numbers = {"--port": port, "--threads": self.threads, "--rows": self.rows, "--context": context}
        given = [part for name, value in numbers.items() for part in (name, str(value))]
        return ["--model", str(file), "--name", self.source.name, *given]


def follow(engine: Engine, first: Started, switch: Callable[[Started], None], every_s: float) -> threading.Event:
    """Start a successor whenever the source names another model, and hand it over; return the event that ends this.

    Args:
        engine: how to start.
        first: what answers now.
        switch: takes the successor's place in the gateway and returns when the former has no request left.
        every_s: seconds between two looks at the registry.
    """
    stop = threading.Event()

    def run() -> None:
        now, wait_s = first, every_s
        while not stop.wait(wait_s):
            wait_s = every_s
            try:
                found = engine.source.find()
                if found.version == now.version:
                    continue
                successor = engine.start(found)
            except (BadInput, ServerFailed, OSError) as error:
                log.error("the model stays version %s: %s", now.version, error)
                wait_s = AFTER_FAILURE_S
                continue
            switch(successor)
            now.stop()
            now = successor
            log.info("version %s answers", now.version)
        now.stop()

    thread = threading.Thread(target=run, name="follow", daemon=False)
    thread.start()
    return stop


def _version(folder: Path) -> str:
    from tasks.serving.engine import weights_digest

    return weights_digest(folder)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait(started: Started) -> None:
    end = time.monotonic() + START_S
    while True:
        status = started.process.poll()
        if status is not None:
            raise ServerFailed(f"the engine ended with status {status} before it answered; its output says why")
        if time.monotonic() > end:
            raise ServerFailed(f"the engine did not answer within {START_S:g} s")
        try:
            if httpx.get(f"{started.url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
