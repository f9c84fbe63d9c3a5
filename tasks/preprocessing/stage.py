"""Preprocessing: split, decontaminate, train a tokenizer or use that of a pretrained model, pack windows."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from infra.errors import BadInput
from infra.lake import Lake, Ref
from tasks.model.causal import load_tokenizer, separator
from tasks.model.pretrained import read_tokenizer
from tasks.preprocessing.bpe import save_tokenizer, train_bpe
from tasks.preprocessing.decontaminate import HeldOut, Overlap
from tasks.preprocessing.documents import read_rows
from tasks.preprocessing.encode import choose_encoder
from tasks.preprocessing.evaluation import read_sets
from tasks.preprocessing.options import Options
from tasks.preprocessing.pack import Packer
from tasks.preprocessing.split import SPLITS, assign_splits
from tasks.preprocessing.wordpiece import train_wordpiece
from tasks.sections import Section, counts
from tasks.stage import Context, Road, State

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("ketcycle.preprocessing")

TRAINERS = {"bpe": train_bpe, "wordpiece": train_wordpiece}
BYTES_PER_TOKEN = 8  # more than any tokenizer here reaches, so this many bytes give enough tokens
HOLDOUT = pa.schema([("doc_id", pa.string()), ("domain", pa.string()), ("split", pa.string()), ("text", pa.string())])
DROPPED = pa.schema([("doc_id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])

SPANS = pa.schema(
    {"doc_id": pa.string(), "set": pa.string(), "record": pa.string(), "start": pa.int64(), "end": pa.int64()}
    | {"passage": pa.string(), "document": pa.string()}
)
LISTED = 400  # characters of a passage in the table of spans


def prepare(context: Context, _: State) -> State:
    """Split, decontaminate, train the tokenizer and pack."""
    options = context.parsed(Options)
    kept = context.require("curation/kept")
    splits = _split(context.lake, kept, minimum=BYTES_PER_TOKEN * (options.context + 1))
    holdout = context.lake.write("preprocessing/holdout", _holdout(context.lake, kept, splits))
    found = _decontaminate(context.lake, kept, splits, holdout, options)
    cut = found.cut
    for doc_id in found.dropped:
        splits[doc_id] = "dropped"
    state = State().add(
        {"preprocessing/holdout": holdout, **found.refs},
        contaminated=len(found.dropped),
        cut=len(cut),
        shared_with=dict(sorted(found.by_set.items())),
        documents=dict(sorted(Counter(splits.values()).items())),
    )
    tokenizer_ref = _tokenizer(context, options, _texts(context.lake, kept, splits, "train", cut))
    tokenizer = load_tokenizer(context.lake.folder(tokenizer_ref))
    vocab_size = len(tokenizer)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    shards = context.lake.write(
        "preprocessing/shards",
        _shards(context.lake, kept, splits, cut, tokenizer, options.context, counts),
        {"context": options.context, "vocab_size": vocab_size},
    )
    _require_windows(counts)
    return state.add(
        {"preprocessing/tokenizer": tokenizer_ref, "preprocessing/shards": shards},
        tokenizer="pretrained" if options.model else f"trained {options.tokenizer}",
        vocab_size=vocab_size,
        context=options.context,
        statistics={key: _statistics(value) for key, value in sorted(counts.items())},
    )


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    statistics = state.facts["statistics"]
    tokens = sum(part["tokens"] for part in statistics.values())
    size = sum(part["n_bytes"] for part in statistics.values())
    dropped, cut = state.facts["contaminated"], state.facts["cut"]
    held = f"of documents that repeat held-out text {dropped} are dropped and {cut} cut"
    return f"{tokens:,} tokens, {size / tokens:.2f} bytes per token; {held}"


def sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the tables and charts of the result."""
    found = counts("Documents by split", ("split", "documents"), facts.get("documents", {}))
    shared = counts("Passages shared with training text", ("set", "training documents"), facts.get("shared_with", {}))
    names = ("documents", "windows", "tokens", "bytes_per_token", "tokens_per_word")
    parts = facts.get("statistics", {})
    if parts:
        rows = tuple((part, *(values.get(name) for name in names)) for part, values in parts.items())
        sentence = f"Windows of {facts['context']} tokens; {facts['vocab_size']} tokens in the vocabulary."
        header = ("domain and split", "documents", "windows", "tokens", "bytes per token", "tokens per word")
        found += (Section("Tokens", sentence, header, rows),)
    return found + shared


ROAD: Road = (prepare, "state_loading")


def _tokenizer(context: Context, options: Options, texts: Iterator[str]) -> Ref:
    with TemporaryDirectory(dir=context.scratch) as folder:
        if options.model:
            tokenizer = read_tokenizer(Path(options.model).expanduser())
            log.info("the tokenizer of %s, %d tokens", options.model, len(tokenizer))
            tokenizer.save_pretrained(folder)
            vocab_size = len(tokenizer)
        else:
            log.info("training the tokenizer (%s), %d tokens", options.tokenizer, options.vocab_size)
            try:
                trained = TRAINERS[options.tokenizer](texts, options.vocab_size, context.scratch)
            except ValueError as error:
                raise BadInput(f"{error}; set preprocessing.vocab_size") from error
            save_tokenizer(trained, Path(folder), options.context)
            vocab_size = trained.get_vocab_size()
        return context.lake.put_folder("preprocessing/tokenizer", Path(folder), {"vocab_size": vocab_size})


def _split(lake: Lake, kept: Ref, minimum: int) -> dict[str, str]:
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for batch in lake.scan(kept, columns=["doc_id", "domain", "n_bytes"]):
        for row in batch.to_pylist():
            sizes[row["domain"]][row["doc_id"]] = row["n_bytes"]
    return {
        doc_id: split for domain in sorted(sizes) for doc_id, split in assign_splits(sizes[domain], minimum).items()
    }


def _holdout(lake: Lake, kept: Ref, splits: dict[str, str]) -> Iterator[pa.Table]:
    yield HOLDOUT.empty_table()
    for rows in read_rows(lake, kept, ["doc_id", "domain", "text"]):
        held = [row | {"split": splits[row["doc_id"]]} for row in rows if splits[row["doc_id"]] != "train"]
        if held:
            yield pa.Table.from_pylist(held, schema=HOLDOUT)


@dataclass(frozen=True)
class _Decontaminated:
    """What decontamination found.

    Attributes:
        refs: the tables of contaminated documents and of shared passages.
        dropped: ids of the documents that go.
        cut: the remaining text of each document that was cut.
        by_set: the number of training documents that share a passage with each set.
    """

    refs: dict[str, Ref]
    dropped: set[str]
    cut: dict[str, str]
    by_set: Counter[str]


def _decontaminate(lake: Lake, kept: Ref, splits: dict[str, str], holdout: Ref, options: Options) -> _Decontaminated:
    """Find training documents that repeat held-out text or evaluation sets; cut or drop them."""
    set_of: dict[str, str] = {}

    def documents() -> Iterator[tuple[str, str]]:
        for rows in read_rows(lake, holdout, ["doc_id", "split", "text"]):
            for row in rows:
                set_of[row["doc_id"]] = row["split"]
                yield row["doc_id"], row["text"]
        for name, record, text in read_sets(options.evaluation):
            set_of[f"{name}: {record}"] = name
            yield f"{name}: {record}", text

    def training() -> Iterator[dict[str, Any]]:
        for rows in read_rows(lake, kept, ["doc_id", "text"]):
            yield from (row for row in rows if splits[row["doc_id"]] == "train")

    held = HeldOut(documents(), options.ngram)
    for row in training():
        held.count(row["text"])
    ignored = held.ignore_common(options.common)
    found_rows: list[dict[str, Any]] = []
    spans: list[dict[str, Any]] = []
    cut: dict[str, str] = {}
    by_set: Counter[str] = Counter()
    for row in training():
        found = held.overlap(row["text"])
        if not found.nearest:
            continue
        action, detail, left = _judge(row["text"], found, held, options)
        if action == "cut":
            cut[row["doc_id"]] = left
        if action != "kept":
            reason = "contaminated, cut" if action == "cut" else "contaminated"
            found_rows.append({"doc_id": row["doc_id"], "reason": reason, "detail": detail})
        shared = held.spans(row["text"])
        by_set.update({set_of[span.held_out] for span in shared})
        spans += [
            {"doc_id": row["doc_id"], "set": set_of[span.held_out], "record": span.held_out, "start": span.start}
            | {"end": span.end, "passage": row["text"][span.start : span.end][:LISTED], "document": action}
            for span in shared
        ]
    dropped = {row["doc_id"] for row in found_rows} - cut.keys()
    log.info(
        "decontamination: of training documents that repeat held-out text %d are dropped and %d cut; %d n-grams that "
        "more than %d documents share are ignored",
        len(dropped),
        len(cut),
        ignored,
        options.common,
    )
    refs = {
        "preprocessing/dropped": lake.write("preprocessing/dropped", pa.Table.from_pylist(found_rows, schema=DROPPED)),
        "preprocessing/spans": lake.write("preprocessing/spans", pa.Table.from_pylist(spans, schema=SPANS)),
    }
    return _Decontaminated(refs, dropped, cut, by_set)


def _judge(text: str, found: Overlap, held: HeldOut, options: Options) -> tuple[str, str, str]:
    """Return whether a document is kept, dropped or cut, the reason, and what is left of one that is cut."""
    if max(found.own, found.held_out) < options.overlap:
        return "kept", "", ""
    detail = (
        f"{found.own:.2f} of its {options.ngram}-grams are held out; "
        f"it holds {found.held_out:.2f} of those of {found.nearest}"
    )
    pieces = held.pieces(text) if found.own < options.overlap else []
    if not 0 < len(pieces) <= options.pieces:
        return "dropped", detail, ""
    return "cut", f"{detail}; {len(text) - sum(map(len, pieces))} characters are cut", "\n".join(pieces)


def _texts(lake: Lake, kept: Ref, splits: dict[str, str], split: str, cut: Mapping[str, str]) -> Iterator[str]:
    for rows in read_rows(lake, kept, ["doc_id", "text"]):
        yield from (cut.get(row["doc_id"], row["text"]) for row in rows if splits[row["doc_id"]] == split)


def _shards(
    lake: Lake,
    kept: Ref,
    splits: dict[str, str],
    cut: Mapping[str, str],
    tokenizer: PreTrainedTokenizerFast,
    context: int,
    counts: dict[str, Counter[str]],
) -> Iterator[pa.Table]:
    separates, encode = separator(tokenizer), None
    if separates is None:
        raise BadInput("the tokenizer has no token for the end of a text; name one in its tokenizer_config.json")
    new = partial(Packer, context, separates, len(tokenizer))
    packers: dict[tuple[str, str], Packer] = {}
    yield _table("", "", *new().take())
    for rows in read_rows(lake, kept, ["doc_id", "domain", "text"]):
        rows = [row for row in rows if splits[row["doc_id"]] in SPLITS]
        texts = [cut.get(row["doc_id"], row["text"]) for row in rows]
        if encode is None:
            encode, by = choose_encoder(tokenizer, texts)
            log.info("encoding with %s", by)
        for row, (ids, sizes) in zip(rows, encode(texts), strict=True):
            key = (row["domain"], splits[row["doc_id"]])
            packers.setdefault(key, new()).add(ids, sizes)
            n_words = len(cut.get(row["doc_id"], row["text"]).split())
            counts["/".join(key)].update(documents=1, tokens=len(ids), n_bytes=int(sizes.sum()), words=n_words)
        for (domain, split), packer in packers.items():
            tokens, n_bytes_of = packer.take()
            counts[f"{domain}/{split}"]["windows"] += len(tokens)
            yield _table(domain, split, tokens, n_bytes_of)
    for (domain, split), packer in packers.items():
        counts[f"{domain}/{split}"]["tokens_left"] = packer.left[0]


def _table(domain: str, split: str, tokens: Any, n_bytes: Any) -> pa.Table:
    return pa.table(
        {
            "domain": pa.array([domain] * len(tokens), pa.string()),
            "split": pa.array([split] * len(tokens), pa.string()),
            "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens.ravel()), tokens.shape[1]),
            "n_bytes": pa.array(n_bytes, pa.int64()),
        }
    )


def _statistics(count: Counter[str]) -> dict[str, float]:
    return {
        **{name: count[name] for name in ("documents", "n_bytes", "words", "tokens", "windows", "tokens_left")},
        "bytes_per_token": count["n_bytes"] / max(1, count["tokens"]),
        "tokens_per_word": count["tokens"] / max(1, count["words"]),
    }


def _require_windows(counts: dict[str, Counter[str]]) -> None:
    domains = sorted({"base"} | {key.split("/")[0] for key in counts})
    for domain in domains:
        for split in SPLITS:
            count = counts.get(f"{domain}/{split}", Counter())
            if not count["windows"]:
                raise BadInput(
                    f"domain {domain} has {count['documents']} documents and {count['tokens']} tokens in its {split} "
                    f"split, fewer than one window; give more text, or a smaller preprocessing.context "
                    "(what decontamination took is in the table preprocessing/dropped)"
                )
