"""The three public clinical tables, without the columns that tell the outcome."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SHA256 = {
    "heart_failure.csv": "8e73886de77e8ccab902a616352ed596ef0b1db43c37bef14db0e68af1885037",
    "bone_marrow.csv": "f0538bfc7e0b7212303fc20c8fe83b131546ad7efb44e6f93697c519c3664e52",
}
# Known only after the transplantation: recovery of the blood count, relapse, graft-versus-host disease, survival.
AFTERWARDS = ("ANCrecovery", "PLTrecovery", "time_to_aGvHD_III_IV", "Relapse", "aGvHDIIIIV", "extcGvHD", "IIIV",
              "survival_time", "survival_status")  # fmt: skip
TWO_YEARS = 730  # days


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        values: (m, d); a missing value is nan.
        labels: 0 or 1 for each row.
        columns: names of the columns.
    """

    values: FloatArray
    labels: NDArray[np.int64]
    columns: tuple[str, ...]


@cache
def tables() -> dict[str, Table]:
    """Return the tables by name: breast cancer (malignant), heart failure (died), bone marrow (dead in two years)."""
    return {"breast cancer": _breast_cancer(), "heart failure": _heart_failure(), "bone marrow": _bone_marrow()}


def _breast_cancer() -> Table:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return Table(found.data, (found.target == 0).astype(np.int64), tuple(map(str, found.feature_names)))


def _heart_failure() -> Table:
    """Without `time`, the length of the follow-up: it ends with the death."""
    rows = _rows("heart_failure.csv")
    columns = [name for name in rows[0] if name not in ("time", "DEATH_EVENT")]
    labels = np.array([int(row["DEATH_EVENT"]) for row in rows], np.int64)
    return Table(np.array([[float(row[name]) for name in columns] for row in rows]), labels, tuple(columns))


def _bone_marrow() -> Table:
    """Patients who died within two years or were seen alive after them; each disease is a column."""
    rows = [
        row
        for row in _rows("bone_marrow.csv")
        if row["survival_status"] == "1" or float(row["survival_time"]) >= TWO_YEARS
    ]
    labels = [int(row["survival_status"] == "1" and float(row["survival_time"]) < TWO_YEARS) for row in rows]
    diseases = sorted({row["Disease"] for row in rows})
    columns = [name for name in rows[0] if name not in (*AFTERWARDS, "Disease")]
    values = [
        [*(float(row[name] or "nan") for name in columns), *(float(row["Disease"] == name) for name in diseases)]
        for row in rows
    ]
    return Table(np.array(values), np.array(labels, np.int64), (*columns, *diseases))


def _rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a file that ships.

    Raises:
        ValueError: the file is not the one that shipped.
    """
    content = (resources.files("tasks.pilots.clinical") / "data" / name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise ValueError(f"{name} has SHA-256 {found}, expected {SHA256[name]}; install ketcycle again")
    return list(csv.DictReader(content.decode().splitlines()))
