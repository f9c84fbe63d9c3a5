import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.preprocessing import decontaminate
from tasks.preprocessing.decontaminate import HeldOut, _hashes, _in_order, _pattern


def words(start: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(start, start + count))


def ngram_hashes(text: str, n: int) -> np.ndarray:
    """Return the distinct hashes of a text's n-grams, sorted."""
    return np.unique(_in_order(_hashes(_pattern(text).findall(text)), n))


def shingles(text: str, n: int) -> set[tuple[str, ...]]:
    tokens = text.lower().split()
    n = min(n, len(tokens))
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)} if tokens else set()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=30), st.lists(st.sampled_from(["a", "b"]), max_size=30))
def test_hashes_are_the_sets_of_ngrams(first: list[str], second: list[str]) -> None:
    a, b = " ".join(first), " ".join(second)
    for n in (2, 3, 13):
        assert len(ngram_hashes(a, n)) == len(shingles(a, n))
        common = np.intersect1d(ngram_hashes(a, n), ngram_hashes(b, n))
        assert len(common) == len(shingles(a, n) & shingles(b, n))


def test_case_and_punctuation_do_not_matter_and_order_does() -> None:
    assert ngram_hashes("The cat, sat!", 3).tolist() == ngram_hashes("the CAT sat", 3).tolist()
    assert ngram_hashes("cat the sat", 3).tolist() != ngram_hashes("the cat sat", 3).tolist()


def test_a_planted_passage_is_found_with_its_share() -> None:
    held = HeldOut([("clean", words(0, 60)), ("leaked", words(1000, 40))], n=13)
    # 200 own words and the held-out document of 40: 28 of 228 + ... 13-grams.
    text = f"{words(5000, 200)} {words(1000, 40)}"
    found = held.overlap(text)
    assert found.nearest == "leaked"
    assert found.held_out == 1.0
    assert found.own == pytest.approx(28 / 228)


def test_a_short_piece_of_a_long_held_out_document_is_found_by_its_own_share() -> None:
    held = HeldOut([("long", words(0, 500))], n=13)
    found = held.overlap(words(100, 30))
    assert found.own == 1.0
    assert found.held_out == pytest.approx(18 / 488)


def test_twelve_common_words_are_not_contamination() -> None:
    held = HeldOut([("a", words(0, 100))], n=13)
    assert held.overlap(f"{words(500, 50)} {words(20, 12)} {words(700, 50)}").own == 0.0


def test_a_passage_held_out_twice_counts_for_both() -> None:
    held = HeldOut([("a", words(0, 20)), ("b", words(0, 40))], n=13)
    assert held.overlap(words(0, 20)).nearest == "a"
    assert held.overlap(words(10, 30)).held_out == pytest.approx(18 / 28)


@pytest.mark.parametrize("text", ["", "...", "one"])
def test_texts_without_ngrams_share_nothing(text: str) -> None:
    assert HeldOut([("a", words(0, 50))]).overlap(text).own == 0.0
    assert HeldOut([]).overlap(text).own == 0.0
    assert HeldOut([("empty", "")]).overlap(words(0, 20)).held_out == 0.0


def test_ngrams_that_many_documents_share_do_not_count() -> None:
    notice = words(9000, 58)
    held = HeldOut([(f"h{k}", f"{notice} {words(100 * k, 18)}") for k in range(4)])
    train = [f"{notice} {words(1000 + 100 * k, 18)}" for k in range(30)] + [words(0, 18)]
    assert held.overlap(train[0]).held_out > 0.5
    for text in train:
        held.count(text)
    assert held.ignore_common(10) == 46
    assert held.overlap(train[0]).own == 0.0
    assert held.overlap(train[-1]).own == 1.0


def test_a_passage_is_cut_out_of_a_long_text() -> None:
    held = HeldOut([("h", words(0, 76))])
    before, after = words(10_000, 500), words(20_000, 500)
    pieces = held.pieces(f"{before} {words(10, 45)} {after}")
    assert [len(before) - len(pieces[0]), len(after) - len(pieces[1])] == [pytest.approx(200, abs=2)] * 2
    assert before.startswith(pieces[0])
    assert after.endswith(pieces[1])
    assert held.overlap(" ".join(pieces)).own == 0.0
    assert held.pieces(before) == [before]
    assert held.pieces(words(0, 76)) == []


def test_spans_name_the_held_out_document_that_shares_them() -> None:
    held = HeldOut([("one", words(0, 40)), ("two", words(20, 60))])
    text = f"{words(5000, 30)} {words(0, 20)} {words(6000, 30)} {words(30, 40)} {words(7000, 30)}"
    first, second = held.spans(text)
    assert (text[first.start : first.end], first.held_out) == (words(0, 20), "one")
    assert (text[second.start : second.end], second.held_out) == (words(30, 40), "two")
    assert held.spans(words(5000, 50)) == []


@pytest.mark.parametrize(
    ("held_out", "other"),
    [
        ("这座老桥在河上已经有三百多年了，每天早晨孩子们从桥上走过去上学", "今天天气很好，我们去公园散步吧，明天再来"),
        ("นักเรียนเดินข้ามสะพานเก่าทุกเช้าเพื่อไปโรงเรียนในหมู่บ้าน", "วันนี้อากาศดีมากเราไปเดินเล่นในสวนกันเถอะพรุ่งนี้ค่อยมาใหม่"),
        ("किताब की के का कि में मैं है हैं को क्या क्यों कब कहाँ कौन", "वह " * 30),
    ],
)
def test_every_script_has_ngrams(held_out: str, other: str) -> None:
    held = HeldOut([("a", held_out)])
    assert held.overlap(f"{other} {held_out} {other}").held_out == 1.0
    assert held.overlap(other).held_out == 0.0
    assert len(held.spans(f"{other} {held_out} {other}")) == 1


@pytest.mark.parametrize("count", [5, 8, 12])
def test_a_short_held_out_text_is_found_where_all_of_it_is_repeated(count: int) -> None:
    held = HeldOut([("long", words(0, 60)), ("short", words(1000, count))])
    text = f"{words(5000, 200)} {words(1000, count)} {words(6000, 200)}"
    found = held.overlap(text)
    assert (found.nearest, found.held_out) == ("short", 1.0)
    assert found.own == pytest.approx(1 / 401)
    (span,) = held.spans(text)
    assert (text[span.start : span.end], span.held_out) == (words(1000, count), "short")
    assert all(words(1000, count) not in piece for piece in held.pieces(text))
    assert held.overlap(f"{words(5000, 200)} {words(1000, count - 1)} {words(6000, 200)}").own == 0.0
    for _ in range(20):
        held.count(text)
    assert held.ignore_common(10) == 1
    assert held.overlap(text).own == 0.0


def test_a_few_words_are_not_searched_for() -> None:
    held = HeldOut([("four", words(0, 4)), ("eight characters", "今天天气很好吗"), ("none", "!")])
    assert held.overlap(f"{words(50, 20)} {words(0, 4)} 今天天气很好吗").own == 0.0
    assert HeldOut([("ten", "今天天气很好我们走吧")]).overlap("他说：今天天气很好我们走吧。").held_out == 1.0


@pytest.mark.parametrize(
    ("held_out", "copy"),
    [
        ("Größe und Gewicht ändern sich über Nacht", "Gro\u0308ße und Gewicht a\u0308ndern sich u\u0308ber Nacht"),
        ("the final office of the official file", "the \ufb01nal o\ufb03ce of the of\u00adfi\u00adcial file"),
        ("این کتاب را می‌خواهم بخوانم و بنویسم", "این کتاب را میخواهم بخوانم و بنویسم"),
        ("FULL width letters of a question", "ＦＵＬＬ width letters of a question"),
    ],
)
def test_other_forms_of_the_same_words_are_the_same(held_out: str, copy: str) -> None:
    held = HeldOut([("a", held_out)])
    text = f"{words(0, 60)} {copy}. {words(100, 60)}"
    assert held.overlap(text).held_out == 1.0
    (span,) = held.spans(text)
    assert text[span.start : span.end] == copy


def test_passages_that_overlap_are_one() -> None:
    held = HeldOut([("a", words(0, 30)), ("b", words(25, 8))])
    (span,) = held.spans(f"{words(500, 9)} {words(0, 33)} {words(700, 9)}")
    assert span.held_out == "a"


def test_words_are_the_same_where_a_text_allows_the_faster_pattern() -> None:
    special = decontaminate._MARKS + decontaminate._INVISIBLE
    assert all(decontaminate._SPECIAL.match(character) for character in special)
    for point in range(0x110000):
        character = chr(point)
        if not decontaminate._SPECIAL.match(character):
            assert not decontaminate._CHARACTER.match(character)
            text = f"a{character}b \u2019{character}"
            assert decontaminate._PLAIN_WORD.findall(text) == decontaminate._WORD.findall(text)
