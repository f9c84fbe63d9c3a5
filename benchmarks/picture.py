"""The picture of a run's report, quality against energy of all arms, as an SVG file for the README."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.reports.charts import style
from flows.reports.run.overview import overview
from infra.lake import write_atomic


def main(arguments: Sequence[str]) -> None:
    """Write the picture of a stored report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=main.__doc__)
    parser.add_argument("report", type=Path, help="report.json of a run")
    parser.add_argument("--out", type=Path, default=Path("docs/decisions.svg"))
    given = parser.parse_args(arguments)
    with style():
        found = overview(json.loads(given.report.read_text(encoding="utf-8")), "wide")
    if found is None:
        parser.error(f"{given.report} compares no arms; give the report of a run with --method shadow")
    # A file needs the name space, a page does not.
    write_atomic(given.out, found.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    sys.stdout.write(f"{given.out}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
