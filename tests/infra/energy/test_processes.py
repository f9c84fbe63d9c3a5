from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from infra.energy.processes import ProcessTree, children, descendants, machine, whereabouts

WAIT = (
    "import time\ntime.sleep(1)\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\ntime.sleep(60)"
)
BURN = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
WAIT = f"import time\ntime.sleep(1)\n{BURN}\ntime.sleep(60)"


def test_a_child_counts_while_it_lives_and_after_it_ended() -> None:
    tree = ProcessTree()
    before = tree.cpu_s()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    used = tree.cpu_s() - before
    assert used == pytest.approx(0.65, abs=0.2)
    tree.stop()


def test_what_a_process_of_somebody_else_used_is_known_apart() -> None:
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {WAIT!r}], stdout=2).pid)"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    orphan = psutil.Process(int(done.stdout))
    try:
        tree = ProcessTree([orphan.pid])
        deadline = time.monotonic() + 20
        while tree.elsewhere_cpu_s() < 0.3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert 0.3 <= tree.elsewhere_cpu_s() < 1.0
        assert tree.cpu_s() > tree.elsewhere_cpu_s()
        tree.stop()
    finally:
        orphan.kill()


def test_what_other_machines_used_counts_from_when_the_tree_was_made() -> None:
    far = {"b 7": 100.0}
    tree = ProcessTree((), lambda: far)
    assert tree.elsewhere_cpu_s() == pytest.approx(0.0)
    far.update({"b 7": 103.0, "c 9": 2.0})  # a machine that came later counts whole
    assert tree.elsewhere_cpu_s() == pytest.approx(5.0)
    assert tree.cpu_s() > 5.0
    tree.stop()


def test_a_process_says_where_it_is() -> None:
    place, pid, cpu_s = whereabouts()
    assert (place, pid) == (machine(), psutil.Process().pid)
    assert cpu_s > 0
    other = subprocess.run(
        [sys.executable, "-c", "from infra.energy.processes import machine; print(machine())"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.strip() == place


def test_children_and_theirs_are_those_that_psutil_finds() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    started = subprocess.Popen([sys.executable, "-c", code])
    me, give_up = psutil.Process(), time.monotonic() + 60
    try:
        while len(psutil.Process(started.pid).children()) < 1:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        [grandchild] = children(psutil.Process(started.pid))
        assert {started.pid, grandchild.pid} <= {process.pid for process in descendants(me)}
        assert set(children(me)) == set(me.children())
        assert set(descendants(me)) == set(me.children(recursive=True))
    finally:
        grandchild.kill()
        started.wait()
    assert set(children(psutil.Process())) == set(me.children())


def test_an_ended_child_that_was_not_waited_for_is_still_a_child() -> None:
    with ThreadPoolExecutor(1) as other:  # a child of another thread is one of this process
        started = other.submit(subprocess.Popen, [sys.executable, "-c", ""]).result()
        while psutil.Process(started.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert started.pid in {process.pid for process in children(psutil.Process())}
        started.wait()
    assert started.pid not in {process.pid for process in children(psutil.Process())}
