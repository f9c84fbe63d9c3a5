"""`python -m infra.child MODULE ARGUMENT ...`: runs a module that ends when the process that started it is gone.

A server of a run must not outlive it, however it ended. On Linux the kernel sends the signal; elsewhere a run that
was killed leaves its server behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal and become the module."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
