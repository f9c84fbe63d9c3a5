"""Ctrl-C ends a curation on the cluster of an installation: a real command, a real signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.compute import read_note

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
DOCUMENTS = 60_000


def ketcycle(home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments, "--home", str(home)],
        cwd=home.parent, env={**environment, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def write_corpus(path: Path) -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"word{k}" for k in range(5000)])
    with pq.ParquetWriter(path, pa.schema({"text": pa.string()})) as writer:
        for _ in range(DOCUMENTS // 1000):
            texts = [" ".join(row) for row in words[rng.integers(len(words), size=(1000, 300))]]
            writer.write_table(pa.table({"text": texts}))


def test_ctrl_c_ends_the_work_on_the_cluster_within_5_s(tmp_path: Path) -> None:
    home, corpus = tmp_path / "home", tmp_path / "corpus.parquet"
    write_corpus(corpus)
    up = ketcycle(home, "up")
    try:
        while not (address := read_note(home).get("dask_address")):
            assert up.poll() is None
            time.sleep(0.2)
        command = ("stage", "curation", "--corpus", str(corpus), "--rules", "prose", "--method", "shadow")
        run = ketcycle(home, *command, "--set", "curation.shard_mb=4")
        with distributed.Client(address) as client:

            def busy() -> list[str]:
                return [key for keys in client.processing().values() for key in keys]

            shards = home / "index" / "curation" / "shards"
            while not any(shards.glob("*/facts.json")):  # the work has begun
                assert run.poll() is None, run.stderr and run.stderr.read()
                time.sleep(0.05)
            assert busy()
            run.send_signal(signal.SIGINT)
            end = time.monotonic() + 5
            while busy() and time.monotonic() < end:
                time.sleep(0.05)
            assert busy() == []
            made = len(list(shards.glob("*/facts.json")))
            time.sleep(1)
            assert len(list(shards.glob("*/facts.json"))) == made
            assert client.submit(sum, [1, 2]).result(timeout=20) == 3  # the workers are free
        assert run.wait(60) == 130
        run.communicate()
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)
