from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curation.index.near_duplicates import normalised_words
from tasks.curation.index.shingles import PERMUTATIONS, distinct, signatures, sketch

# The two characters whose lower case depends on their neighbours or is two characters long.
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="Σİ"), max_size=60)


def sets_of(texts):
    sketches = sketch(texts)
    return [sketches.shingles[a:b] for a, b in pairwise([0, *sketches.ends.tolist()])]


@given(PLAIN)
@settings(deadline=None, max_examples=300)
def test_words_are_those_of_the_regular_expression(text):
    words = normalised_words(text)
    found = sketch([text, " ".join(words)])
    assert found.n_words.tolist() == [len(words)] * 2
    assert (found.fingerprints[0] == found.fingerprints[1]).all()


def test_every_character_belongs_to_a_word_exactly_where_the_regular_expression_says_so():
    points = [chr(p) for p in range(0x110000) if not 0xD800 <= p < 0xE000 and chr(p) not in "Σİ"]
    assert sketch(points).n_words.tolist() == [len(normalised_words(c)) for c in points]


@given(st.lists(st.sampled_from("abc"), max_size=30))
@settings(deadline=None)
def test_a_set_has_one_shingle_for_each_distinct_run_of_five_words(words):
    runs = {tuple(words[k : k + 5]) for k in range(max(1, len(words) - 4))} if words else set()
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


def test_fingerprints_see_order_case_and_punctuation_as_words_do():
    marks = sketch(["Use, copy\nand MODIFY!", "use copy and modify", "copy use and modify"]).fingerprints
    assert (marks[0] == marks[1]).all()
    assert (marks[1] != marks[2]).any()
