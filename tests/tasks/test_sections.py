"""Sections of every stage, made from small facts; values by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.contract import STAGES
from tasks.sections import Chart, Section, Series, Step, Waterfall, counts, line, plain
from tasks.stage import stage_module


def of(stage: str, **facts: Any) -> dict[str, Section]:
    return {section.title: section for section in stage_module(stage).sections(facts)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_without_facts_shows_nothing(stage: str) -> None:
    assert stage_module(stage).sections({}) == ()


def test_curation_shows_what_was_dropped_and_removed() -> None:
    found = of(
        "curation",
        documents_read={"base": 9, "second": 5},
        candidates={"base": 7},
        documents_kept={"base": 6},
        bytes_kept={"base": 60},
        bytes_repeated={"base": 10},
        dropped_by_rule={"length": 2},
        removed={"exact_duplicates": 1},
        component_sizes={"10": 1, "2": 4},
        truth={"pairs": 3, "precision": 1.0, "recall": 0.5},
    )
    assert found["Documents"].rows == (("base", 9, 7, 6, 60, 10), ("second", 5, 0, 0, 0, 0))
    assert "recall 0.500" in found["Documents"].sentence
    assert found["Dropped by rule"].rows == (("length", 2),)
    assert found["Removed duplicates"].rows == (("exact duplicates", 1),)
    chart = found["Near-duplicate components"].chart
    assert isinstance(chart, Chart)
    assert chart.series == (Series("components", ((2, 4), (10, 1))),)


def test_preprocessing_shows_splits_and_tokens() -> None:
    part = {"documents": 2, "windows": 3, "tokens": 40, "bytes_per_token": 2.5, "tokens_per_word": 1.5}
    found = of("preprocessing", documents={"train": 2}, statistics={"base/train": part}, context=8, vocab_size=99)
    assert found["Documents by split"].rows == (("train", 2),)
    assert found["Tokens"].rows == (("base/train", 2, 3, 40, 2.5, 1.5),)


def test_architecture_shows_the_shape() -> None:
    found = of("architecture", shape={"depth": 2, "width": 64}, parameters=1000, weights_mb=0.5)
    assert found["Shape of the model"].rows == (
        ("depth", 2),
        ("width", 64),
        ("parameters", 1000),
        ("weights, MiB", 0.5),
    )


def test_training_shows_curve_references_and_samples() -> None:
    found = of(
        "training",
        before={"test": 4.0},
        after={"test": 3.0},
        references={"validation": {"zlib": 2.5}, "test": {"zlib": 2.6}},
        curve=[[0, 4.0], [10, 3.0]],
        losses=[[5, 3.5], [10, 3.2]],
        samples={str(step): f"text {step}" for step in range(5)},
    )
    assert found["Held-out text"].header == ("split", "before", "after", "zlib")
    assert found["Held-out text"].rows == (("test", 4.0, 3.0, 2.6),)
    curve, loss = found["Training curve"].chart, found["Training loss"].chart
    assert curve == Chart(curve.x, curve.y, (Series("held-out bits per byte", ((0, 4.0), (10, 3.0))),), (("zlib", 2.5),)) if curve else False  # noqa: E501  # fmt: skip
    assert loss is not None
    assert loss.series[0].points == ((5, 3.5), (10, 3.2))
    assert found["What the model writes"].rows == (("0", "text 0"), ("2", "text 2"), ("4", "text 4"))


def test_finetuning_shows_gain_and_forgetting() -> None:
    figures = {"gain": 0.2, "forgetting": 0.1, "trained_weights": 5, "trained_share": 0.5, "tokens": 9}
    found = of("finetuning", lora={**figures, "curve": [[0, 3.0], [9, 2.8]]}, full={**figures, "curve": []})
    assert sorted(found["Gain and forgetting"].rows) == [
        ("LoRA", 0.2, 0.1, 5, 0.5, 9, None),
        ("full fine-tuning", 0.2, 0.1, 5, 0.5, 9, None),
    ]
    chart = found["Fine-tuning curve"].chart
    assert isinstance(chart, Chart)
    assert [series.name for series in chart.series] == ["LoRA"]


def test_inference_shows_what_pruning_cost() -> None:
    found = of(
        "inference",
        bits_per_byte={"before": {"base": 2.0}, "pruned": {"base": 2.1, "second": 3.0}},
        removed_units=["block 1"],
        parameters={"removed_share": 0.25},
        pruning_curve=[[0, 2.0], [1, 2.1]],
        served={"prompt": "a", "text": "b"},
    )
    assert found["Pruning"].rows == (("before", 2.0, None), ("pruned", 2.1, 3.0))
    assert "Removed: block 1: 25.0% of the weights." in found["Pruning"].sentence
    chart = found["Pruning curve"].chart
    assert isinstance(chart, Chart)
    assert chart.levels == (("whole model", 2.0),)
    assert found["What the served model writes"].rows == (("a", "b"),)
    assert "Nothing was removed." in of("inference", bits_per_byte={"before": {"base": 2.0}})["Pruning"].sentence


def test_monitoring_shows_each_window() -> None:
    facts = {
        "windows": ["w1", "w2"],
        "p_values": [0.5, 0.002],
        "states": ["ok", "alert"],
        "requests": {"w1": 4, "w2": 4},
    }
    new = {"drifted": [False, True], "announced": [None, "drift.detected"], "alarm_level": 0.01}
    section = of("monitoring", **facts, **new)["Drift over time"]
    assert section.rows[1] == ("w2", 4, "yes", 0.002, "alert", "drift.detected", None, None)
    assert isinstance(section.chart, Chart)
    assert section.chart.series[0].points == ((1, 0.5), (2, 0.002))
    assert section.chart.levels == (("alarm level 0.01", 0.01),)
    earlier = of("monitoring", **facts)["Drift over time"]
    assert earlier.rows[0] == ("w1", 4, None, 0.5, "ok", None, None, None)


def test_plain_sections_survive_json() -> None:
    section = Section("T", "S.", ("a", "b"), (("x", 1), ("y", None)), Chart("x", "y", line("s", [[0, 1.0], [1, 2.0]])))
    [found] = json.loads(json.dumps(plain([section])))
    assert found["rows"] == [["x", 1], ["y", None]]
    assert found["chart"]["series"] == [{"name": "s", "points": [[0, 1.0], [1, 2.0]]}]


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="shows nothing"):
        Section("T")
    with pytest.raises(ValueError, match="not as long as its header"):
        Section("T", header=("a",), rows=(("x", 1),))
    with pytest.raises(ValueError, match="at least one point"):
        Chart("x", "y", ())
    with pytest.raises(ValueError, match="above 0"):
        Chart("x", "y", (Series("s", ((0, 1.0),)),), log="x")
    with pytest.raises(ValueError, match="finite"):
        Chart("x", "y", (Series("s", ((0, float("nan")),)),))
    with pytest.raises(ValueError, match="at least one step"):
        Waterfall("J", ())
    with pytest.raises(ValueError, match="behind one of 1 steps"):
        Waterfall("J", (Step("a", "b", 1.0),), (("all", 2),))
    assert line("s", [[0, 1.0]]) == ()
    assert counts("T", ("a", "b"), {}) == ()
