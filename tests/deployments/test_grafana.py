"""The dashboard asks for metrics that are exported, and Prometheus' configuration for the port that they are at."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from infra import settings
from infra.compute import free_port
from infra.installation.status import StatusCollector
from infra.runtime.figures.metrics import QueueCollector, serve_metrics
from infra.runtime.ledger.budget import set_limit
from infra.runtime.ledger.ledger import Ledger
from infra.settings import Settings

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
    places: set[tuple[int, int]] = set()
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


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """Yield the address of a Prometheus that scrapes an installation by the configuration that ships."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus on the path (Debian: apt-get install prometheus)")
    loaded = settings.load(home=tmp_path / "home")
    set_limit(Ledger(loaded.ledger), "day", "qpu_s", 60.0)
    exported_at, stop = serve_metrics(loaded.ledger, free_port(), more=(StatusCollector(loaded),))
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["scrape_configs"][0] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [urlsplit(exported_at).netloc]}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": "prometheus.yaml", "storage.tsdb.path": "data", "web.listen-address": address}
    command = [program, *(f"--{name}={value}" for name, value in options.items())]
    with (tmp_path / "said.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)
        stop()


def test_a_real_prometheus_answers_every_panel(prometheus: str) -> None:
    def ask(expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=5)
        assert answer.status_code in (200, 503), answer.text  # 503: it is starting
        return list(answer.json()["data"]["result"]) if answer.is_success else []

    give_up = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            if ask("ketcycle_disk_free_bytes"):
                break
        assert time.monotonic() < give_up
        time.sleep(0.2)
    assert float(ask('up{job="ketcycle"}')[0]["value"][1]) == 1.0
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            ask(target["expr"])  # an expression that Prometheus cannot read is answered 400
    shown = {panel["title"]: ask(panel["targets"][0]["expr"]) for panel in DASHBOARD["panels"]}
    assert {"Free disk", "Budget left", "Time of a scrape"} <= {title for title, found in shown.items() if found}
