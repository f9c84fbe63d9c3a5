"""Quality rules out of publications, and the sets of them that a run chooses; each says why it drops a document.

Rules of Rae et al. 2021 (Gopher, arXiv 2112.11446, tables A1 and A2), Raffel et al. 2020 (C4, arXiv 1910.10683), Penedo
et al. 2024 (FineWeb, arXiv 2406.17557) and Chen et al. 2021 (Codex, arXiv 2107.03374, for code), with their numbers.
C4's rules against braces and lines without final punctuation are left out: they drop every technical text with code in
it. Words of scripts without spaces are those of ICU's dictionaries.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import filterfalse
from pathlib import Path

import yaml
from icu4py.breakers import WordBreaker

from tasks.corpus.formats.encodings import identifier

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("•", "-")
ENDINGS = (".", "?", "!", '"', "'", "”", "’", "…", ":", ";", "。", "！", "？", "」", "』", "।", "۔", "؟")
ANY_LANGUAGE = "any"
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
)
_UNSPACED_SHARE = 0.1  # of the characters, from which ICU finds the words


@dataclass(frozen=True)
class Text:
    """A text with what several rules need of it."""

    text: str
    replaced: int = 0

    @cached_property
    def unspaced(self) -> bool:
        """Whether the text is in a script that puts no spaces between words, at least in part."""
        return not self.text.isascii() and len(_UNSPACED.findall(self.text)) > _UNSPACED_SHARE * len(self.text)

    @cached_property
    def words(self) -> list[str]:
        """Words between white space; those of ICU's dictionaries where a script has none between words."""
        if self.unspaced:
            return [word for word in WordBreaker(self.text, "") if any(map(str.isalnum, word))]
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
    """Drop a text of words too short or too long on average (Gopher); in scripts without spaces, from one character."""

    def rule(text: Text) -> str | None:
        mean, low = sum(map(len, text.words)) / max(1, len(text.words)), 1.0 if text.unspaced else least
        return None if low <= mean <= most else f"{mean:.1f} characters a word, not {low:g} to {most:g}"

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


def line_length(mean: float = 100, longest: float = 1000) -> Rule:
    """Drop a file of lines too long, on average or one of them, as data and generated code have (Codex)."""

    def rule(text: Text) -> str | None:
        lengths = [len(line) for line in text.text.splitlines()] or [0]
        average = sum(lengths) / len(lengths)
        if average > mean:
            return f"{average:.0f} characters a line, more than {mean:g}"
        return f"a line of {max(lengths)} characters, more than {longest:g}" if max(lengths) > longest else None

    return rule


def alphanumeric(least: float = 0.25) -> Rule:
    """Drop a file with too few letters and digits among its characters (Codex)."""

    def rule(text: Text) -> str | None:
        share = sum(map(str.isalnum, text.text)) / max(1, len(text.text))
        return f"{share:.0%} of the characters are letters or digits" if share < least else None

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
    model = identifier()
    unknown = sorted(set(names) - set(model.labels))
    if unknown:
        raise ValueError(f"no language {', '.join(unknown)}; there are {', '.join(model.labels)}")

    def rule(text: Text) -> str | None:
        name, probability = model.classify(text.text[:characters])
        kept = name in names and probability >= least
        return None if kept else f"language {name} with probability {probability:.2f}, not {' or '.join(names)}"

    return rule


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


RULES: Mapping[str, Callable[..., Rule]] = {
    "encoding": readable,
    "length": length,
    "word_length": mean_word_length,
    "symbols": symbols,
    "alphabetic": alphabetic,
    "lists": list_like,
    "repetition": repeated_lines,
    "line_length": line_length,
    "alphanumeric": alphanumeric,
    "placeholder": placeholder,
    "stop_words": stop_words,
    "fineweb": fineweb,
}
_TEXTS: dict[str, dict[str, float]] = {
    name: {} for name in ("encoding", "length", "word_length", "symbols", "alphabetic", "lists", "repetition")
}
PROFILES: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "none": {},
    # Gopher asks that .8 of the words have a letter; documentation with code and tables has fewer.
    "prose": _TEXTS | {"alphabetic": {"least": 0.6}, "placeholder": {}, "stop_words": {}},
    "web": _TEXTS | {"placeholder": {}, "stop_words": {}, "fineweb": {}},
    "code": {"encoding": {}, "length": {"least": 5, "most": 1_000_000}, "line_length": {}, "alphanumeric": {}},
}
Thresholds = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


@dataclass(frozen=True)
class RuleSet:
    """What a run asks of a document; picklable, unlike the rules themselves.

    Attributes:
        thresholds: the rules of `RULES` in the order in which they are asked, with the arguments that are not their
            defaults.
        languages: languages in one of which a text has to be; empty = not asked.
        own_rules: further rules, each as `package.module:function`.
    """

    thresholds: Thresholds = ()
    languages: tuple[str, ...] = ()
    own_rules: tuple[str, ...] = ()

    def build(self) -> tuple[tuple[str, Rule], ...]:
        """Return the rules by name.

        Raises:
            ValueError: a rule or an argument that there is not, or a language that the model does not know.
        """
        chosen: list[tuple[str, Rule]] = []
        for name, arguments in self.thresholds:
            if name not in RULES:
                raise ValueError(f"no rule {name!r}; there are {', '.join(RULES)}")
            try:
                chosen.append((name, RULES[name](**dict(arguments))))
            except TypeError as error:
                raise ValueError(f"rule {name}: {error}") from None
        if self.languages:
            chosen.append(("language", language(self.languages)))
        return (*chosen, *map(named_rule, self.own_rules))


def choose_rules(
    profile: str,
    changes: Mapping[str, Mapping[str, float]],
    languages: Sequence[str] = (),
    own_rules: Sequence[str] = (),
) -> RuleSet:
    """Return the rules of a profile or a file, with some thresholds changed.

    The rule of English stop words is asked only where no language, or English alone, is chosen.

    Args:
        profile: a name of `PROFILES`, or a YAML file: an optional `profile` to begin with, then rules with their
            arguments (`length: {least: 20}`); `false` instead of arguments leaves a rule out.
        changes: arguments that replace those of the rules; those of rules that the profile lacks are ignored.
        languages: languages to keep; `any` asks for none.
        own_rules: further rules, each as `package.module:function`.

    Raises:
        ValueError: no such profile or file, or a file of another form.
    """
    asked = {name: dict(arguments) for name, arguments in _profile(profile).items()}
    for name in asked.keys() & changes.keys():
        asked[name].update(changes[name])
    if languages and tuple(languages) != ("en",):
        asked.pop("stop_words", None)
    thresholds = tuple((name, tuple(sorted(arguments.items()))) for name, arguments in asked.items())
    return RuleSet(thresholds, tuple(x for x in languages if x != ANY_LANGUAGE), tuple(own_rules))


def _profile(name: str) -> Mapping[str, Mapping[str, float]]:
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"no rules {name!r}; there are {', '.join(PROFILES)}, or give a YAML file of rules")
    try:
        given = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path} holds no rules; write for example `length: {{least: 20}}`")
    chosen = dict(_profile(str(given.pop("profile", "none"))))
    for rule, arguments in given.items():
        if arguments is False:
            chosen.pop(rule, None)
        elif arguments is None or isinstance(arguments, dict):
            chosen[rule] = {**chosen.get(rule, {}), **(arguments or {})}
        else:
            raise ValueError(f"{path}: {rule} needs arguments such as {{least: 20}}, or false; not {arguments!r}")
    return chosen


def first_objection(text: Text, chosen: Sequence[tuple[str, Rule]]) -> tuple[str, str] | None:
    """Return name and reason of the first rule that drops a text, or None where it stays."""
    for name, rule in chosen:
        reason = rule(text)
        if reason is not None:
            return name, reason
    return None
