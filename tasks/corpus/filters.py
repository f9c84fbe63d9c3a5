"""Published rules of quality; each says why it drops a document.

Rules of Rae et al. 2021 (Gopher, arXiv 2112.11446, tables A1 and A2) and Raffel et al. 2020 (C4, arXiv 1910.10683),
with their numbers. C4's rules against braces and lines without final punctuation are left out: they throw away
every technical text with code in it. The stop words make the set one for English.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from itertools import filterfalse
from pathlib import Path
from typing import Any

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("•", "-")
ENDINGS = (".", "?", "!", '"', "'", "”", "’", "…", ":", ";")


@dataclass(frozen=True)
class Text:
    """A text with what several rules need of it."""

    text: str
    replaced: int = 0

    @cached_property
    def words(self) -> list[str]:
        """Words between white space."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, without outer white space."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]


Rule = Callable[[Text], str | None]


def readable(most: float = 0.01) -> Rule:
    """Drop a text with more than this share of undecodable characters."""

    def rule(text: Text) -> str | None:
        share = text.replaced / max(1, len(text.text))
        return f"{share:.1%} of the characters could not be decoded" if share > most else None

    return rule


def length(least: int = 50, most: int = 100_000) -> Rule:
    """Drop a text of too few or too many words (Gopher)."""

    def rule(text: Text) -> str | None:
        n = len(text.words)
        return None if least <= n <= most else f"{n} words, not {least} to {most}"

    return rule


def mean_word_length(least: float = 3.0, most: float = 10.0) -> Rule:
    """Drop a text of words too short or too long on average (Gopher)."""

    def rule(text: Text) -> str | None:
        mean = sum(map(len, text.words)) / max(1, len(text.words))
        return None if least <= mean <= most else f"{mean:.1f} characters a word, not {least:g} to {most:g}"

    return rule


def symbols(most: float = 0.1) -> Rule:
    """Drop a text with too many hashes or ellipses for its words (Gopher)."""

    def rule(text: Text) -> str | None:
        for symbol, count in (
            ("#", text.text.count("#")),
            ("...", text.text.count("...") + text.text.count("…")),
        ):
            if count > most * len(text.words):
                return f"{count} times {symbol!r} in {len(text.words)} words"
        return None

    return rule


def alphabetic(least: float = 0.8) -> Rule:
    """Drop a text in which too few words have a letter (Gopher)."""

    def rule(text: Text) -> str | None:
        # Nearly every word with a letter passes one of the first two, which need no loop in Python.
        rest = filterfalse(str.islower, filterfalse(str.isalpha, text.words))
        without = sum(not any(map(str.isalpha, word)) for word in rest)
        share = (len(text.words) - without) / max(1, len(text.words))
        return f"{share:.0%} of the words have a letter" if share < least else None

    return rule


def stop_words(least: int = 2) -> Rule:
    """Drop a text with too few different English stop words (Gopher)."""

    def rule(text: Text) -> str | None:
        n = len(STOP_WORDS.intersection(map(str.lower, text.words)))
        return f"{n} different English stop words" if n < least else None

    return rule


def list_like(bullets: float = 0.9, ellipses: float = 0.3) -> Rule:
    """Drop a text made of bullet points or of lines that break off (Gopher)."""

    def rule(text: Text) -> str | None:
        n = max(1, len(text.lines))
        points = sum(line.startswith(BULLETS) for line in text.lines) / n
        broken = sum(line.endswith(("...", "…")) for line in text.lines) / n
        if points > bullets:
            return f"{points:.0%} of the lines are bullet points"
        return f"{broken:.0%} of the lines end in an ellipsis" if broken > ellipses else None

    return rule


def repeated_lines(share_of_lines: float = 0.3, share_of_characters: float = 0.2) -> Rule:
    """Drop a text that repeats itself line by line (Gopher)."""

    def rule(text: Text) -> str | None:
        extra = {line: n - 1 for line, n in Counter(text.lines).items() if n > 1}
        lines = sum(extra.values()) / max(1, len(text.lines))
        characters = sum(n * len(line) for line, n in extra.items()) / max(1, len(text.text))
        if lines > share_of_lines:
            return f"{lines:.0%} of the lines are repetitions"
        return f"{characters:.0%} of the characters are in repeated lines" if characters > share_of_characters else None

    return rule


def placeholder() -> Rule:
    """Drop a text with the printers' dummy text (C4)."""

    def rule(text: Text) -> str | None:
        return "holds 'lorem ipsum'" if "lorem ipsum" in text.text.lower() else None

    return rule


def fineweb(punctuated: float = 0.12, repeated: float = 0.1, short: float = 0.67) -> Rule:
    """Drop a page of menus and lists (FineWeb, Penedo et al. 2024, arXiv 2406.17557, section 3.6).

    Args:
        punctuated: least share of lines that end with a punctuation mark.
        repeated: share of characters in repeated lines from which a page goes.
        short: share of lines under 30 characters from which a page goes.
    """

    def rule(text: Text) -> str | None:
        n, characters = max(1, len(text.lines)), max(1, sum(map(len, text.lines)))
        ended = sum(line.endswith(ENDINGS) for line in text.lines) / n
        again = sum((count - 1) * len(line) for line, count in Counter(text.lines).items()) / characters
        brief = sum(len(line) < 30 for line in text.lines) / n
        if ended <= punctuated:
            return f"{ended:.0%} of the lines end with a punctuation mark"
        if again >= repeated:
            return f"{again:.0%} of the characters are in repeated lines"
        return f"{brief:.0%} of the lines are shorter than 30 characters" if brief >= short else None

    return rule


def language(names: Sequence[str], least: float = 0.65, characters: int = 2000) -> Rule:
    """Drop a text that is probably in none of some languages, by its head.

    `py3langid` (the model of langid.py, Lui and Baldwin 2012, retrained; 140 languages) names the language and its
    probability; the limit is FineWeb's.

    Raises:
        ValueError: a language that the model does not know.
    """
    identifier = _identifier()
    unknown = sorted(set(names) - set(identifier.labels))
    if unknown:
        raise ValueError(f"no language {', '.join(unknown)}; there are {', '.join(identifier.labels)}")

    def rule(text: Text) -> str | None:
        name, probability = identifier.classify(text.text[:characters])
        kept = name in names and probability >= least
        return None if kept else f"language {name} with probability {probability:.2f}, not {' or '.join(names)}"

    return rule


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes a second to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def named_rule(name: str) -> tuple[str, Rule]:
    """Return a rule of the user's own, `package.module:function`, which takes a `Text` and says why it goes, or None.

    Raises:
        ValueError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        rule: Rule = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no rule {name!r}: {error}; write package.module:function") from error
    return function, rule


def source_digest(names: Sequence[str]) -> str:
    """Return a digest of the files in which rules of the user's own stand, empty where there are none."""
    if not names:
        return ""
    files = sorted({str(import_module(name.partition(":")[0]).__file__) for name in names})
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def rules(min_words: int, max_words: int, min_alphabetic: float, english: bool) -> tuple[tuple[str, Rule], ...]:
    """Return the rules of a run by name, in the order in which they are asked."""
    chosen: list[tuple[str, Rule]] = [
        ("encoding", readable()),
        ("length", length(min_words, max_words)),
        ("word_length", mean_word_length()),
        ("symbols", symbols()),
        ("alphabetic", alphabetic(min_alphabetic)),
        ("lists", list_like()),
        ("repetition", repeated_lines()),
        ("placeholder", placeholder()),
    ]
    return (*chosen, ("stop_words", stop_words())) if english else tuple(chosen)


@dataclass(frozen=True)
class RuleSet:
    """What a run asks of a document; picklable, unlike the rules themselves.

    Attributes:
        min_words: shortest document.
        max_words: longest document.
        min_alphabetic: least share of words with a letter.
        english: whether a text needs English stop words.
        languages: languages in one of which a text has to be; empty = not asked.
        fineweb: whether FineWeb's rules are asked.
        own_rules: further rules, each as `package.module:function`.
    """

    min_words: int = 50
    max_words: int = 100_000
    min_alphabetic: float = 0.8
    english: bool = True
    languages: tuple[str, ...] = ()
    fineweb: bool = False
    own_rules: tuple[str, ...] = ()

    def build(self) -> tuple[tuple[str, Rule], ...]:
        """Return the rules by name.

        Raises:
            ValueError: a language that the model does not know, or no such rule of the user's own.
        """
        chosen = list(rules(self.min_words, self.max_words, self.min_alphabetic, self.english))
        if self.languages:
            chosen.append(("language", language(self.languages)))
        if self.fineweb:
            chosen.append(("fineweb", fineweb()))
        return (*chosen, *map(named_rule, self.own_rules))


def first_objection(text: Text, chosen: Sequence[tuple[str, Rule]]) -> tuple[str, str] | None:
    """Return name and reason of the first rule that drops a text, or None where it stays."""
    for name, rule in chosen:
        reason = rule(text)
        if reason is not None:
            return name, reason
    return None
