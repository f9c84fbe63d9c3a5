"""The dashboard asks for metrics that are exported, and Prometheus' configuration for the port that they are at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry, generate_latest

from infra import settings
from infra.runtime.figures.metrics import QueueCollector
from infra.runtime.ledger.budget import set_limit
from infra.runtime.ledger.ledger import Ledger
from infra.settings import Settings
from infra.status import StatusCollector

FOLDER = Path(__file__).parents[2] / "deployments" / "grafana"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())


def exported(home: Path) -> set[str]:
    """Return the names of all metrics that an installation exports."""
    loaded = settings.load(home=home)
    set_limit(Ledger(loaded.ledger), "day", "qpu_s", 60.0)
    registry = CollectorRegistry()
    registry.register(QueueCollector(loaded.ledger))
    registry.register(StatusCollector(loaded))
    return set(re.findall(r"^# TYPE (\w+) ", generate_latest(registry).decode(), re.MULTILINE))


def test_every_panel_asks_for_metrics_that_are_exported(tmp_path: Path) -> None:
    names = exported(tmp_path)
    asked = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bketcycle_\w+", target["expr"])
    }
    assert asked <= names
    assert {name for name in names if name.startswith("ketcycle_")} == asked, "every metric is shown"


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & places
        assert max(x for x, _ in cells) < 24
        places |= cells


def test_prometheus_scrapes_the_port_of_the_metrics() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    port = Settings.model_fields["metrics_port"].default
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
