"""The process of llama.cpp's own server, from the package `xllamacpp` (extra `llama-cpp`), on loopback."""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    """Serve a GGUF file until standard input closes."""
    import xllamacpp

    parser = argparse.ArgumentParser(prog="tasks.serving.gateway.llama_cpp")
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--context", type=int, default=2048)
    options = parser.parse_args()
    asked = xllamacpp.CommonParams()
    asked.model.path = options.model
    asked.model_alias = {options.name}
    asked.hostnames = ["127.0.0.1"]
    asked.port = options.port
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = options.threads
    asked.n_parallel = options.rows
    asked.n_ctx = options.context * options.rows
    asked.endpoint_metrics = True
    server = xllamacpp.Server(asked)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
