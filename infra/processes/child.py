"""`python -m infra.processes.child MODULE ARGUMENT ...`: runs a module that ends with the process that started it.

A server of a run must not outlive it, however it ended. On Linux the kernel sends the signal; elsewhere a run that
was killed leaves its server behind.
"""

from __future__ import annotations

import ctypes
import runpy
import signal
import sys

import infra.processes.warm  # noqa: F401  (before the module's libraries)

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal and run the module."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
