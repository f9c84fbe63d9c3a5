import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tasks.curation.index.corpus import unique_names


def renamed(*parts: list[str]) -> tuple[list[str], int]:
    names, changed = unique_names([pa.chunked_array([part], pa.string()) for part in parts])
    return names.to_pylist(), changed


def test_of_equal_names_the_later_ones_get_an_ending_also_across_shards() -> None:
    assert renamed(["a", "b", "a"], ["c", "a"]) == (["a", "b", "a~2", "c", "a~3"], 2)
    assert renamed(["a", "b"], []) == (["a", "b"], 0)
    assert renamed() == ([], 0)


def test_an_ending_that_somebody_gave_already_is_passed_over() -> None:
    names, changed = renamed(["a", "a~2"], ["a"])
    assert names == ["a", "a~2", "a~3"]
    assert changed == 1


@given(st.lists(st.lists(st.sampled_from(["a", "b", "a~2", "a~3", "a~2~2", ""]), max_size=8), max_size=4))
def test_names_always_differ_and_a_name_that_occurs_once_stays(parts: list[list[str]]) -> None:
    before = [name for part in parts for name in part]
    after, changed = renamed(*parts)
    assert len(set(after)) == len(after) == len(before)
    assert changed == sum(a != b for a, b in zip(after, before, strict=True))
    assert all(a == b for a, b in zip(after, before, strict=True) if before.count(b) == 1)
