"""Imported first by the process whose copies are the workers of a run, and by the command itself.

The cyclic garbage collector starts after every 700 new objects by default; importing libraries and reading tables make
millions that stay, which it would visit again and again.
"""

from __future__ import annotations

import gc

gc.set_threshold(50_000, 20, 100)
