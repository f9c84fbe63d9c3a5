from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

STARTER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "infra.processes.child", "http.server", "--bind", "127.0.0.1", "0"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_server_does_not_outlive_the_run_that_was_killed() -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    server = psutil.Process(int(starter.stdout.readline()))
    give_up = time.monotonic() + 30
    while not server.net_connections(kind="tcp"):  # it listens: the signal is set by then
        assert time.monotonic() < give_up
        time.sleep(0.05)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    assert psutil.wait_procs([server], timeout=10)[1] == []
