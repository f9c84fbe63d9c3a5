"""Energy of a server shared among its requests."""

from __future__ import annotations

import os
import socket
import time

import httpx
import pytest

from infra.energy.usage import Usage
from tasks.serving.gateway import shares as module
from tasks.serving.gateway.shares import Page, Shares, Tree, source_of


class Clocked:
    """A server that uses two CPU seconds each second of a clock that the test moves."""

    name = "known"

    def __init__(self) -> None:
        self.now = 0.0
        self.works = True

    def read(self) -> Usage:
        if not self.works:
            raise OSError("gone")
        return Usage(cpu_s=2 * self.now)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    monkeypatch.setattr(module, "EVERY_S", 0.0)
    return Clocked()


def test_shares_follow_the_time_that_requests_are_open_and_sum_to_the_whole(clocked: Clocked) -> None:
    shares = Shares(clocked, clock=lambda: clocked.now)
    shares.read()
    clocked.now = 1.0
    shares.read()  # nobody is open: what was used is nobody's
    shares.opened()
    clocked.now = 3.0
    shares.read()
    shares.opened()
    clocked.now = 5.0
    shares.closed()
    shares.closed()
    one, two = shares.between(1.0, 5.0), shares.between(3.0, 5.0)
    assert one is not None
    assert two is not None
    assert (one.cpu_s, two.cpu_s) == (pytest.approx(2 * 2 + 2), pytest.approx(2.0))
    assert one.cpu_s + two.cpu_s == pytest.approx(2 * 4.0)


def test_a_server_that_cannot_be_read_has_no_energy(clocked: Clocked) -> None:
    clocked.works = False
    shares = Shares(clocked, clock=lambda: clocked.now)
    shares.opened()
    clocked.now = 1.0
    shares.closed()
    assert shares.between(0.0, 1.0) is None


def test_the_tree_of_a_local_port_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tree = Tree(listener.getsockname()[1])
        tree.read()
        began, own = time.monotonic(), time.process_time()
        while time.process_time() - own < 0.2:
            pass
        used = tree.read()
    assert 0.15 < used.cpu_s < 0.5 + time.process_time() - own
    assert used.rss_gb_s > 0
    assert used.wall_s <= time.monotonic() - began + 1
    assert os.getpid()
    with pytest.raises(OSError, match="no process of this machine"):
        Tree(1).read()


def test_a_page_of_metrics_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = iter(
        "# TYPE process_cpu_seconds counter\n"
        f"process_cpu_seconds_total {cpu}\n"
        "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n"
        f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0"}} {mj}\n'
        f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="1"}} {mj}\n'
        for cpu, mj in ((10, 5000), (12, 8000))
    )

    class Answer:
        def __init__(self) -> None:
            self.text = next(pages)

        def raise_for_status(self) -> Answer:
            return self

    monkeypatch.setattr(httpx, "get", lambda *_, **__: Answer())
    page = Page("http://gpu.example:9400/metrics")
    page.read()
    used = page.read()
    assert (used.cpu_s, used.gpu_j) == (2.0, 6.0)


def test_another_machine_is_known_only_by_its_page() -> None:
    assert source_of("https://api.example.org") is None
    assert isinstance(source_of("https://api.example.org", "http://gpu:9400/metrics"), Page)
    assert isinstance(source_of("http://localhost:8001"), Tree)
