"""The comparison of two tables in Prometheus' text format, e.g. for node_exporter's textfile collector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

Row = Mapping[str, Any]
VERDICTS = ("drift", "schema drift", "incomplete", "no drift")


def exposition(found: Row) -> str:
    """Return the figures of a comparison, see `tasks.monitoring.compare.Comparison.asdict`, as one text."""
    registry = CollectorRegistry()

    def gauge(name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"ketcycle_drift_{name}", what, labels, registry=registry)

    verdict = gauge("verdict", "1 for the verdict of the last comparison, 0 for the others", "verdict")
    for name in VERDICTS:
        verdict.labels(name).set(float(found["verdict"] == name))
    rows = gauge("rows", "Rows of the table", "table")
    for table, count in found["rows"].items():
        rows.labels(table).set(count)
    changes = gauge("schema_changes", "Columns that are gone, new or of another type", "change")
    for change in ("gone", "new", "type", "timezone"):
        changes.labels(change).set(sum(row["change"] == change for row in found["schema"]))
    gauge("columns_left_out", "Columns of both tables that were not compared").set(len(found["left_out"]))
    effect = gauge("effect", "Least share of the rows that differs, 0 to 1", "column", "feature")
    adjusted = gauge("p_value", "p-value adjusted by Benjamini-Hochberg", "column", "feature")
    drifted = gauge("drifted", "1 where the feature drifted", "column", "feature")
    for row in found["moved"]:
        for metric, value in ((effect, row["distance"]), (adjusted, row["adjusted"]), (drifted, row["drifted"])):
            metric.labels(row["column"], row["feature"]).set(float(value))
    pool = gauge("pool_p_value", "p-value of the kernel pool", "view")
    for view in found["pool"]:
        pool.labels(view["name"]).set(view["p_value"])
    segments = gauge("segment_drifted", "Features that drifted within a segment", "by", "segment")
    for segment in found["segments"]:
        segments.labels(found["by"], segment["value"]).set(len(segment["features"]))
    return generate_latest(registry).decode()
