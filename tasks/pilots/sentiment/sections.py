"""Further tables of the page: the heads by encoder, and the published break-even with its third column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.outlook import published_break_even as published
from tasks.pilots.claim import Seen
from tasks.sections import Section
from tasks.statistics import mean_interval

WIDTHS = (14, 20, 26, 30, 34, 38, 42, 46)
BANDS = (5, 50, 95)


def sections(seen: Sequence[Seen]) -> tuple[Section, ...]:
    """Return the heads by encoder and the three energies by width."""
    return (*_heads([entry for entry in seen if not entry.noisy]), _break_even())


def _heads(seen: Sequence[Seen]) -> tuple[Section, ...]:
    rows = []
    for source in dict.fromkeys(entry.source for entry in seen):
        named = {entry.name: entry for entry in seen if (entry.source, entry.arm) == (source, "logistic")}
        for arm in dict.fromkeys(entry.arm for entry in seen if entry.source == source):
            found = [entry for entry in seen if (entry.source, entry.arm) == (source, arm)]
            paired = [e for e in found if e.name in named]
            gaps = np.array([e.quality - named[e.name].quality for e in paired])
            spread = mean_interval(gaps, [e.unit for e in paired]) if len(gaps) else None
            rows.append(
                (source, arm, float(np.mean([e.quality for e in found])), len(found),
                 float(gaps.mean()) if len(gaps) else None, f"[{spread[0]:+.4f}, {spread[1]:+.4f}]" if spread else "-")
            )  # fmt: skip
    if not rows:
        return ()
    return (
        Section(
            "Heads by encoder",
            "Differences are paired on the same split with logistic regression on all features.",
            ("encoder", "head", "share of right labels", "n", "against logistic", "95 %"),
            tuple(rows),
        ),
    )


def _break_even() -> Section:
    from tasks.outlook.assumptions import load_assumptions  # reads coefficient files, which arms must not

    assumed = load_assumptions()
    name = "hardware.trapped_ion"
    device = published.device_j(*(assumed.draws(f"{name}.{part}") for part in ("power", "job", "shot")))
    joules, updates = assumed.draws("cpu.w_core"), assumed.draws("fault_tolerant.amplitude_updates")
    head = published.LOGISTIC_FLOPS / assumed.draws("fault_tolerant.flops") * joules
    crossing = published.crossing_qubits(device, joules, updates)
    rows = tuple(
        (width, published.simulation_over_device(width), _band(device),
         _band(published.simulation_j(width, joules, updates)), _band(head))
        for width in WIDTHS
    )  # fmt: skip
    low, middle, high = np.percentile(crossing, BANDS)
    return Section(
        "The published break-even, and the column that it left out",
        "One circuit on a trapped-ion device, its simulation, and a logistic regression fitted on a few hundred "
        "embeddings. The published crossing of the first two lies at 34 qubits; by our coefficients it lies at "
        f"{middle:.0f} [{low:.0f}, {high:.0f}]. Against the third there is none at any width: the device takes "
        f"{np.median(device / head):.1e} times its joules for a single circuit.",
        ("qubits", "simulation / device by the published shapes", f"J on a device, {published.SHOTS} shots",
         "J of simulating it", "J of the classical head"),
        rows,
    )  # fmt: skip


def _band(draws: published.Array) -> str:
    low, middle, high = np.percentile(draws, BANDS)
    return f"{middle:.3g} [{low:.2g}, {high:.2g}]"
