import fcntl
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from infra.energy import meter as metering
from infra.energy.meter import Counters, Meter, Span
from infra.energy.rapl import find_domains
from infra.errors import MeterBusy


def burn(cpu_s: float) -> float:
    """Use CPU time and return what was really used."""
    start = time.thread_time()
    while time.thread_time() - start < cpu_s:
        sum(range(1000))
    return time.thread_time() - start


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0")
    (folder / "energy_uj").write_text("5000000")
    (folder / "max_energy_range_uj").write_text("10000000")
    return folder


@pytest.fixture
def counted(package: Path, tmp_path: Path) -> Meter:
    return Meter(counters=Counters(find_domains(package.parent)[0]), lock=tmp_path / "lock")


def machine_used(monkeypatch: pytest.MonkeyPatch, *readings: float) -> None:
    values = iter(readings)
    monkeypatch.setattr(metering, "_machine_cpu_s", lambda: next(values))


def test_cpu_and_elapsed_time_of_a_block() -> None:
    with Meter() as meter:
        used = burn(0.1)
        time.sleep(0.1)
    assert meter.usage.cpu_s == pytest.approx(used, abs=0.03)
    assert meter.usage.wall_s >= 0.2
    assert meter.usage.counted_cpu_s == meter.usage.package_j or meter.source != "modelled"


def test_all_threads_of_the_process_count() -> None:
    with Meter() as meter:
        threads = [threading.Thread(target=burn, args=(0.1,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert meter.usage.cpu_s == pytest.approx(0.2, abs=0.05)


def test_memory_is_integrated_over_time() -> None:
    with Meter() as meter:
        time.sleep(0.2)
    held_gb = metering._rss_gb(())
    assert meter.usage.rss_gb_s == pytest.approx(held_gb * meter.usage.wall_s, rel=0.1)


def test_long_blocks_follow_memory_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "FIRST_SAMPLE_S", 0.02)
    monkeypatch.setattr(metering, "SAMPLE_S", 0.02)
    before_gb = metering._rss_gb(())
    with Meter() as meter:
        block = bytearray(b"x" * 300_000_000)
        time.sleep(0.4)
        del block
    extra = meter.usage.rss_gb_s - before_gb * meter.usage.wall_s
    assert extra > 0.25 * 0.3  # start and end alone would see nothing


def test_a_second_block_in_the_process_is_refused() -> None:
    with Meter(), pytest.raises(MeterBusy), Meter():
        pass
    with Meter():
        pass


def test_a_second_block_in_another_thread_is_refused() -> None:
    refused = []

    def meter_too() -> None:
        try:
            with Meter():
                pass
        except MeterBusy:
            refused.append(True)

    with Meter():
        thread = threading.Thread(target=meter_too)
        thread.start()
        thread.join()
    assert refused == [True]


def test_an_error_in_the_block_leaves_the_usage_and_the_lock_free() -> None:
    meter = Meter()
    with pytest.raises(ZeroDivisionError), meter:
        _ = burn(0.02) / 0
    assert meter.usage.cpu_s > 0.01
    with Meter():
        pass


def test_a_span_inside_a_block_measures_its_part() -> None:
    with Meter() as meter:
        with Span() as span:
            used = burn(0.1)
        burn(0.05)
    assert span.usage.cpu_s == pytest.approx(used, abs=0.02)
    rest, _ = meter.usage.split(span.usage)
    assert rest.cpu_s == pytest.approx(0.05, abs=0.03)


BURN = "import time\nwhile time.process_time() < {0}: pass\nprint('burnt', flush=True)\n{1}"


def test_a_declared_child_that_runs_on_counts() -> None:
    code = BURN.format(0.3, "import sys; sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        with Meter(children=[child.pid]) as meter:
            assert child.stdout is not None
            child.stdout.readline()
        child.communicate(b"")
    assert meter.usage.cpu_s == pytest.approx(0.3, abs=0.1)


def test_a_declared_child_that_ended_counts() -> None:
    child = subprocess.Popen([sys.executable, "-c", BURN.format(0.3, "")], stdout=subprocess.DEVNULL)
    with Meter(children=[child.pid]) as meter:
        child.wait()
    assert meter.usage.cpu_s == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("ends", ["waited for", "not yet waited for", "runs on"])
def test_an_undeclared_child_that_the_block_starts_counts(ends: str) -> None:
    code = BURN.format(0.4, "import sys; sys.stdin.read()" if ends == "runs on" else "")
    with Meter() as meter:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        if ends == "waited for":
            child.wait()
        else:
            time.sleep(0.2)
    child.communicate(b"")
    assert meter.usage.cpu_s == pytest.approx(0.4, abs=0.15)  # with the start of an interpreter


def test_what_an_undeclared_child_starts_counts() -> None:
    inner = BURN.format(0.4, "")
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with Meter() as meter:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert meter.usage.cpu_s == pytest.approx(0.4, abs=0.2)


def test_a_pool_that_an_earlier_block_started_counts_and_a_server_that_ran_before_does_not() -> None:
    code = "import sys, time\nfor _ in sys.stdin:\n    end = time.process_time() + 0.3\n    while time.process_time() < end: pass\n    print('done', flush=True)\n"  # noqa: E501
    start = partial(subprocess.Popen, [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def work(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        process.stdout.readline()

    server = start()
    work(server)
    with Meter() as first:
        pool = start()
        work(pool)
    with Meter() as second:
        work(pool)
        work(server)
    with Meter() as third:
        for process in (pool, server):
            process.communicate(b"")
    assert first.usage.cpu_s == pytest.approx(0.3, abs=0.15)
    assert second.usage.cpu_s == pytest.approx(0.3, abs=0.1)
    assert third.usage.cpu_s < 0.1  # ending is not working; the lives before the block do not count again


def test_an_unknown_child_is_no_error() -> None:
    with Meter(children=[2**22 + 1]) as meter:
        pass
    assert meter.usage.cpu_s < 0.1


def test_alone_on_a_quiet_machine_counters_are_measured(
    counted: Meter, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_used(monkeypatch, 100.0, 100.0)
    with counted as meter:
        burn(0.02)
        (package / "energy_uj").write_text("9000000")
    assert meter.source == "measured"
    assert meter.usage.package_j == pytest.approx(4)
    assert meter.usage.counted_cpu_s == meter.usage.cpu_s


def test_a_wrap_inside_a_block_is_seen(counted: Meter, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_used(monkeypatch, 100.0, 100.0)
    with counted as meter:
        (package / "energy_uj").write_text("1000000")
    assert meter.usage.package_j == pytest.approx(6)


def test_wraps_of_a_long_block_are_all_seen(counted: Meter, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "FIRST_SAMPLE_S", 0.02)
    monkeypatch.setattr(metering, "SAMPLE_S", 0.02)
    machine_used(monkeypatch, 100.0, 100.0)
    with counted as meter:
        for uj in (1_000_000, 9_000_000, 2_000_000):  # 6 + 8 + 3 J
            (package / "energy_uj.new").write_text(str(uj))
            (package / "energy_uj.new").rename(package / "energy_uj")
            time.sleep(0.15)
    assert meter.usage.package_j == pytest.approx(17)


def test_beside_other_load_counters_are_shared_by_cpu_time(
    counted: Meter, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_used(monkeypatch, 100.0, 140.0)
    with counted as meter:
        burn(0.1)
        (package / "energy_uj").write_text("9000000")
    assert meter.source == "attributed"
    assert meter.usage.package_j == pytest.approx(4 * meter.usage.cpu_s / 40.0, rel=1e-6)


def test_without_the_exclusive_lock_nothing_is_measured(
    counted: Meter, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_used(monkeypatch, 100.0, 100.05)
    with (tmp_path / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with counted as meter:
            burn(0.05)
            (package / "energy_uj").write_text("9000000")
    assert meter.source == "attributed"


def test_a_lock_file_of_another_user_is_not_ours(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_used(monkeypatch, 100.0, 100.0)
    domains = find_domains(package.parent)[0]
    with Meter(counters=Counters(domains), lock=tmp_path) as meter:  # a folder cannot be opened for writing
        pass
    assert meter.source == "attributed"


def test_without_counters_the_model_must_answer(tmp_path: Path) -> None:
    with Meter(counters=Counters(), lock=tmp_path / "lock") as meter:
        burn(0.02)
    assert meter.source == "modelled"
    assert (meter.usage.package_j, meter.usage.counted_cpu_s) == (0, 0)


@pytest.mark.parametrize(("shared", "source"), [(False, "measured"), (True, "attributed")])
def test_the_joules_of_a_shared_gpu_are_not_measured(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool, source: str
) -> None:
    class Device:
        def __init__(self, handles: object, pids: object) -> None:
            self.shared = shared

        def used_j(self) -> float:
            return 3.0

    monkeypatch.setattr(metering, "GpuCounter", Device)
    machine_used(monkeypatch, 100.0, 100.0)
    counters = Counters(find_domains(package.parent)[0], ("gpu",))
    with Meter(counters=counters, lock=tmp_path / "lock") as meter:
        burn(0.01)
    assert meter.usage.gpu_j == 3.0
    assert meter.source == source
