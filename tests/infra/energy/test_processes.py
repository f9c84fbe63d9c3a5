from __future__ import annotations

import subprocess
import sys

import pytest

from infra.energy.processes import ProcessTree

BURN = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass"


def test_a_child_counts_while_it_lives_and_after_it_ended() -> None:
    tree = ProcessTree()
    before = tree.cpu_s()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    used = tree.cpu_s() - before
    assert used == pytest.approx(0.65, abs=0.2)
    tree.stop()
