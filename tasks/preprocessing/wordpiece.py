"""WordPiece over bytes: pieces learnt from word counts, words split by the longest piece first.

Words are counted batch by batch; DuckDB sums the counts on disk, so memory grows with the number of distinct words
and not with the text. Pieces are joined by frequency, as the WordPiece trainer of `tokenizers` does, ties by the
smaller pair. Two things differ from BPE: a piece inside a word is distinct from the same piece at its start, and the
encoding (Schuster and Nakajima 2012). All 256 bytes are pieces in both positions, so every text can be encoded.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Replace
from tokenizers.decoders import Sequence as Decoders
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from tasks.preprocessing.bpe import END_OF_TEXT

INSIDE = "\u2581"  # marks a piece inside a word; encodes no byte, unlike the usual ##
LONGEST = 100  # maximum bytes of a word; a longer one is cut, since splitting takes the square of its length
SMALLEST = 1 + 2 * 256
BATCH = 256  # texts

Pair = tuple[int, int]


def train_wordpiece(texts: Iterable[str], vocab_size: int, scratch: Path | None = None) -> Tokenizer:
    """Train a WordPiece vocabulary over bytes; the texts are read once.

    Token 0 is the end-of-text token; the 256 bytes at the start of a word and the 256 inside a word follow. A small
    corpus may give fewer than `vocab_size`.

    Args:
        texts: training texts.
        vocab_size: size of the vocabulary.
        scratch: folder for the counts.

    Raises:
        ValueError: fewer tokens than the bytes need.
    """
    if vocab_size < SMALLEST:
        raise ValueError(f"a WordPiece vocabulary over bytes has at least {SMALLEST} tokens, not {vocab_size}")
    with TemporaryDirectory(dir=scratch) as folder:
        pieces = _join(count_words(texts, Path(folder)), vocab_size)
    numbers = {piece: number for number, piece in enumerate([END_OF_TEXT, *pieces])}
    model = WordPiece(
        numbers, unk_token=END_OF_TEXT, max_input_chars_per_word=LONGEST, continuing_subword_prefix=INSIDE
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _words()
    tokenizer.decoder = Decoders([Replace(INSIDE, ""), ByteLevelDecoder()])
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _words() -> PreTokenizer:
    bytes_of = ByteLevel(add_prefix_space=False, use_regex=True)
    return PreTokenizers([bytes_of, Split(Regex(f".{{1,{LONGEST}}}"), "isolated")])


def count_words(texts: Iterable[str], folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the words of the texts, in the alphabet of bytes, with their counts, in the order of the words."""
    split = _words()
    with duckdb.connect(str(folder / "words.duckdb")) as connection:
        connection.execute("create table words (word varchar, n bigint)")
        stream = iter(texts)
        while batch := list(islice(stream, BATCH)):
            counts = Counter(word for text in batch for word, _ in split.pre_tokenize_str(text))
            if counts:
                rows = pa.table({"word": list(counts), "n": list(counts.values())})
                connection.register("counted", rows)
                connection.execute("insert into words select word, n from counted")
                connection.unregister("counted")
        connection.execute("select word, sum(n)::bigint from words group by word order by word")
        while found := connection.fetchmany(10_000):
            yield from found


def _join(words: Iterable[tuple[str, int]], vocab_size: int) -> list[str]:
    """Return the pieces: the bytes in both places, then joins of the most frequent neighbours."""
    alphabet = sorted(ByteLevel.alphabet())
    pieces = [*alphabet, *(INSIDE + character for character in alphabet)]
    number = {piece: k for k, piece in enumerate(pieces)}
    split: list[list[int]] = []
    weights: list[int] = []
    for word, count in words:
        split.append([number[word[0]], *(number[INSIDE + character] for character in word[1:])])
        weights.append(count)
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, (parts, weight) in enumerate(zip(split, weights, strict=True)):
        for pair in pairwise(parts):
            counts[pair] += weight
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and len(pieces) + 1 < vocab_size:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair] or not count:
            continue  # the count has changed since the entry was pushed
        joined = pieces[pair[0]] + pieces[pair[1]].removeprefix(INSIDE)
        new = number.setdefault(joined, len(pieces))
        if new == len(pieces):
            pieces.append(joined)
        changed: set[Pair] = set()
        for index in where.pop(pair):
            before, after = split[index], _joined(split[index], pair, new)
            for old in pairwise(before):
                counts[old] -= weights[index]
                changed.add(old)
            for made in pairwise(after):
                counts[made] += weights[index]
                where[made].add(index)
                changed.add(made)
            split[index] = after
        for each in changed:
            if counts[each] > 0:
                heapq.heappush(heap, (-counts[each], each))
    return pieces


def _joined(parts: Sequence[int], pair: Pair, new: int) -> list[int]:
    result: list[int] = []
    at = 0
    while at < len(parts):
        if tuple(parts[at : at + 2]) == pair:
            result.append(new)
            at += 2
        else:
            result.append(parts[at])
            at += 1
    return result
