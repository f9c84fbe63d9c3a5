from itertools import pairwise
from unicodedata import category, normalize

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curation.index.shingles import PERMUTATIONS, distinct, intersection_over_union, signatures, sketch

# The two characters whose lower case depends on their neighbours or is two characters long.
PLAIN = st.text(st.characters(max_codepoint=0x323FF, exclude_categories=["Cs"], exclude_characters="Σİ"), max_size=60)
UNSPACED = (
    *((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF)),
    *((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
)


def normalised_words(text: str) -> list[str]:
    words, inside = [], False
    for c in normalize("NFC", text):
        letter = c.isalnum() or c == "_" or category(c)[0] == "M" or c in "\u200c\u200d"
        single = letter and any(first <= ord(c) <= last for first, last in UNSPACED)
        lower = c.lower() if len(c.lower()) == 1 else c
        if single or (letter and not inside):
            words.append(lower)
        elif letter:
            words[-1] += lower
        inside = letter and not single
    return words


def sets_of(texts):
    sketches = sketch(texts)
    return [sketches.shingles[a:b] for a, b in pairwise([0, *sketches.ends.tolist()])]


@given(PLAIN)
@settings(deadline=None, max_examples=300)
def test_words_are_those_of_the_regular_expression(text):
    words = normalised_words(text)
    found = sketch([text, " ".join(words)])
    assert found.n_words.tolist() == [len(words)] * 2
    assert found.sequences[0] == found.sequences[1]


def test_every_character_belongs_to_a_word_exactly_where_the_regular_expression_says_so():
    points = [chr(p) for p in range(0x32400) if not 0xD800 <= p < 0xE000 and chr(p) not in "Σİ"]
    assert sketch(points).n_words.tolist() == [len(normalised_words(c)) for c in points]


@given(st.lists(st.sampled_from("abc"), max_size=30))
@settings(deadline=None)
def test_a_set_of_a_short_text_has_one_shingle_for_each_distinct_run_of_two_words(words):
    runs = {tuple(words[k : k + 2]) for k in range(max(1, len(words) - 1))} if words else set()
    sketches = sketch(["before it", " ".join(words)])
    found, ends = distinct(sketches.shingles, sketches.ends, np.array([1]))
    assert ends.tolist() == [len(runs)] == [len(found)]
    assert (np.diff(found.astype(object)) > 0).all()


def test_signatures_are_those_of_datasketch():
    texts = [" ".join(f"w{k % (7 + n)}" for k in range(40 * n)) for n in range(1, 8)] + ["", "one"]
    sketches = sketch(texts)
    for row, shingles in zip(signatures(sketches.shingles, sketches.ends), sets_of(texts), strict=True):
        theirs = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32", hashfunc=int)
        theirs.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
        assert np.array_equal(row, theirs.hashvalues)


def test_a_slice_of_an_arrow_array_is_read_from_where_it_begins():
    texts = pa.array(["a b c d e f", "x", "the quick brown fox jumps", "", "last one"])
    whole = sets_of(texts)
    for a, b in ((0, 2), (1, 4), (4, 5)):
        part = sketch(texts.slice(a, b - a))
        assert np.array_equal(part.shingles, np.concatenate(whole[a:b]))


@pytest.mark.parametrize("text", ["", " ", "...", "a" * 100_000, "é" * 50_000, "a " * 50_000])
def test_texts_of_extreme_shape(text):
    found = sketch([text])
    assert found.n_words[0] == len(normalised_words(text))


def test_nothing_gives_nothing():
    found = sketch([])
    assert len(found.shingles) == len(found.ends) == 0
    assert signatures(found.shingles, found.ends).shape == (0, PERMUTATIONS)


def same(a: str, b: str, *, ignore_case: bool = False) -> bool:
    marks = sketch([a, b], ignore_case=ignore_case).fingerprints
    return bool((marks[0] == marks[1]).all())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a + b", "a - b"), ("-1.5", "+1.5"), ("-1.5", "1.5"), ("C", "C++"), ("C++ it", "C# it"),
        ("a, b", "a ,b"),
        ("😀 so", "😡 so"), ("की", "के"), ("ป้า", "ป่า"), ("किताब", "कातीबो"), ("مُحَمَّد", "محمد"),
        ("Aa", "aA"), ("a.b", "a. b"),
        ("我们", "我 们"), ("ab", "a b"), ("x A", "X a"), ("(a) b", "(a b)"),
        ("use copy", "copy use"), ("Th我 (", "Th 我("),
    ],
)  # fmt: skip
def test_texts_that_differ_in_a_sign_a_mark_or_a_capital_are_no_copies(a: str, b: str) -> None:
    assert not same(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [(" a  b\n\tc", "a b c"), ("", " \n"), *((t, normalize("NFD", t)) for t in ("café Å", "한국어", "क़", "ế", "ガ"))],
)
def test_texts_that_differ_in_white_space_or_normal_form_are_copies(a: str, b: str) -> None:
    assert same(a, b)


def test_case_is_ignored_by_option_only() -> None:
    assert same("Aa.B cD", "aA.b Cd", ignore_case=True)
    assert not same("Aa.B cD", "aA.b Cd")
    assert not same("A.b", "A b", ignore_case=True)


@pytest.mark.parametrize("base", ["The (brown) fox: it's 3.5, isn't it? A-b 我们 c", "a, b. c-d", "我们 a。b"])
def test_every_edit_changes_the_fingerprint(base: str) -> None:
    rng = np.random.default_rng(0)
    texts = set()
    for _ in range(5000):
        characters = list(base)
        for at in rng.integers(len(base), size=int(rng.integers(1, 6))):
            characters[at] = "aAbB .,-+()我"[rng.integers(12)]
        texts.add(" ".join("".join(characters).split()))
    assert len(np.unique(sketch(sorted(texts)).fingerprints, axis=0)) == len(texts)


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    rng = np.random.default_rng(0)
    for first, n, most in ((0x4E00, 996, 0.95), (0x0E01, 1000, 0.95)):
        text = [chr(first + int(k)) for k in rng.integers(40, size=n)]
        other = list(text)
        for at in range(50, n, n // 10)[:10]:
            other[at] = "x" if first == 0x0E01 else "龘"
        sketches = sketch(["".join(text), "".join(other)])
        values, ends = distinct(sketches.shingles, sketches.ends, np.arange(2))
        assert 0.7 < intersection_over_union(values, ends, np.array([(0, 1)]), 0.0)[0] < most
