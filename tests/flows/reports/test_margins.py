"""Margins from the lengths of texts, held against the extents that Matplotlib measures."""

from __future__ import annotations

from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flows.reports.charts import WIDTH, style
from flows.reports.margins import Margins


def placed(names: list[str], columns: int = 1, legend: int = 0, height: float = 3.0) -> Figure:
    figure = Figure(figsize=(WIDTH, height), layout=Margins())
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for number, ax in enumerate(axes):
        ax.plot([0.125, 0.25, 1000], [0, 1, 2])
        ax.set_xlabel("joules spent,\nlog scale")
        if number:
            ax.yaxis.set_visible(b=False)
    if names:
        axes[0].set_yticks(range(len(names)), names)
    else:
        axes[0].set_ylabel("bits per byte\n(validation text)")
    if legend:
        handles = [Line2D([], [], label=f"kind {number}") for number in range(legend)]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    return figure


@pytest.mark.parametrize("names", [[], ["pca", "svd", "mps"], ["trotterised-annealing-exact", "two\nlines", "qaoa"]])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("legend", [0, 2, 5])
def test_all_labels_are_inside_and_nothing_overlaps(names: list[str], columns: int, legend: int) -> None:
    with style():
        figure = placed(names, columns, legend)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        width, height = figure.get_size_inches() * figure.dpi
        boxes = [ax.get_tightbbox(renderer) for ax in figure.axes]
        for box in boxes:
            assert box is not None
            assert box.x0 > -0.01 * width
            assert box.y0 > -0.01 * height
            assert box.x1 < 1.01 * width
        for left, right in pairwise(boxes):
            assert left is not None
            assert right is not None
            assert left.x1 < right.x0 + 0.01 * width
        for its in figure.legends:
            assert its.get_window_extent(renderer).y0 > max(ax.get_window_extent(renderer).y1 for ax in figure.axes)


def test_room_that_labels_do_not_need_is_for_the_chart() -> None:
    short, long = (placed([name, "b", "c"]).axes[0].get_position() for name in ("a", "trotterised-annealing-exact"))
    assert short.width > 0.8
    assert 0.4 < long.width < short.width
    assert short.height > 0.7


def test_turned_labels_get_their_length_below() -> None:
    figure = placed(["a", "b", "c"])
    figure.axes[0].set_xticks([0, 500], ["2026-11-01 night", "2026-11-02 night"], rotation=60)
    Margins().execute(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    box = figure.axes[0].get_tightbbox(renderer)
    assert box is not None
    assert box.y0 > -2
