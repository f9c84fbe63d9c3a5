"""A pretrained model through one run as a user starts it: chats, preferences, pruning, exports, card, serving.

    python -m benchmarks.chain MODEL CHATS PAIRS TEXT [--home FOLDER] [--write]

Writes a `ketcycle.toml`, starts `ketcycle run` on the model, serves what it registered with `ketcycle serve` and asks
it for one chat completion. Prints CPU seconds and peak memory of each part: of all processes, sampled twice a
second and counted for the part that the run's output named last. Then it checks what came out and fails where a check
does: the exported files of full precision answer as the model, the bill of materials can be read and has the digests of
the weights and of both files, and the card has the figures of the run. CHATS and PAIRS are files of rows as
`finetuning.data` and `finetuning.preferences` take them, TEXT is scored before. Needs `pip install
'ketcycle[preference,exports,llama-cpp]'`, 8 GB of memory and 5 GB of disk. `--write` puts the table into
`docs/stages/inference.md`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from spdx_python_model import v3_0_1 as spdx

from benchmarks.page import write_part
from benchmarks.training import table
from infra.lake import Lake, Ref, sha256
from infra.settings import environment_with
from tasks.inference.bom import NAME
from tasks.inference.exports import Onnx
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.examples import DATA

PAGE = Path(__file__).parents[1] / "docs" / "stages" / "inference.md"
ROOT = Path(__file__).parents[1]
KETCYCLE = (sys.executable, "-m", "flows.cli")
RUN, SAMPLED_S, WRITTEN = "chain", 0.5, 8
SIZES = {"tokens": 4096, "steps": 4, "recovery": 2048}
SETTINGS = """\
home = "{home}"
workers = 1

[options.preprocessing]
context = 128

[options.training]
evaluate_windows = 8
evaluation_windows = 8

[options.finetuning]
data = "{chats}"
preferences = "{pairs}"
method = "dora"
tokens = {tokens}
batch = 4
preference_steps = {steps}

[options.inference]
recovery_tokens = {recovery}
batch = 4
exports = ["gguf", "gguf-q8_0", "onnx", "onnx-int4"]

[options.inference.pruning]
calibration_tokens = 1024
surrogate_tokens = 512
surrogate_masks = 6
units = 6
"""
# What the output of the run names, and the part of the table that it begins.
PARTS = {
    "curation": "text: curation, preprocessing, decision `state_loading`",
    "architecture": "the model is read, checked and scored",
    "finetuning: measure": "fine-tuning: scores before",
    "finetuning: adapt": "fine-tuning: DoRA, {tokens} tokens",
    "finetuning: align": "preferences: DPO, {steps} steps",
    "finetuning: pose head": "decision `head`",
    "inference: measure": "pruning: units and surrogate",
    "inference: pose pruning": "decision `pruning`",
    "inference: prune": "pruning: removal, recovery and its control",
    "inference: compare_forms": "number formats",
    "inference: export_forms": "exports: GGUF, ONNX",
    "inference: write_card": "card, bill of materials, registration",
    "inference: serve": "the server is started and asked",
    "monitoring": "monitoring",
}


@dataclass
class Part:
    """CPU seconds and the largest memory of a part of a run."""

    cpu_s: float = 0.0
    peak_bytes: int = 0


@dataclass
class Meter:
    """Samples a process and its children; what they use is counted for the part that was named last."""

    root: psutil.Process
    named: str = "start"
    parts: dict[str, Part] = field(default_factory=dict)
    _spent: float = 0.0

    def name(self, line: str) -> None:
        """Begin the part that a line of the output names, if it names one."""
        for mark in PARTS:
            if re.search(rf" s  {re.escape(mark)}\b", line):
                self.sample()
                self.named = mark

    def sample(self) -> None:
        """Count what was used since the last sample; the times of a process hold those of its children that ended."""
        spent, memory = 0.0, 0
        try:
            for process in (self.root, *self.root.children(recursive=True)):
                spent += sum(process.cpu_times()[:4])
                memory += process.memory_full_info().pss
        except psutil.Error:  # one ended meanwhile; the next sample counts it
            return
        part = self.parts.setdefault(self.named, Part())
        part.cpu_s += max(0.0, spent - self._spent)
        part.peak_bytes = max(part.peak_bytes, memory)
        self._spent = max(spent, self._spent)


def run(folder: Path, model: Path, text: Path) -> Meter:
    """Run the lifecycle in a folder that has a `ketcycle.toml`, and return what its parts used.

    Raises:
        RuntimeError: the run failed; its output is in `run.log`.
    """
    command = [*KETCYCLE, "run", "--model", str(model), "--evaluate", str(text), "--run", RUN]
    command += ["--method", "classical", "--plain", "--verbose"]
    with _started(command, folder) as process, (folder / "run.log").open("w", buffering=1) as log:
        meter = Meter(psutil.Process(process.pid))

        def read() -> None:
            for line in process.stdout or ():
                log.write(line)
                meter.name(line)

        reader = Thread(target=read)
        reader.start()
        while process.poll() is None:
            meter.sample()
            time.sleep(SAMPLED_S)
        reader.join()
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}; see {folder / 'run.log'}")
    return meter


def ask(folder: Path, question: str) -> tuple[str, Part]:
    """Serve the registered model and return its answer, and what the server used."""
    command = [*KETCYCLE, "serve", "--model", "models:/ketcycle@challenger", "--port", "0"]
    with _started(command, folder) as process:
        meter, url = Meter(psutil.Process(process.pid)), ""
        for line in process.stdout or ():
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                url = found[0]
                break
        if not url:
            raise RuntimeError("`ketcycle serve` ended before it listened")
        given = {"messages": [{"role": "user", "content": question}], "max_tokens": 8, "temperature": 0}
        answer = httpx.post(f"{url}/v1/chat/completions", json=given, timeout=120).raise_for_status().json()
        meter.sample()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    return str(answer["choices"][0]["message"]["content"]), meter.parts["start"]


@contextmanager
def _started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    environment = environment_with(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def check_exports(model: Path, exports: Path, question: str) -> list[tuple[str, ...]]:
    """Return for each exported file what its runtime answers, and how many first tokens of it are the model's.

    Raises:
        RuntimeError: a file of full precision gives another answer.
    """
    tokenizer, asked = load_tokenizer(model), [{"role": "user", "content": question}]
    chat = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    ids = np.array(tokenizer.encode(chat, add_special_tokens=False))
    own = _ended(_written(load_model(model), ids), tokenizer)
    found = {form: _ended(Onnx(exports / form).write(ids, WRITTEN), tokenizer) for form in ("onnx", "onnx-int4")}
    for form in ("gguf", "gguf-q8_0"):
        found[form] = tokenizer.encode(_llama_cpp(exports / form / "model.gguf", asked), add_special_tokens=False)
    for form in ("onnx", "gguf"):
        if found[form] != own:
            raise RuntimeError(f"{form} answers {tokenizer.decode(found[form])!r}, the model {tokenizer.decode(own)!r}")
    same = {form: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(read, own, strict=False)))
            for form, read in found.items()}  # fmt: skip
    return [(form, str(tokenizer.decode(read)), f"{same[form]} of {len(own)}") for form, read in found.items()]


def _llama_cpp(file: Path, asked: list[dict[str, str]]) -> str:
    import xllamacpp

    given = xllamacpp.CommonParams()
    given.model.path = str(file)
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
    given.n_parallel, given.n_ctx, given.warmup = 1, 512, False
    answer: Any = xllamacpp.Server(given).handle_chat_completions(
        {"messages": asked, "max_tokens": WRITTEN, "temperature": 0}
    )
    return str(answer["choices"][0]["message"]["content"])


def _ended(tokens: np.ndarray, tokenizer: Any) -> list[int]:
    """Return tokens up to the end of the answer."""
    return list(takewhile(lambda token: token != tokenizer.eos_token_id, tokens.tolist()))


def _written(model: Any, ids: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(ids)[None]
    with torch.inference_mode():
        for _ in range(WRITTEN):
            tokens = torch.cat([tokens, model(tokens, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return tokens[0, len(ids) :].numpy()


def check_papers(folder: Path, facts: Mapping[str, Any], model: Path, files: Sequence[Path]) -> None:
    """Check model card and bill of materials against the run.

    Raises:
        RuntimeError: they lack a figure, a file or a digest.
    """
    card = (folder / "README.md").read_text(encoding="utf-8")
    scores = {name: row[DATA] for name, row in facts["bits_per_byte"].items()}
    wanted = [f"{value:.4f}" for value in scores.values()] + [file.name for file in files]
    wanted += [f"Chosen: {facts['forms']['chosen']}.", facts["lifecycle"]["sentence"]]
    bill = spdx.SHACLObjectSet()
    spdx.JSONLDDeserializer().read(io.BytesIO((folder / NAME).read_bytes()), bill)
    digests = {entry.hashValue for element in bill.objects for entry in getattr(element, "verifiedUsing", ())}
    lacking = [text for text in wanted if text not in card]
    lacking += [path.name for path in (model / "model.safetensors", *files) if sha256(path) not in digests]
    if lacking or bill.missing_ids:
        raise RuntimeError(f"card and bill of materials lack {lacking}; unknown elements: {bill.missing_ids}")


def main(arguments: list[str] | None = None) -> None:
    """Run, check and print the table, and write it into the page of the stage if told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "chats", "pairs", "text"):
        parser.add_argument(name, type=lambda given: Path(given).resolve())
    parser.add_argument(
        "--home", type=Path, help="folder that keeps settings, state and output; default a temporary one"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/stages/inference.md")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.home or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        settings = SETTINGS.format(home=folder.resolve() / "home", chats=given.chats, pairs=given.pairs, **SIZES)
        (folder / "ketcycle.toml").write_text(settings)
        made = measure(folder, given)
    sys.stdout.write(made)
    if given.write:
        write_part(PAGE, "chain", made)


def measure(folder: Path, given: argparse.Namespace) -> str:
    """Run the chain in a folder, check its products, and return the tables."""
    meter = run(folder, given.model, given.text)
    stages = json.loads((folder / "home" / "runs" / RUN / "run.json").read_text())["stages"]
    state = stages["inference"]
    lake = Lake(folder / "home" / "lake")
    refs = {name: Ref.parse(ref) for name, ref in state["refs"].items()}
    model = lake.folder(refs["inference/model"])
    question = json.loads(given.chats.read_text().splitlines()[0])["messages"][0]["content"]
    check_papers(lake.folder(refs["inference/card"]), state["facts"], model, (given.chats, given.pairs))
    same = check_exports(model, lake.folder(refs["inference/exports"]), question)
    answer, server = ask(folder, question)
    rows = [_row(title.format(**SIZES), meter.parts[mark]) for mark, title in PARTS.items() if mark in meter.parts]
    rows.append(_row("`ketcycle serve`, one chat completion", server))
    whole = Part(sum(part.cpu_s for part in meter.parts.values()), max(p.peak_bytes for p in meter.parts.values()))
    rows.append(_row("the run", whole))
    scores = {name.replace("_", " "): row[DATA] for name, row in state["facts"]["bits_per_byte"].items()}
    said = ", ".join(f"{value:.3f} {name}" for name, value in scores.items())
    sys.stderr.write(f"asked {question!r}, the server answered {answer!r}\n")
    return (
        f"{table(('part', 'CPU s', 'peak MiB'), rows)}\nBits per byte of the answers of held-out rows: {said}.\n\n"
        f"{table(('exported file', 'answer of ONNX Runtime or llama.cpp', 'first tokens as of the model'), same)}"
    )


def _row(title: str, part: Part) -> tuple[str, ...]:
    return title, f"{part.cpu_s:.0f}", f"{part.peak_bytes / 2**20:,.0f}"


if __name__ == "__main__":
    main()
