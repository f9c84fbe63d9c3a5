"""Preprocessing: split, decontaminate, train the tokenizer or take a pretrained model's, pack windows."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedTokenizerFast

from infra.errors import BadInput
from infra.lake import Lake, Ref
from tasks.contract import Subtask
from tasks.model.causal import load_tokenizer, separator
from tasks.model.pretrained import read_tokenizer
from tasks.preprocessing.bpe import save_tokenizer, train_bpe
from tasks.preprocessing.decontaminate import HeldOut
from tasks.preprocessing.encode import choose_encoder
from tasks.preprocessing.pack import Packer
from tasks.preprocessing.split import SPLITS, assign_splits
from tasks.preprocessing.state_loading.arms import PIECE, STATE_LOADING, Loaded, Loading
from tasks.preprocessing.wordpiece import train_wordpiece
from tasks.stage import Context, State
from tasks.text.embeddings import embed

log = logging.getLogger("ketcycle.preprocessing")

SUBTASKS: tuple[Subtask[Any, Any], ...] = (STATE_LOADING,)

BATCH = 256
TRAINERS = {"bpe": train_bpe, "wordpiece": train_wordpiece}
LEAST_BACKGROUND = 32  # fewer documents span no axes worth learning
BYTES_PER_TOKEN = 8  # more than any tokenizer here reaches: enough bytes are enough tokens
HOLDOUT = pa.schema([("doc_id", pa.string()), ("domain", pa.string()), ("split", pa.string()), ("text", pa.string())])
DROPPED = pa.schema([("doc_id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


class Options(BaseModel):
    """Settings of the stage; the defaults are the demo profile.

    Attributes:
        model: folder of a pretrained model whose tokenizer is used; empty = one is trained.
        tokenizer: what is trained: `bpe` or `wordpiece`, both over bytes.
        vocab_size: tokens of the vocabulary, the end-of-text token and the bytes included (WordPiece: at least 513).
        context: tokens that a model reads at once.
        ngram: words of the n-grams by which contamination is found.
        overlap: share of n-grams, of the document's own or of one held-out document, from which a training document
            is dropped.
        loading_vectors: documents whose vectors are put before `state_loading`; 0 = leave it out.
        loading_background: further documents from which its axes and codebooks are learnt, at most.
        loading_size: bytes for a vector.
        loading_cells: of the bucket-brigade memory: 2, 4, 8 or 16.
        loading_passes: in which the angles of approximate circuits are compiled.
        loading_shots: of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    tokenizer: Literal["bpe", "wordpiece"] = "bpe"
    vocab_size: int = Field(4096, ge=257, le=65536)
    context: int = Field(128, ge=8, le=8192)
    ngram: int = Field(13, ge=2, le=50)
    overlap: float = Field(0.3, gt=0, le=1)
    loading_vectors: int = Field(16, ge=0)
    loading_background: int = Field(1024, ge=2)
    loading_size: int = Field(64, ge=22, le=256)
    loading_cells: Literal[2, 4, 8, 16] = 8
    loading_passes: int = Field(100, ge=1)
    loading_shots: int = Field(1024, ge=1)


def prepare(context: Context) -> State:
    """Split, decontaminate, train the tokenizer and pack."""
    options = context.parsed(Options)
    kept = _kept(context)
    splits = _split(context.lake, kept, minimum=BYTES_PER_TOKEN * (options.context + 1))
    holdout = context.lake.write("preprocessing/holdout", _holdout(context.lake, kept, splits))
    dropped, contaminated = _decontaminate(context.lake, kept, splits, holdout, options)
    for doc_id in contaminated:
        splits[doc_id] = "dropped"
    state = State().add(
        {"preprocessing/holdout": holdout, "preprocessing/dropped": dropped},
        contaminated=len(contaminated),
        documents=dict(sorted(Counter(splits.values()).items())),
    )
    tokenizer_ref = _tokenizer(context, options, _texts(context.lake, kept, splits, "train"))
    tokenizer = load_tokenizer(context.lake.folder(tokenizer_ref))
    vocab_size = len(tokenizer)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    shards = context.lake.write(
        "preprocessing/shards",
        _shards(context.lake, kept, splits, tokenizer, options.context, counts),
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


def pose(context: Context, state: State, subtask: str) -> Loading | None:
    """Return the vectors of some documents to be loaded; None where there are too few."""
    if subtask != STATE_LOADING.name:
        raise KeyError(f"preprocessing has no subtask {subtask!r}")
    options = context.parsed(Options)
    names, background = _loading_documents(context, state, options)
    if not names or len(background) < LEAST_BACKGROUND:
        return None
    texts = _heads(context.lake, _kept(context), {*names, *background})
    return Loading(
        vectors=embed([texts[name] for name in names]),
        background=embed([texts[name] for name in background]),
        size=options.loading_size,
        cells=options.loading_cells,
        passes=options.loading_passes,
        start=context.seed,
        shots=options.loading_shots,
    )


def apply(context: Context, state: State, subtask: str, solution: Loaded) -> State:
    """Store the vectors in the chosen form as they come back out of it, each with its fidelity."""
    if subtask != STATE_LOADING.name:
        raise KeyError(f"preprocessing has no subtask {subtask!r}")
    names, _ = _loading_documents(context, state, context.parsed(Options))
    if len(names) != len(solution.vectors):
        raise ValueError(f"the solution is for {len(solution.vectors)} vectors, not for the {len(names)} of this state")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(solution.vectors.ravel()), solution.vectors.shape[1])
    table = pa.table({"doc_id": names, "vector": vectors, "fidelity": pa.array(solution.fidelities, pa.float64())})
    about = {
        "documents": len(names),
        "fidelity": float(np.mean(solution.fidelities)),
        "bytes": solution.size,
        "float32_bytes": 4 * solution.vectors.shape[1],
        "two_qubit_gates": solution.two_qubit_gates,
        "depth": solution.depth,
        "preparations": solution.preparations,
    }
    log.info("vectors kept in %(bytes)d of %(float32_bytes)d bytes, mean fidelity %(fidelity).4f", about)
    return state.add({"preprocessing/vectors": context.lake.write("preprocessing/vectors", table)}, state_loading=about)


def publish(context: Context, state: State) -> State:
    """Everything is in the lake already."""
    return state


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    statistics = state.facts["statistics"]
    tokens = sum(part["tokens"] for part in statistics.values())
    size = sum(part["n_bytes"] for part in statistics.values())
    dropped = state.facts["contaminated"]
    return f"{tokens:,} tokens, {size / tokens:.2f} bytes per token; {dropped} documents repeat held-out text, dropped"


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


def _kept(context: Context) -> Ref:
    kept = context.inputs.get("curation/kept")
    if kept is None:
        raise BadInput("preprocessing reads curation/kept, which is not there; run the stage curation before")
    return kept


def _loading_documents(context: Context, state: State, options: Options) -> tuple[list[str], list[str]]:
    """Return the ids of the documents to be loaded and of those learnt from, in an order that only ids decide."""
    dropped = set(context.lake.read(state.refs["preprocessing/dropped"], ["doc_id"])["doc_id"].to_pylist())
    names = context.lake.read(_kept(context), ["doc_id"])["doc_id"].to_pylist()
    names = sorted((n for n in names if n not in dropped), key=lambda name: sha256(name.encode()).digest())
    count = options.loading_vectors
    return names[:count], names[count : count + options.loading_background]


def _heads(lake: Lake, kept: Ref, chosen: set[str]) -> dict[str, str]:
    rows = (row for batch in _rows(lake, kept, ["doc_id", "text"]) for row in batch)
    return {row["doc_id"]: row["text"][:PIECE] for row in rows if row["doc_id"] in chosen}


def _split(lake: Lake, kept: Ref, minimum: int) -> dict[str, str]:
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for batch in lake.scan(kept, columns=["doc_id", "domain", "n_bytes"]):
        for row in batch.to_pylist():
            sizes[row["domain"]][row["doc_id"]] = row["n_bytes"]
    return {
        doc_id: split for domain in sorted(sizes) for doc_id, split in assign_splits(sizes[domain], minimum).items()
    }


def _rows(lake: Lake, kept: Ref, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    for batch in lake.scan(kept, columns=columns, batch_size=BATCH):
        yield batch.to_pylist()


def _holdout(lake: Lake, kept: Ref, splits: dict[str, str]) -> Iterator[pa.Table]:
    yield HOLDOUT.empty_table()
    for rows in _rows(lake, kept, ["doc_id", "domain", "text"]):
        held = [row | {"split": splits[row["doc_id"]]} for row in rows if splits[row["doc_id"]] != "train"]
        if held:
            yield pa.Table.from_pylist(held, schema=HOLDOUT)


def _decontaminate(
    lake: Lake, kept: Ref, splits: dict[str, str], holdout: Ref, options: Options
) -> tuple[Ref, set[str]]:
    held = HeldOut(
        ((row["doc_id"], row["text"]) for rows in _rows(lake, holdout, ["doc_id", "text"]) for row in rows),
        options.ngram,
    )
    dropped: list[dict[str, str]] = []
    for rows in _rows(lake, kept, ["doc_id", "text"]):
        for row in rows:
            if splits[row["doc_id"]] != "train":
                continue
            found = held.overlap(row["text"])
            if max(found.own, found.held_out) >= options.overlap:
                detail = (
                    f"{found.own:.2f} of its {options.ngram}-grams are held out; "
                    f"it holds {found.held_out:.2f} of those of {found.nearest}"
                )
                dropped.append({"doc_id": row["doc_id"], "reason": "contaminated", "detail": detail})
    log.info("%d training documents repeat held-out text and are dropped", len(dropped))
    ref = lake.write("preprocessing/dropped", pa.Table.from_pylist(dropped, schema=DROPPED))
    return ref, {row["doc_id"] for row in dropped}


def _texts(lake: Lake, kept: Ref, splits: dict[str, str], split: str) -> Iterator[str]:
    for rows in _rows(lake, kept, ["doc_id", "text"]):
        yield from (row["text"] for row in rows if splits[row["doc_id"]] == split)


def _shards(
    lake: Lake,
    kept: Ref,
    splits: dict[str, str],
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
    for rows in _rows(lake, kept, ["doc_id", "domain", "text"]):
        rows = [row for row in rows if splits[row["doc_id"]] in SPLITS]
        texts = [row["text"] for row in rows]
        if encode is None:
            encode, by = choose_encoder(tokenizer, texts)
            log.info("encoding with %s", by)
        for row, (ids, sizes) in zip(rows, encode(texts), strict=True):
            key = (row["domain"], splits[row["doc_id"]])
            packers.setdefault(key, new()).add(ids, sizes)
            n_words = len(row["text"].split())
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
                    f"split, fewer than one window; give more text, or a smaller preprocessing.context"
                )
