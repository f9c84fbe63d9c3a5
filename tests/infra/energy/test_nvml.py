"""NVML is stood in for by a module of its shape; the calls are those of nvidia-ml-py 13."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from infra.energy.nvml import GpuCounter, open_devices


class Gpu:
    def __init__(self, index: int, pids: tuple[int, ...] = (), counts: bool = True) -> None:
        self.index, self.pids, self.counts, self.mj = index, pids, counts, 1000


def nvml(gpus: list[Gpu], init_error: str = "") -> ModuleType:
    module = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def init() -> None:
        if init_error:
            raise NVMLError(init_error)

    def energy(gpu: Gpu) -> int:
        if not gpu.counts:
            raise NVMLError("Not Supported")
        return gpu.mj

    module.NVMLError = NVMLError  # type: ignore[attr-defined]
    module.nvmlInit = init  # type: ignore[attr-defined]
    module.nvmlDeviceGetCount = lambda: len(gpus)  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByIndex = lambda i: gpus[i]  # type: ignore[attr-defined]
    module.nvmlDeviceGetIndex = lambda gpu: gpu.index  # type: ignore[attr-defined]
    module.nvmlDeviceGetTotalEnergyConsumption = energy  # type: ignore[attr-defined]
    module.nvmlDeviceGetComputeRunningProcesses = lambda gpu: [SimpleNamespace(pid=p) for p in gpu.pids]  # type: ignore[attr-defined]
    return module


def torch(initialised: bool, device: int = 0) -> ModuleType:
    module = ModuleType("torch")
    module.cuda = SimpleNamespace(is_initialized=lambda: initialised, current_device=lambda: device)  # type: ignore[attr-defined]
    return module


def test_without_a_driver_the_reason_is_the_driver_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml([], init_error="Driver Not Loaded"))
    assert open_devices() == ((), "NVML answers: Driver Not Loaded")


def test_without_the_library_the_reason_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "extra `nvidia`" in open_devices()[1]


def test_a_gpu_without_energy_counter_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml([Gpu(0, counts=False)]))
    assert open_devices() == ((), "NVML answers: Not Supported")


def test_only_devices_that_this_process_works_on_count(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = Gpu(0, pids=(os.getpid(),)), Gpu(1, pids=(1,))
    monkeypatch.setitem(sys.modules, "pynvml", nvml([mine, other]))
    monkeypatch.setitem(sys.modules, "torch", torch(False))
    counter = GpuCounter(open_devices()[0])
    mine.mj, other.mj = 6000, 99_000
    assert counter.used_j() == pytest.approx(5)


def test_in_a_container_the_device_of_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Gpu(0, pids=(777_777,)), Gpu(1, pids=(777_777,))  # numbers of the host, not ours
    monkeypatch.setitem(sys.modules, "pynvml", nvml([first, second]))
    monkeypatch.setitem(sys.modules, "torch", torch(True, device=1))
    counter = GpuCounter(open_devices()[0])
    first.mj, second.mj = 50_000, 3000
    assert counter.used_j() == pytest.approx(2)


def test_a_declared_child_s_device_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, pids=(4242,))
    monkeypatch.setitem(sys.modules, "pynvml", nvml([gpu]))
    monkeypatch.setitem(sys.modules, "torch", torch(False))
    counter = GpuCounter(open_devices()[0], pids=[4242])
    gpu.mj = 2000
    assert counter.used_j() == pytest.approx(1)


def test_a_device_that_others_work_on_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, beside = Gpu(0, pids=(os.getpid(),)), Gpu(0, pids=(os.getpid(), 77))
    monkeypatch.setitem(sys.modules, "torch", torch(False))
    for gpu, shared in ((alone, False), (beside, True)):
        monkeypatch.setitem(sys.modules, "pynvml", nvml([gpu]))
        assert GpuCounter(open_devices()[0]).shared is shared


def test_in_a_container_one_unknown_process_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch(True))
    for pids, shared in (((777,), False), ((777, 778), True)):
        monkeypatch.setitem(sys.modules, "pynvml", nvml([Gpu(0, pids=pids)]))
        assert GpuCounter(open_devices()[0]).shared is shared
