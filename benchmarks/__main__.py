"""Speed side by side with a peer in one run, as ratios of CPU seconds: `python -m benchmarks [NAME ...]`.

Each pair runs in turns, peer and ours, after one run each that does not count; the median ratio and its extremes are
printed. A ratio below 1 means that ours is cheaper.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq
import torch

ROUNDS = 5


def side_by_side(name: str, peer: Callable[[], object], ours: Callable[[], object]) -> None:
    """Run both in turns and print the ratio ours / peer of CPU seconds."""
    peer(), ours()
    ratios, seconds = [], []
    for _ in range(ROUNDS):
        cost = []
        for function in (peer, ours):
            began = time.process_time()
            function()
            cost.append(time.process_time() - began)
        ratios.append(cost[1] / cost[0])
        seconds.append(cost)
    peer_s, ours_s = (median(column) for column in zip(*seconds, strict=True))
    line = (
        f"{name}: {median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}], peer {peer_s:.3f} s, ours {ours_s:.3f} s"
    )
    sys.stdout.write(line + "\n")


def fidelities() -> None:
    """1,000 parameter sets of an 8-qubit fidelity circuit: the queue against Aer's own sampler."""
    from qiskit_aer.primitives import SamplerV2

    from infra.runtime.queue import Runtime, Scope
    from tasks.quantum.kernels import estimate_overlaps

    vectors = np.random.default_rng(0).normal(size=(64, 256))
    with tempfile.TemporaryDirectory() as folder:
        runtime, count = Runtime(Path(folder) / "ledger.db"), iter(range(1000))

        def ours() -> None:
            scope = Scope("bench", "monitoring", "drift", str(next(count)), "kernel", 0, 0)
            estimate_overlaps(vectors[:32], vectors[32:], runtime.sampler(scope), 64)

        side_by_side(
            "runtime queue / Aer sampler", lambda: estimate_overlaps(vectors[:32], vectors[32:], SamplerV2(), 64), ours
        )


def tokenizer() -> None:
    """Training a vocabulary of 4,096 on the shipped corpus and encoding, against `tokenizers`, one thread each."""
    import os

    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    from benchmarks.dedup import passages
    from tasks.preprocessing.bpe import train_bpe
    from tasks.preprocessing.encode import choose_encoder
    from tasks.text.samples import sample_documents

    texts = [text for domain in ("base", "second") for _, text in sample_documents(domain)]

    def peer() -> object:
        trained = Tokenizer(BPE())
        trained.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
        trainer = BpeTrainer(vocab_size=4096, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
        trained.train_from_iterator(texts, trainer=trainer)
        return trained

    side_by_side("BPE training / tokenizers", peer, lambda: train_bpe(iter(texts), 4096))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=train_bpe(iter(texts), 4096))
    backend = wrapped.backend_tokenizer

    longer = [text for _, text in islice(passages(np.random.default_rng(0)), 10_000)]
    for what, some in (("shipped corpus", texts), ("files of the installed packages", longer)):

        def theirs(some: list[str] = some) -> object:
            return backend.encode_batch(some, add_special_tokens=False)

        def ours(some: list[str] = some) -> object:
            return choose_encoder(wrapped, some[:1])[0](some)  # cold: a new encoder, and its check

        megabytes = sum(len(text.encode()) for text in some) / 1e6
        same = all((a.ids == b[0]).all() for a, b in zip(theirs(), ours(), strict=True))
        sys.stdout.write(f"{what}, {megabytes:.1f} MB, ids {'the same' if same else 'DIFFERENT'}\n")
        side_by_side("encoding, cold / tokenizers", theirs, ours)


def decoder() -> None:
    """64 tokens from a small Llama: the project's decoder against transformers' generate."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.model.generation.llama import LlamaSteps

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    prompt = torch.arange(1, 17)[None]

    def peer() -> None:
        with torch.inference_mode():
            model.generate(prompt, max_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=None)

    def ours() -> None:
        with torch.inference_mode():
            steps = LlamaSteps(model, 80)
            steps.add()
            logits = steps.read(prompt[0].tolist()).last
            for _ in range(63):
                logits = steps.step([int(logits.argmax())])[0]

    side_by_side("decoder / transformers generate", peer, ours)


def near_duplicates() -> None:
    """1,000 texts to near-duplicate pairs: ours, verified, against datasketch's objects, unverified."""
    from datasketch import MinHash, MinHashLSH

    from tasks.curation.index.near_duplicates import normalised_words
    from tasks.curation.index.search import find_edges
    from tasks.curation.index.shards import Index, Recipe, make_shard, plan_shards

    source = resources.files("deployments") / "sample" / "second.parquet"
    with resources.as_file(source) as path:
        table = pq.read_table(path, columns=["text"]).slice(0, 1000)
    texts = table.column("text").to_pylist()

    def peer() -> None:
        lsh = MinHashLSH(threshold=0.7, num_perm=128)
        for index, text in enumerate(texts):
            words = normalised_words(text)
            signature = MinHash(num_perm=128)
            signature.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
            lsh.insert(index, signature)
            lsh.query(signature)

    def ours() -> None:
        recipe = Recipe(texts=False)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pq.write_table(table, folder / "texts.parquet")
            work, _ = plan_shards("base", [folder / "texts.parquet"], recipe, 2**25)
            index = Index.open([make_shard(folder, item, recipe) for item in work], recipe)
            find_edges(folder / "searches", index, recipe, 0.7, folder, lambda do, items: [do(item) for item in items])

    side_by_side("near duplicates / datasketch objects", peer, ours)


def queue() -> None:
    """Overhead for each call, group commit, one job against many, binding against transpiling."""
    from benchmarks.queue import main

    main()


def drift() -> None:
    """Level, power and run length of the drift detectors; the corpora are looked for in ./data."""
    from benchmarks.drift import main

    main([])


def carbon() -> None:
    """What waiting for green electricity saves, on the files that KETCYCLE_CARBON_FILES names."""
    from benchmarks.carbon import main

    main([])


def serve() -> None:
    """The completion server under load: batching against one at a time, the log against none."""
    from benchmarks.serve import main

    main()


def retraining() -> None:
    """A year of traffic: retraining gated by drift against a calendar; the trace is looked for in ./data."""
    from benchmarks.retraining import main

    main([])


def kmeans() -> None:
    """Gates, jobs, shots and seconds of an iteration of quantum k-means in each form, and its agreement."""
    from benchmarks.kmeans import main

    main()


def qaoa() -> None:
    """How likely QAOA finds the optimum by size, beside one-sweep annealing and its own marginals."""
    from benchmarks.qaoa import main

    main()


def loading() -> None:
    """State loading from 2 to 10 qubits: gates, bytes, the fidelity that arrives."""
    from benchmarks.loading import main

    main()


def retention() -> None:
    """A model trained on what keep-one, greedy and exact representatives keep."""
    from benchmarks.retention import main

    main()


def training() -> None:
    """The training loop against the transformers Trainer: tokens per CPU second, quality, memory."""
    from benchmarks.training import main

    main([])


def gradients() -> None:
    """Executions that each way to train a circuit takes to the same loss."""
    from benchmarks.gradients import main

    main([])


def selection() -> None:
    """Settings of the arms of batch selection, tuned with equal trials."""
    from benchmarks.selection import main

    main([])


def overhead() -> None:
    """CPU seconds of a smoke run and of one stage by component, of imports and of metering."""
    from benchmarks.overhead import main

    main([])


BENCHMARKS = {
    "overhead": (overhead,),
    "drift": (drift,),
    "carbon": (carbon,),
    "retraining": (retraining,),
    "queue": (fidelities, queue),
    "kmeans": (kmeans,),
    "loading": (loading,),
    "qaoa": (qaoa,),
    "retention": (retention,),
    "decoder": (decoder,),
    "near_duplicates": (near_duplicates,),
    "serve": (serve,),
    "training": (training,),
    "gradients": (gradients,),
    "selection": (selection,),
    "tokenizer": (tokenizer,),
}

if __name__ == "__main__":
    lines = [f"{name:16s}{(functions[-1].__doc__ or '').splitlines()[0]}" for name, functions in BENCHMARKS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").strip(), epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help="none = all of them")
    for name in parser.parse_args().names or BENCHMARKS:
        for benchmark in BENCHMARKS[name]:
            benchmark()
