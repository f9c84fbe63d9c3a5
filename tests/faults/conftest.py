"""The modules of this folder, importable by their names: another installed package may own the name `tests`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
