"""Two tables compared: kinds of real tables that other tools stumble over, the level, and the effect size."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tasks.monitoring.compare import Comparison, Question, compare
from tasks.monitoring.tables.features import Feature, adjust, column_features, independence, shown
from tasks.monitoring.tables.layout import Column, Kind, Layout
from tasks.text.samples import sample_passages

N = 400
QUICK = Question(permutations=199)


def people(seed: int, n: int = N) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "age": rng.normal(40, 10, n),
        "income": rng.lognormal(10, 1, n),
        "plan": rng.choice(["free", "pro", "team"], n, p=[0.6, 0.3, 0.1]),
        "clicks": rng.poisson(5, n),
    }


def compared(change: Callable[[dict[str, Any], dict[str, Any]], None], question: Question = QUICK) -> Comparison:
    before, now = people(0), people(1)
    change(before, now)
    found = compare(pa.table(before), pa.table(now), question)
    json.dumps(found.asdict(), allow_nan=False)  # valid JSON whatever the values are
    return found


def lost(values: Any, count: int) -> pa.Array:
    return pa.array(values, mask=np.arange(len(values)) % (len(values) // count) == 0)


def test_tables_of_one_distribution_are_no_drift_and_the_line_says_over_what() -> None:
    found = compared(lambda before, now: None)
    assert found.verdict == "no drift"
    assert "4 of 4 common columns compared" in found.line()


def test_a_column_without_a_value_is_named_and_left_out() -> None:
    found = compared(lambda b, n: (b.update(x=pa.nulls(N, pa.float64())), n.update(x=pa.nulls(N, pa.float64())))[0])
    assert found.verdict == "no drift"
    assert "4 of 5 common columns compared; not compared: x" in found.line()


def test_a_column_that_lost_all_its_values_is_drift() -> None:
    found = compared(lambda b, n: n.update(age=pa.nulls(N)))
    assert found.verdict == "drift"
    assert found.features[0].how == "missing 0.0% before, 100.0% now"


def test_a_few_missing_values_hide_no_drift() -> None:
    found = compared(lambda b, n: (b.update(age=lost(b["age"], 8)), n.update(age=lost(n["age"] + 15, 8)))[0])
    assert found.verdict == "drift"
    assert found.drifted_columns == ("age",)
    assert {f.feature for f in found.features if not f.drifted} >= {"age: missing"}


def test_growing_missingness_is_drift() -> None:
    found = compared(lambda b, n: n.update(income=lost(n["income"], 200)))
    assert found.verdict == "drift"
    assert [f.feature for f in found.features if f.drifted] == ["income: missing"]


def test_one_infinity_is_a_value_like_another() -> None:
    found = compared(lambda b, n: n.update(age=np.where(np.arange(N) == 3, np.inf, n["age"])))
    assert found.verdict == "no drift"


def test_broken_vectors_are_missing_ones_and_the_others_are_compared() -> None:
    rng = np.random.default_rng(0)

    def vectors(broken: int) -> pa.Array:
        values = rng.normal(size=(N, 8))
        values[:broken, 0] = np.nan
        return pa.array(values.tolist(), pa.list_(pa.float64(), 8))

    found = compare(pa.table({"emb": vectors(50)}), pa.table({"emb": vectors(50)}), QUICK)
    assert found.verdict == "no drift"
    grown = compare(pa.table({"emb": vectors(0)}), pa.table({"emb": vectors(50)}), QUICK)
    assert [f.how for f in grown.features if f.drifted] == ["missing 0.0% before, 12.5% now"]
    assert next(view for view in grown.views if view.name == "emb").p_value > 0.05


def test_a_column_that_is_gone_is_a_finding_of_its_own() -> None:
    found = compared(lambda b, n: (n.pop("income"), n.update(extra=n["age"]))[1])
    assert found.verdict == "schema drift"
    assert "schema: income: gone, extra: new" in found.line()


def test_a_column_that_cannot_be_compared_is_never_called_no_drift() -> None:
    odd = pa.array([(1, 2, 3)] * N, pa.month_day_nano_interval())
    found = compared(lambda b, n: (b.update(odd=odd), n.update(odd=odd))[0])
    assert found.verdict == "incomplete"
    assert "not compared: odd" in found.line()


def test_categories_of_pandas_and_integers_beyond_a_float_are_compared() -> None:
    before, now = pd.DataFrame(people(0)), pd.DataFrame(people(1))
    for frame in (before, now):
        frame["plan"] = pd.Categorical(frame["plan"])
        frame["id"] = 2**60 + frame["clicks"]
    assert compare(before, now, QUICK).verdict == "no drift"
    now["id"] += 2
    now["plan"] = now["plan"].cat.add_categories("gold").where(np.arange(N) % 3 > 0, "gold")
    found = compare(before, now, QUICK)
    assert set(found.drifted_columns) == {"plan", "id"}
    assert any(f.how.startswith("'gold' 0.0% before, 33.") for f in found.features)


def test_segments_say_where_it_moved_and_small_ones_are_named() -> None:
    def older_pros(before: dict[str, Any], now: dict[str, Any]) -> None:
        now["age"] = now["age"] + 12 * (now["plan"] == "pro")
        now["plan"] = np.where(np.arange(N) < 5, "gold", now["plan"])

    found = compared(older_pros, Question(by="plan", permutations=199))
    assert found.drifted_segments == ("pro",)
    pro = next(segment for segment in found.segments if segment.value == "pro")
    assert [f.feature for f in pro.features] == ["age"]
    gold = next(segment for segment in found.segments if segment.value == "gold")
    assert (gold.rows, gold.note) == ((0, 5), "fewer than 20 rows")
    with pytest.raises(ValueError, match="no column 'tariff' to divide it by"):
        compared(lambda b, n: None, Question(by="tariff"))


def test_a_large_table_does_not_alarm_over_nothing() -> None:
    rng = np.random.default_rng(2)
    before, now = (pa.table({"x": rng.normal(shift, 1, 100_000)}) for shift in (0.0, 0.05))
    found = compare(before, now, QUICK)
    (feature,) = found.features
    assert feature.adjusted < 1e-6  # as unlikely as can be
    assert 0.01 < feature.distance < 0.05  # and as small: half the normal density times .05 is .02
    assert found.verdict == "no drift"
    assert compare(before, now, Question(effect=0.01, permutations=199)).verdict == "drift"
    assert found.looked_at == (50_000, 50_000)


def test_of_five_hundred_columns_the_three_that_moved_are_found() -> None:
    rng = np.random.default_rng(3)
    before, now = rng.normal(size=(500, 500)), rng.normal(size=(500, 500))
    now[:, :3] += 0.5
    tables = [pa.table({f"c{k}": part[:, k] for k in range(500)}) for part in (before, now)]
    found = compare(tables[0], tables[1], QUICK)
    assert {"c0", "c1", "c2"} <= set(found.drifted_columns)
    assert len(found.drifted_columns) <= 4
    assert len(found.layout.columns) == 500


def test_without_drift_it_is_said_as_seldom_as_the_level_promises() -> None:
    tables = [people(100 + seed, 120) for seed in range(120)]
    alarms = sum(
        compare(pa.table(one), pa.table(two), Question(level=0.1, permutations=99)).verdict == "drift"
        for one, two in zip(tables[::2], tables[1::2], strict=True)
    )
    assert alarms <= 12  # of 60 at the level .1: at most 12 in 99.0 % of all cases


def test_texts_that_moved_are_shown_by_examples() -> None:
    base = [text for _, text in sample_passages("base", per_label=2)][:80]
    second = [text for _, text in sample_passages("second", per_label=2)][:40]
    found = compare(pa.table({"q": base[:40]}), pa.table({"q": base[40:60] + second[:20]}), QUICK)
    assert "q" in found.drifted_views
    assert set(found.examples["q"]["now"]) <= {text[:240] for text in second}
    assert len(found.examples["q"]["before"]) == 3


def test_too_few_rows_and_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="the current table has 5 rows; at least 20 are needed"):
        compare(pa.table(people(0)), pa.table(people(1, 5)))
    with pytest.raises(ValueError, match="the level is a probability"):
        Question(level=1)
    with pytest.raises(ValueError, match="the effect is a share"):
        Question(effect=-0.1)


def feature(p: float, distance: float = 0.5) -> Feature:
    return Feature("x", "x", distance, p, None, None, "", (1, 1))


def test_the_p_values_are_adjusted_by_benjamini_and_hochberg() -> None:
    found = adjust([feature(p) for p in (0.01, 0.02, 0.03, 0.5)], 0.05, 0.1)
    assert [f.adjusted for f in found] == pytest.approx([0.04, 0.04, 0.04, 0.5])
    assert [f.drifted for f in found] == [True, True, True, False]
    assert not adjust([feature(1e-9, distance=0.05)], 0.05, 0.1)[0].drifted
    assert adjust([], 0.05, 0.1) == []


def test_the_tests_agree_with_closed_forms() -> None:
    """Fisher's tea: 3 of 4 against 1 of 4 has p = 34/70; the distance is the difference of the shares."""
    layout = Layout((Column("tea", Kind.CATEGORY),))
    (found,) = column_features(layout, pa.table({"tea": list("mmmt")}), pa.table({"tea": list("mttt")}))
    assert found.p_value == pytest.approx(34 / 70)
    assert (found.distance, found.before, found.now) == (0.5, 0.75, 0.25)
    numbers = Layout((Column("x", Kind.NUMBER),))
    (apart,) = column_features(numbers, pa.table({"x": [1.0, 2, 3, 4]}), pa.table({"x": [5.0, 6, 7, 8]}))
    assert (apart.distance, apart.p_value) == (1.0, pytest.approx(2 / 70))  # 2 of the 8 over 4 orders are as far apart


def test_what_moved_in_one_segment_comes_before_what_moved_everywhere() -> None:
    def table(seed: int, moved: bool) -> pa.Table:
        rng = np.random.default_rng(seed)
        plan = rng.choice(["free", "pro"], 800)
        age = rng.normal(40, 10, 800) + np.where((plan == "pro") & moved, 8, 0)
        return pa.table({"plan": plan, "age": age, "income": rng.normal(0, 1, 800) + 2 * moved})

    found = compare(table(1, False), table(2, True), Question(by="plan", permutations=19))
    first = {segment.value: [f.column for f in segment.features] for segment in found.segments}
    assert first["pro"] == ["age", "income"]
    assert first["free"] == ["income"]


def test_equal_medians_give_way_to_means() -> None:
    before, now = ([0] * 60 + [1] * 40) * 3, ([0] * 60 + [9] * 40) * 3
    found = compare(pa.table({"x": before}), pa.table({"x": now}), Question(permutations=19))
    assert found.features[0].how == "mean 0.4 before, 3.6 now"


def test_rare_levels_that_are_gone_and_new_do_not_cancel() -> None:
    rng = np.random.default_rng(0)
    before, now = ([f"{k}%" for k in rng.integers(first, first + 70, N)] for first in (0, 30))
    found = compare(pa.table({"x": before}), pa.table({"x": now}), QUICK)
    assert (found.verdict, [f.feature for f in found.features if f.drifted]) == ("drift", ["x"])


def test_the_p_values_of_rare_levels_keep_the_level() -> None:
    rng = np.random.default_rng(0)
    draws = [rng.multinomial(300, np.full(100, 0.01), size=2) for _ in range(2000)]
    p = np.array([independence(np.asarray(t[:, t.sum(axis=0) > 0], float)) for t in draws])
    for level in (0.05, 0.01):  # a binomial share of 2,000
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 2000))


def test_a_column_named_like_a_field_and_values_at_the_ends_of_floats_are_compared() -> None:
    def change(before: dict[str, Any], now: dict[str, Any]) -> None:
        for table in (before, now):
            table["a.b"] = table["age"]
            table["a"] = pa.array([{"b": float(value)} for value in table["income"]])
            table["ends"] = np.where(table["clicks"] > 4, 1e308, -1e308)

    found = compared(change)
    assert found.verdict == "no drift"
    assert {"a.b", "a.b~2", "ends"} <= {f.feature for f in found.features}


def test_segments_need_values_that_name_them() -> None:
    table = pa.table({**people(0), "g": [[1]] * N})
    with pytest.raises(ValueError, match=r"'g' holds .*list.*, whose values name no segments"):
        compare(table, table, Question(by="g"))


def _found(before: Any, now: Any) -> Comparison:
    return compare(pa.table({"v": pa.array(before)}), pa.table({"v": pa.array(now)}), Question(permutations=99))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([f"user_{k:06d}" for k in range(100)], [f"user_{k:06d}" for k in range(100, 200)]),
        ([f"req-{k}" for k in range(950, 1050)], [f"req-{k}" for k in range(1050, 1150)]),
        ([f"user_{k * 37 % 101:06d}" for k in range(101)], [f"user_{101 + k * 37 % 101:06d}" for k in range(101)]),
        ([k * 37 % 101 for k in range(101)], [101 + k * 37 % 101 for k in range(101)]),
        ([f"2024-01-{1 + k // 4:02d}" for k in range(100)], [f"2024-02-{1 + k // 4:02d}" for k in range(100)]),
        ([1.7e9 + 60 * k for k in range(100)], [1.71e9 + 60 * k for k in range(100)]),
        ([1.0] * 100, [1.0] * 100),
    ],
    ids=["padded ids", "ids", "shuffled ids", "shuffled numbers", "dates as text", "seconds since 1970", "constant"],
)
def test_what_counts_rows_or_tells_the_time_is_no_drift(before: Any, now: Any) -> None:
    found = _found(before, now)
    assert (found.verdict, [out.column for out in found.layout.left_out]) == ("no drift", ["v"])


@pytest.mark.parametrize("now", [[1] * 100, [str(k) for k in range(100)], [[0.5] * 3] * 100])
def test_tables_of_which_only_the_schema_can_be_compared_have_a_verdict(now: Any) -> None:
    found = _found([True, False] * 50, now)
    assert (found.verdict, [change.change for change in found.layout.schema][:1]) in (
        ("schema drift", ["type"]),
        ("schema drift", ["gone"]),
    )


@pytest.mark.parametrize("written", ["{:,.2f}", "${:,.2f}", "{:.1f} %", "comma"])
def test_numbers_written_as_text_are_compared_as_numbers(written: str) -> None:
    rng = np.random.default_rng(3)

    def texts(mean: float) -> list[str]:
        comma = written == "comma"
        said = [("{:,.2f}" if comma else written).format(x) for x in rng.normal(mean, 900, 300)]
        return [text.translate(str.maketrans(",.", ".,")) for text in said] if comma else said

    found = _found(texts(5000), texts(5500))
    assert (found.drifted_columns, str(found.layout.columns[0].kind)) == (("v",), "number")
    assert _found(texts(5000), texts(5000)).verdict == "no drift"
    codes = [f"+49 170 {k}" for k in rng.integers(10**6, 10**7, 300)]
    assert str(_found(codes, codes).layout.columns[0].kind) == "text"


def test_times_beyond_the_calendar_have_a_year() -> None:
    assert (shown(2.0**62, pa.timestamp("us")), shown(4e6, pa.date32())) == ("the year 148109", "the year 12922")


def test_the_row_labels_of_pandas_are_no_column() -> None:
    frame = pd.DataFrame({"v": np.random.default_rng(0).normal(size=200), "mixed": [1, "a", None, 2.5] * 50})
    assert compare(frame, frame[frame.v > -9].sample(frac=1, random_state=1)).verdict == "no drift"
