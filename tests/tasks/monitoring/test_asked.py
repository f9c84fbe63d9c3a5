from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import LakeError
from infra.lake import Lake, Ref
from tasks.monitoring.asked import apart, documents, texts_of
from tasks.serving.request_log import REQUESTS, SCHEMA
from tasks.text.embeddings import DIMENSION

AT = datetime(2026, 9, 21, 8, 30, tzinfo=UTC)


def test_the_texts_of_a_window_come_from_the_log(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    prompts = ["what is a queue", None, "what is a queue", "  ", "and a kitchen", "asked in another window"]
    times = [AT + timedelta(seconds=k) for k in range(len(prompts))]
    blank = dict.fromkeys(SCHEMA.names) | {"run_id": "serve", "embedding": [0.0] * DIMENSION}
    rows = [
        blank | {"request_id": str(k), "time": time, "prompt": prompt}
        for k, (time, prompt) in enumerate(zip(times, prompts, strict=True))
    ]
    log = lake.write(f"{REQUESTS}/{AT:%Y%m%dt%H}", pa.Table.from_pylist(rows, SCHEMA))
    names = [str(k) for k in range(len(prompts))]
    window = pa.table({"window": ["w"] * 5 + ["v"], "request_id": names, "time": times})
    data = lake.write("monitoring/watch_windows", window)
    assert texts_of(lake, data, "w") == ["what is a queue", "and a kitchen"]
    assert texts_of(lake, data, "another") == []
    assert texts_of(lake, lake.write("monitoring/windows", pa.table({"window": ["w"]})), "w") == []
    lake.remove(log)  # its time was up
    assert texts_of(lake, data, "w") == []
    with pytest.raises(LakeError):
        texts_of(lake, Ref("monitoring/watch_windows", "0" * 16), "w")


def test_what_is_judged_on_is_never_learned() -> None:
    texts = [f"Question {k}" for k in range(1000)]
    learned, judged = apart([*texts, *(text.upper() + " " for text in texts)])
    assert len(learned) + len(judged) == 2000
    assert not {t.lower().strip() for t in learned} & {t.lower().strip() for t in judged}
    assert 300 < len(judged) < 500


def test_what_repeats_a_judged_text_is_not_learned() -> None:
    said = [" ".join(f"word{k}x{n}" for n in range(20)) for k in range(50)]
    changed = [" ".join([*text.split()[:-2], "another", "end"]) for text in said]
    learned, judged = apart([*said, *changed])
    assert len(judged) > 10
    assert not {text.split()[0] for text in learned} & {text.split()[0] for text in judged}
    assert len(learned) + len({text.split()[0] for text in judged}) * 2 >= 100


@given(st.lists(st.text("ab ", min_size=1), max_size=30), st.integers(1, 9))
def test_documents_hold_all_texts_in_order(texts: list[str], words: int) -> None:
    found = documents(texts, words)
    assert "\n\n".join(found) == "\n\n".join(texts)
    assert all(len(text.split()) >= words for text in found) or len(found) == 1
