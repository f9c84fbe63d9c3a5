"""Imported last by the process whose copies are the workers of a run: nothing that it has made is collected.

Pages that the collector does not visit stay shared by the copies.
"""

from __future__ import annotations

import gc

gc.freeze()
gc.enable()
