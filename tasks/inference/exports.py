"""Files of a model for other runtimes: GGUF for llama.cpp, ONNX for ONNX Runtime and OpenVINO.

The converters are those of the runtimes' makers: `gguf`, and the model builder of `onnxruntime-genai`; the extra
`exports` installs both. `Onnx` reads such a file with ONNX Runtime, to compare it with the model it was made from.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from infra.errors import BadInput
from infra.settings import environment_with

if TYPE_CHECKING:
    from numpy.typing import NDArray

Export = Literal["gguf", "gguf-q8_0", "onnx", "onnx-int4"]
PACKAGES: Mapping[str, str] = {"gguf": "gguf", "onnx": "onnxruntime_genai"}


def export(folder: Path, form: Export, target: Path) -> Path:
    """Write a model in a form and return the file or folder.

    Args:
        folder: the model in the `transformers` format, its tokenizer beside it.
        form: `gguf` (fp32), `gguf-q8_0` (matrices in 8 bits), `onnx` (fp32) or `onnx-int4` (matrices in 4 bits).
        target: folder that is written.

    Raises:
        BadInput: the package is missing, or the runtime has no such architecture.
    """
    require_packages([form])
    runtime, _, kind = form.partition("-")
    target.mkdir(parents=True, exist_ok=True)
    if runtime == "onnx":
        return _onnx(folder, kind or "fp32", target)
    from tasks.serving.gateway.gguf_export import export as write_gguf

    return write_gguf(folder, target / "model.gguf", kind.upper() or "F32")


def require_packages(forms: Iterable[Export]) -> None:
    """Check whether the converters of some forms are installed.

    Raises:
        BadInput: one is missing.
    """
    for form in forms:
        if importlib.util.find_spec(PACKAGES[form.partition("-")[0]]) is None:
            raise BadInput(f"inference.exports={form} needs a package; `pip install 'ketcycle[exports]'`")


def size(path: Path) -> int:
    """Return the bytes of a file, or of the files of a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


class Onnx:
    """A decoder that `export` wrote, in ONNX Runtime on one thread.

    Args:
        folder: what `export` returned.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        about = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
        given = onnxruntime.SessionOptions()
        given.intra_op_num_threads = given.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            folder / about["filename"], given, providers=["CPUExecutionProvider"]
        )
        self._empty = (1, about["num_key_value_heads"], 0, about["head_size"])
        self._layers = int(about["num_hidden_layers"])

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits (m, vocabulary) after each of m tokens of one text."""
        return self._step(tokens, {})[0]

    def write(self, tokens: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return the `count` likeliest tokens after a text, one after another, from cached keys and values."""
        found, kept = self._step(tokens, {})
        written = []
        for _ in range(count):
            written.append(int(found[-1].argmax()))
            found, kept = self._step(np.array(written[-1:]), kept, len(tokens) + len(written))
        return np.array(written)

    def _step(
        self, tokens: NDArray[np.int64], kept: Mapping[str, Any], length: int | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        names = [f"{layer}.{part}" for layer in range(self._layers) for part in ("key", "value")]
        empty = np.zeros(self._empty, np.float32)
        inputs = {
            "input_ids": np.asarray(tokens, np.int64)[None],
            "attention_mask": np.ones((1, length or len(tokens)), np.int64),
            **{f"past_key_values.{name}": kept.get(name, empty) for name in names},
        }
        logits, *states = self._session.run(["logits", *(f"present.{name}" for name in names)], inputs)
        return logits[0], dict(zip(names, states, strict=True))


def _onnx(folder: Path, precision: str, target: Path) -> Path:
    """Run the model builder as its documentation says, in a process of its own, without network."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", precision]
    command += ["-i", str(folder), "-o", str(target), "-c", str(target / "cache")]
    environment = environment_with(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise BadInput(f"ONNX Runtime's builder refused the model in {folder}: {' '.join(reason)}")
    return target
