"""Imported first by the process whose copies are the workers of a run: what libraries make while they are read stays.

The cyclic garbage collector would visit it again and again; `infra.processes.imported` starts it again.
"""

from __future__ import annotations

import gc

gc.disable()
