"""Number formats and runtimes of a model on this machine: speed, energy, quality, size.

    python -m benchmarks.quantised MODEL TEXT [--seconds 2] [--windows 4] [--exports FOLDER]

Prints tokens read and written per CPU second (measured), joules per 1,000 tokens with their 5 % and 95 % points
(modelled), bits per byte (measured) with weights in fp32, bfloat16 and INT8 as the server runs them, and the format
that `ketcycle run` would choose. With a folder for exports (extras `exports` and `llama-cpp`, and `openvino` where it
is installed) also of ONNX Runtime (fp32, weights in 4 bits), OpenVINO (fp32, its own choice of precision) and llama.cpp
(fp32, weights in 8 bits: Q8_0). One thread each. llama.cpp gives no likelihoods of a prompt, so the bits per byte of
its rows are those of the weights that the file holds, read back and run by PyTorch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from tasks.inference.card import form_rows
from tasks.inference.exports import Onnx, export, size
from tasks.inference.forms import DECODED, choose_form, measure_forms
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.score import bits_per_byte
from tasks.model.windows import Windows, token_bytes

Row = dict[str, Any]


def text_windows(folder: Path, path: Path, count: int, context: int) -> Windows:
    """Return the first windows of a text with the bytes that they predict."""
    text = path.read_text(encoding="utf-8")[: 12 * count * (context + 1)]
    encoded = load_tokenizer(folder).backend_tokenizer.encode(text, add_special_tokens=False)
    tokens = np.array(encoded.ids[: count * (context + 1)], np.int64).reshape(count, -1)
    sizes = token_bytes(text, [end for _, end in encoded.offsets])[: tokens.size].reshape(count, -1)
    return Windows(tokens, sizes[:, 1:].sum(axis=1))


def rate(run: Callable[[], int], seconds: float) -> float:
    """Return tokens per CPU second of this process, all its threads included; the first run warms the caches."""
    run()
    done, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds or not done:
        done += run()
    return done / spent


def row(read: float, written: float, quality: float, stored: int) -> Row:
    """Return a row like those of `measure_forms`."""
    found: Row = {"bits_per_byte": quality, "bytes": stored}
    for name, speed in (("read", read), ("written", written)):
        band = Coefficients.load().cpu_energy_j(Usage(cpu_s=1000 / speed), source="modelled")
        found[f"{name}_tokens_per_cpu_s"] = speed
        found[f"j_per_1000_{name}"] = [band.p5, band.p50, band.p95]
    return found


def quality_of(logits: Callable[[np.ndarray], np.ndarray], text: Windows) -> float:
    """Return the bits per byte of a decoder that gives logits (m, vocabulary) of m tokens."""
    total = 0.0
    for tokens in text.tokens:
        found = torch.from_numpy(np.asarray(logits(tokens[:-1]), np.float32))
        total += float(torch.nn.functional.cross_entropy(found, torch.from_numpy(tokens[1:]), reduction="sum"))
    return total / (math.log(2) * int(text.n_bytes.sum()))


def onnx_rows(folder: Path, text: Windows, seconds: float, work: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of ONNX Runtime."""
    for form in ("onnx", "onnx-int4"):
        made = export(folder, form, work / form)
        yield f"ONNX Runtime {form.partition('-')[2] or 'fp32'}", _onnx(Onnx(made), text, seconds, size(made))


def _onnx(decoder: Onnx, text: Windows, seconds: float, stored: int) -> Row:
    tokens = text.tokens[0, :-1]
    read = rate(lambda: len(decoder.logits(tokens)), seconds)
    written = rate(lambda: len(decoder.write(tokens[:1], DECODED)), seconds)
    return row(read, written, quality_of(decoder.logits, text), stored)


def openvino_rows(text: Windows, seconds: float, made: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of OpenVINO, which reads the file made for ONNX Runtime."""
    for name, hint in (("fp32", {"INFERENCE_PRECISION_HINT": "f32"}), ("own choice", {})):
        yield f"OpenVINO {name}", _openvino(text, seconds, made, {"INFERENCE_NUM_THREADS": 1, **hint})


def _openvino(text: Windows, seconds: float, made: Path, settings: dict[str, Any]) -> Row:
    import openvino

    model = openvino.Core().compile_model(str(made / "model.onnx"), "CPU", settings)
    about = json.loads((made / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    nothing = np.zeros((1, about["num_key_value_heads"], 0, about["head_size"]), np.float32)
    empty = {name: nothing for i in model.inputs if "past" in (name := i.get_any_name())}

    def step(tokens: np.ndarray, kept: dict[str, Any], length: int) -> tuple[np.ndarray, dict[str, Any]]:
        given = {"input_ids": tokens[None], "attention_mask": np.ones((1, length), np.int64)}
        found = {key.get_any_name(): value for key, value in model({**given, **kept}).items()}
        return found["logits"][0].copy(), {
            key: found[key.replace("past_key_values", "present")].copy() for key in empty
        }

    def logits(tokens: np.ndarray) -> np.ndarray:
        return step(tokens, empty, len(tokens))[0]

    def write() -> int:
        tokens, kept = text.tokens[0, :1], empty
        for length in range(1, DECODED + 1):
            found, kept = step(tokens, kept, length)
            tokens = found[-1:].argmax(axis=1)
        return DECODED

    read = rate(lambda: len(logits(text.tokens[0, :-1])), seconds)
    return row(read, rate(write, seconds), quality_of(logits, text), size(made))


def llama_cpp_rows(folder: Path, text: Windows, seconds: float, work: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of llama.cpp, its server inside this process."""
    for form in ("gguf", "gguf-q8_0"):
        made = export(folder, form, work / form)
        read, written = _llama_cpp(made, load_tokenizer(folder).decode(text.tokens[0, :-1]), seconds)
        yield f"llama.cpp {form.partition('-')[2] or 'fp32'}", row(read, written, _held(folder, made, text), size(made))


def _llama_cpp(made: Path, prompt: str, seconds: float) -> tuple[float, float]:
    """Return tokens read and written per CPU second."""
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path = str(made)
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1
    asked.n_parallel, asked.n_ctx, asked.warmup = 1, 1024, False
    server = xllamacpp.Server(asked)

    def ask(start: str, count: int) -> Any:
        given = {"prompt": start, "n_predict": count, "cache_prompt": False, "temperature": 0, "ignore_eos": True}
        return server.handle_completions(given)["timings"]

    read = rate(lambda: int(ask(prompt, 1)["prompt_n"]), seconds)
    return read, rate(lambda: int(ask("The", DECODED)["predicted_n"]), seconds)


def _held(folder: Path, made: Path, text: Windows) -> float:
    """Return the bits per byte of the weights of a GGUF file."""
    import gguf

    from tasks.serving.gateway.gguf_export import paired

    model: Any = load_model(folder)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(made).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = tensors[f"{names.get_name(name.removesuffix('.weight'))}.weight"]
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(parameter.shape)
            for part, count in heads.items():
                if name.endswith(f"{part}.weight"):  # back from pairs to halves
                    order = paired(np.arange(len(values), dtype=np.float32)[:, None], count)[:, 0].astype(int)
                    values = values[np.argsort(order)]
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return bits_per_byte(model, text)


def others(folder: Path, text: Windows, seconds: float, work: Path | None) -> Iterator[tuple[str, Row]]:
    """Yield the rows of other runtimes; none without a folder for their files."""
    if work is None:
        return
    yield from onnx_rows(folder, text, seconds, work)
    if importlib.util.find_spec("openvino"):
        yield from openvino_rows(text, seconds, work / "onnx")
    yield from llama_cpp_rows(folder, text, seconds, work)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds of each measurement")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--loss", type=float, default=0.01, help="bits per byte that a format may lose")
    parser.add_argument("--exports", type=Path, help="folder for the files of other runtimes")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    windows = text_windows(given.model, given.text, given.windows, given.context)
    with tempfile.TemporaryDirectory() as kept:
        rows = measure_forms(given.model, windows, given.seconds, Path(kept))["rows"]
    names = form_rows({"rows": rows})[0]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for found in chain(rows.items(), others(given.model, windows, given.seconds, given.exports)):
        (line,) = form_rows({"rows": dict([found])})
        print(f"| {' | '.join(line.values())} |", flush=True)
    print(f"chosen among the server's, losing at most {given.loss} bits per byte: {choose_form(rows, given.loss)}")


if __name__ == "__main__":
    main()
