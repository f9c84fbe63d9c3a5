"""Further tables of the clinical page: splits, both AUCs of every method, the geometric difference as a veto."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tasks.pilots.claim import Seen
from tasks.sections import Section

JUDGED, PUBLISHED = "breast cancer", ("qdc-exact", "qksvm-exact", "sqksvm-exact")
QUANTUM, SAME = "qksvm-tuned-exact", ("logistic", "svm", "boosting")
GAIN = 0.01  # of the AUC: the tolerance of the decision
SHARE = 0.1  # of the square root of the number of rows, below which the difference is small


def sections(seen: Sequence[Seen]) -> tuple[Section, ...]:
    """Return all tables, of what ran without noise."""
    ideal = [entry for entry in seen if not entry.noisy]
    return (*_splits(ideal), *_both_curves(ideal), *_veto(ideal))


def _setting(entry: Seen) -> tuple[str, str]:
    return entry.source, "draws" if "draw" in entry.name else entry.name.partition(",")[0]


def _splits(seen: Sequence[Seen]) -> tuple[Section, ...]:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in seen:
        if entry.source == JUDGED and "N=8, fold" in entry.name and entry.arm in PUBLISHED:
            split = entry.name.partition("split ")[2] or "0"
            found[split][entry.arm].append(entry.measures["auc_labels"])
    rows = tuple(
        (int(split), *(float(np.mean(arms[arm])) if arm in arms else None for arm in PUBLISHED))
        for split, arms in sorted(found.items())
    )
    sentence = "AUC of labels on breast cancer at N = 8, the published figure, for each split into ten folds."
    return (Section("How much the split into folds matters", sentence, ("split", *PUBLISHED), rows),) if rows else ()


def _both_curves(seen: Sequence[Seen]) -> tuple[Section, ...]:
    found: dict[tuple[str, str], dict[str, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    for entry in seen:
        found[_setting(entry)][entry.arm].append(entry)
    rows = []
    for (source, which), arms in sorted(found.items()):
        for arm, entries in arms.items():
            hard = float(np.mean([e.measures["auc_labels"] for e in entries]))
            rows.append((source, which, arm, len(entries), hard, float(np.mean([e.quality for e in entries]))))
    sentence = (
        "The published figure is the AUC of hard labels, which is the balanced accuracy. The AUC of the scores uses "
        "what the same model knows beside its labels. Draws: 20 known and 20 tested patients, N = 8, with circuits."
    )
    header = ("table", "features", "arm", "n", "AUC of labels", "AUC of scores")
    return (Section("AUC of labels and of scores", sentence, header, tuple(rows)),) if rows else ()


def _veto(seen: Sequence[Seen]) -> tuple[Section, ...]:
    best: dict[tuple[str, str], float] = {}
    for entry in seen:
        if entry.arm in SAME:
            key = entry.source, entry.name
            best[key] = max(best.get(key, 0.0), entry.quality)
    tried = [e for e in seen if e.arm == QUANTUM and (e.source, e.name) in best]
    if not tried:
        return ()
    gains = np.array([e.quality > best[e.source, e.name] + GAIN for e in tried])
    differences = {
        "g > 1 against the linear kernel": np.array([e.measures["difference_linear"] > 1 for e in tried]),
        "g > 1 against the Gaussian kernel": np.array([e.measures["difference_gaussian"] > 1 for e in tried]),
        f"g > {SHARE:g} sqrt m against the Gaussian kernel": np.array(
            [e.measures["difference_share"] > SHARE for e in tried]
        ),
    }
    rows = tuple(
        (rule, int((~passed).sum()), int((~passed & ~gains).sum()), int(passed.sum()), int((passed & gains).sum()),
         float((passed == gains).mean()))
        for rule, passed in differences.items()
    )  # fmt: skip
    sentence = (
        "Before a circuit is run: instances that the geometric difference g of the fidelity to a classical kernel "
        "would veto, and whether the exact quantum machine then gained more than .01 AUC over the best classical one "
        "on the same features. A hit is a veto without gain or a pass with one."
    )
    header = ("rule", "vetoed", "of them without gain", "passed", "of them with gain", "hit rate")
    return (Section("Geometric difference as a veto", sentence, header, rows),)
