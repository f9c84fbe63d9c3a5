from pathlib import Path

import pytest

from tasks.corpus.filters import (
    PROFILES,
    Text,
    alphabetic,
    alphanumeric,
    choose_rules,
    fineweb,
    first_objection,
    language,
    length,
    line_length,
    list_like,
    mean_word_length,
    named_rule,
    placeholder,
    readable,
    repeated_lines,
    stop_words,
    symbols,
)

PROSE = " ".join(f"The parser reads line {word} of the file and returns what it found." for word in "abcdefgh")


def test_prose_passes_all_rules() -> None:
    assert first_objection(Text(PROSE), choose_rules("prose", {}).build()) is None


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        (length(5, 10), Text("one two three"), "3 words, not 5 to 10"),
        (length(1, 2), Text("one two three"), "3 words, not 1 to 2"),
        (mean_word_length(), Text("a b c d"), "1.0 characters a word, not 3 to 10"),
        (mean_word_length(), Text("abcdefghijkl " * 3), "12.0 characters a word, not 3 to 10"),
        (symbols(), Text("# # word word"), "2 times '#' in 4 words"),
        (symbols(), Text("word... word… word"), "2 times '...' in 3 words"),
        (alphabetic(), Text("1 2 3 four"), "25% of the words have a letter"),
        (stop_words(), Text("Der Hund und die Katze"), "0 different English stop words"),
        (stop_words(), Text("the THE the"), "1 different English stop words"),
        (list_like(), Text("- one\n- two\n• three"), "100% of the lines are bullet points"),
        (list_like(), Text("so it goes...\nand more…\nend"), "67% of the lines end in an ellipsis"),
        (repeated_lines(), Text("x\nx\nx\na long line that is there once only"), "50% of the lines are repetitions"),
        (
            repeated_lines(),
            Text("\n".join(["a long line that is there twice"] * 2 + ["b", "c", "d", "e"])),
            "44% of the characters are in repeated lines",
        ),
        (placeholder(), Text("Lorem Ipsum dolor"), "holds 'lorem ipsum'"),
        (readable(), Text("ab\ufffd\ufffd", replaced=2), "50.0% of the characters could not be decoded"),
    ],
)
def test_a_dropped_text_comes_with_its_reason(rule, text, reason) -> None:
    assert rule(text) == reason


def test_a_text_at_the_border_stays() -> None:
    assert length(3, 3)(Text("one two three")) is None
    assert alphabetic(0.5)(Text("1 two")) is None
    assert symbols(0.5)(Text("# word")) is None


def test_an_empty_text_is_too_short_and_breaks_no_rule() -> None:
    chosen = choose_rules("web", {"length": {"least": 1, "most": 10}}).build()
    assert first_objection(Text(""), chosen) == ("length", "0 words, not 1 to 10")
    for name in PROFILES:
        for _, rule in choose_rules(name, {}).build():
            rule(Text(""))


def test_only_english_is_asked_for_stop_words() -> None:
    german = Text("Der Leser liest jede Zeile einzeln durch")
    short = {"length": {"least": 1}}
    said = ("stop_words", "0 different English stop words")
    for languages in ((), ("en",)):
        assert first_objection(german, choose_rules("prose", short, languages).build()[:9]) == said
    for others in (("any",), ("de",), ("de", "en")):
        assert first_objection(german, choose_rules("prose", short, others).build()) is None


@pytest.mark.parametrize(
    "text", ["城里的医生又一次经过山谷里的木屋，天气总是很冷。", "แม่ค้าตลาดเช้าขายปลาสดและผักจากสวน เด็กน้อยเล่นน้ำฝน"]
)
def test_words_of_scripts_without_spaces_are_those_of_the_dictionary(text: str) -> None:
    assert 8 <= len(Text(text).words) <= 20
    assert not {"，", "。", " "} & set(Text(text).words)
    assert first_objection(Text(text * 8), choose_rules("prose", {}, ["any"]).build()) is None


def test_no_rules_drop_nothing_and_code_has_its_own() -> None:
    assert choose_rules("none", {"length": {"least": 50}}).build() == ()
    code = choose_rules("code", {}).build()
    assert first_objection(Text("def add(a, b):\n    return a + b  # both\n" * 4), code) is None
    assert line_length()(Text("x" * 1001)) is not None
    assert alphanumeric()(Text("{}[]();" * 9)) == "0% of the characters are letters or digits"


def test_a_file_of_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("profile: prose\nlength: {least: 2}\nstop_words: false\nfineweb:\n")
    chosen = dict(choose_rules(str(path), {"length": {"most": 3}}).thresholds)
    assert chosen["length"] == (("least", 2), ("most", 3))
    assert "stop_words" not in chosen
    assert chosen["fineweb"] == ()
    for text, said in {
        "- a": "holds no rules", "length: 5": "needs arguments", "nosuch: {}": "no rule 'nosuch'",
        "length: {nosuch: 1}": "rule length", "a: [": "cannot be read as YAML",
    }.items():  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            choose_rules(str(path), {}).build()
    with pytest.raises(ValueError, match="there are none, prose, web, code"):
        choose_rules("nowhere.yaml", {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Home\nAbout\nContact", "0% of the lines end with a punctuation mark"),
        ("One line of the page, which is said twice.\n" * 2, "50% of the characters are in repeated lines"),
        ("Yes.\nNo.\nOne line that is as long as a sentence is.", None),
        ("Yes.\nNo.\nSo.\nOne line that is as long as a sentence.", "75% of the lines are shorter than 30 characters"),
    ],
)  # fmt: skip
def test_menus_and_lists_go(text: str, reason: str | None) -> None:
    assert fineweb()(Text(text)) == reason


def test_a_text_is_kept_in_the_languages_that_are_asked_for() -> None:
    german = "Der Parser liest eine Zeile der Datei und gibt zurück, was er darin gefunden hat. " * 3
    assert language(["en"])(Text(PROSE)) is None
    assert language(["de", "en"])(Text(german)) is None
    said = language(["en"])(Text(german))
    assert said is not None
    assert said.startswith("language de with probability ")
    assert language(["en"])(Text("1234 5678 ..")) is not None
    with pytest.raises(ValueError, match="no language english"):
        language(["english"])


def test_a_rule_of_the_users_own() -> None:
    name, rule = named_rule("tasks.corpus.filters:Text")
    assert (name, rule) == ("Text", Text)
    for wrong in ("operator", "operator:nothing_there", "no_such_module_here:rule", ""):
        with pytest.raises(ValueError, match="write package"):
            named_rule(wrong)
