"""A Llama in the transformers format as the GGUF file that llama.cpp reads: the same weights, other names.

Weights are fp32, or the matrices are quantised by the package's own routine (`Q8_0`: 8 bits, a scale for 32 weights).

Query and key rows are reordered, because llama.cpp turns neighbouring pairs where transformers turns the two halves of
a head. Written with the `gguf` package (extra `llama-cpp`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

Array = NDArray[np.float32]
BLOCK = 32  # weights that share a scale
# Names, in llama.cpp, of how byte-level tokenizers split words: GPT-2's expression, alone or behind single digits.
SPLITS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}


def export(folder: Path, target: Path, kind: str = "F32") -> Path:
    """Write a model folder as GGUF and return the file; one that is there already is taken.

    Args:
        folder: the model.
        target: the file.
        kind: `F32` or `Q8_0`; a matrix whose rows are no multiple of 32 stays fp32.

    Raises:
        BadInput: it is no plain Llama with a byte-level BPE tokenizer.
    """
    import gguf

    from tasks.model.causal import load_model, load_tokenizer
    from tasks.model.generation.llama import supports

    if target.is_file():
        return target
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if not supports(model) or state["model"]["type"] != "BPE" or not _splitting(state):
        raise BadInput(
            f"{folder} is no plain Llama with a byte-level BPE tokenizer that splits words as GPT-2's or SmolLM's does;"
            " convert it with llama.cpp's own script and give the .gguf file as --model"
        )
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    _describe(writer, model.config)
    if kind != "F32":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    _add_vocabulary(writer, gguf, state, tokenizer, int(model.config.vocab_size))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        weights = tensor.float().numpy()
        heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
        for part_name, count in heads.items():
            if name.endswith(f"{part_name}.weight"):
                weights = paired(weights, count)
        found = names.get_name(name.removesuffix(".weight"))
        data, form = np.ascontiguousarray(weights), gguf.GGMLQuantizationType.F32
        if kind != "F32" and data.ndim == 2 and data.shape[1] % BLOCK == 0:
            form = gguf.GGMLQuantizationType[kind]
            data = gguf.quants.quantize(data, form)
        writer.add_tensor(f"{found}.weight", data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)
    return target


def paired(weights: Array, heads: int) -> Array:
    """Return rows of each head in llama.cpp's order: (first half, second half) becomes pairs, (rows, width)."""
    return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def _describe(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: Any, gguf: Any, state: dict[str, Any], tokenizer: Any, size: int) -> None:
    from tasks.model.causal import separator

    texts = {index: text for text, index in tokenizer.get_vocab().items()}
    special = {entry["id"] for entry in state["added_tokens"] if entry["special"]}
    kinds = [
        gguf.TokenType.UNUSED if i not in texts else gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
        for i in range(size)
    ]
    merges = state["model"]["merges"]
    first = separator(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(state))
    writer.add_token_list([texts.get(i, f"[unused{i}]") for i in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    if first is not None:
        writer.add_bos_token_id(first)
    if tokenizer.eos_token_id is not None:
        writer.add_eos_token_id(tokenizer.eos_token_id)
    # A chat begins as its template says; llama.cpp would put the token before chats, too, which changes answers.
    writer.add_add_bos_token(first is not None and not tokenizer.chat_template)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _splitting(state: dict[str, Any]) -> str:
    """Return llama.cpp's name of the word splitting of a tokenizer, or an empty text where it has none."""
    found = state["pre_tokenizer"] or {"type": ""}
    parts = found["pretokenizers"] if found["type"] == "Sequence" else [found]
    usual = {"use_regex": True, "individual_digits": True, "add_prefix_space": False}
    plain = all(part.get(name, value) == value for part in parts for name, value in usual.items())
    return SPLITS.get(tuple(part["type"] for part in parts), "") if plain else ""
