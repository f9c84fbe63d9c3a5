"""Energy counters of NVIDIA GPUs through NVML, if the optional `nvidia-ml-py` and a driver are present.

The counter covers the whole device, so a device is counted only while this process uses it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any


def open_devices() -> tuple[tuple[Any, ...], str]:
    """Return the handles of all GPUs with an energy counter, and the reason if there are none."""
    try:
        import pynvml
    except ImportError:
        return (), "nvidia-ml-py is not installed (the extra `nvidia`)"
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return (), f"NVML answers: {error}"
    return (tuple(handles), "") if handles else ((), "no NVIDIA GPU")


class GpuCounter:
    """Joules since the start, of the devices that this process uses."""

    def __init__(self, handles: Sequence[Any], pids: Sequence[int] = ()) -> None:
        self._handles = tuple(handles)
        self._pids = {os.getpid(), *pids}
        self._start_mj = [_read_mj(handle) for handle in self._handles]

    def used_j(self) -> float:
        """Return the joules of the devices in use by this process or its declared children."""
        return 1e-3 * sum(
            _read_mj(handle) - start
            for handle, start in zip(self._handles, self._start_mj, strict=True)
            if self._works_on(handle)
        )

    @property
    def shared(self) -> bool:
        """Whether other processes use the same devices; the counter then includes their joules."""
        return any(self._others(handle) for handle in self._handles if self._works_on(handle))

    def _others(self, handle: Any) -> bool:
        import pynvml

        pids = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        # In a container process ids may not match; then one of the listed processes is assumed to be ours.
        return len(pids - self._pids) > (not pids & self._pids)

    def _works_on(self, handle: Any) -> bool:
        import pynvml

        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            # In a container NVML reports process ids of the host, so ours may not be among them.
            return len(self._handles) == 1 or pynvml.nvmlDeviceGetIndex(handle) == torch.cuda.current_device()
        return any(p.pid in self._pids for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))


def _read_mj(handle: Any) -> int:
    import pynvml

    return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
