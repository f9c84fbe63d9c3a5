from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from infra.errors import BadInput
from tasks.finetuning.conversations import Message, Row
from tasks.finetuning.examples import Encoder, Example, pack
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.score import nll

CHAT = Row(
    "f line 1",
    (
        Message("system", "Be brief."),
        Message("user", "licence?"),
        Message("assistant", "PSF é"),
        Message("user", "year?"),
        Message("assistant", "2001"),
    ),
)
CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def encoder(pretrained: Callable[[str], Path]) -> Callable[[str], Encoder]:
    tokenizer = load_tokenizer(pretrained("llama"))
    return partial(Encoder, tokenizer)


def learnt_text(encoder: Encoder, example: Example) -> str:
    return str(encoder._tokenizer.decode(example.ids[example.learnt]))


def test_only_the_answers_of_a_chat_are_learnt(encoder: Callable[..., Encoder]) -> None:
    made = encoder(CHATML)
    example = made.encode(CHAT)
    assert learnt_text(made, example) == "PSF é</>\n2001</>\n"
    assert example.n_bytes[example.learnt].sum() == len("PSF é</>\n2001</>\n".encode())
    only_last = made.encode(replace(CHAT, learnt_from=3))
    assert learnt_text(made, only_last) == "2001</>\n"
    assert np.array_equal(only_last.ids, example.ids)


def test_a_tokenizer_without_a_template_gets_a_plain_one_that_ends_each_answer(encoder: Callable[..., Encoder]) -> None:
    made = encoder()
    example = made.encode(CHAT)
    assert (example.ids[example.learnt] == made.end).sum() == 2
    assert example.n_bytes[example.ids == made.end].sum() == 0


def test_of_prompt_and_completion_the_completion_and_the_end_are_learnt(encoder: Callable[..., Encoder]) -> None:
    made = encoder()
    example = made.encode(Row("f", prompt="The year is", completion=" 2001."))
    assert made._tokenizer.decode(example.ids[example.learnt][:-1]) == " 2001."
    assert example.ids[-1] == made.end
    assert example.learnt[-1]
    whole = made.encode(Row("f", completion="All of it."))
    assert whole.learnt[1:].all()


def test_what_cannot_be_encoded_is_named(encoder: Callable[..., Encoder]) -> None:
    with pytest.raises(BadInput, match="f line 1: the chat template refuses this chat"):
        encoder("{{ raise_exception('no system role') }}").encode(CHAT)
    with pytest.raises(BadInput, match="rewrites earlier turns"):
        encoder("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}").encode(CHAT)
    made = encoder()
    end = made._tokenizer.convert_ids_to_tokens(made.end)
    with pytest.raises(BadInput, match="f line 9: the text contains the special token"):
        made.encode(Row("f line 9", completion=f"a {end} b"))


def examples(*lengths: int) -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(1, 300, n), np.arange(n) >= n // 2, np.full(n, 2, np.int64), f"line {row}")
        for row, n in enumerate(lengths, 1)
    ]


def test_packing_loses_no_learnt_token_and_fills_the_windows() -> None:
    given = examples(9, 17, 4, 8, 12, 5)
    packed = pack(given, 16, 0)
    assert (len(packed.windows), packed.rows, packed.cut, packed.dropped) == (4, 6, 0, 0)
    assert packed.windows.scored is not None
    assert packed.windows.scored.sum() == sum(e.learnt[1:].sum() for e in given)
    assert packed.windows.n_bytes.sum() == 2 * packed.windows.scored.sum()
    assert packed.filled == pytest.approx(55 / 68)
    assert len(pack(given, 16, 0, together=False).windows) == 6


def test_rows_that_do_not_fit_are_counted() -> None:
    packed = pack(examples(6, 20, 40), 16, 0)  # nothing that is learnt of the last lies within 17 tokens
    assert (packed.rows, packed.cut, packed.dropped, packed.first_left) == (2, 1, 1, "line 2")
    with pytest.raises(ValueError, match=r"none of 1 rows .*the first is line 1"):
        pack(examples(40), 16, 0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_of_one_window_do_not_see_each_other(kind: str, pretrained: Callable[[str], Path]) -> None:
    model, given = load_model(pretrained(kind)), examples(9, 7, 11, 4, 6)
    packed, alone = (pack(given, 20, 0, together=together) for together in (True, False))
    assert len(packed.windows) < len(alone.windows)
    assert nll(model, packed.windows).sum() == pytest.approx(nll(model, alone.windows).sum(), rel=1e-5)
    total = 0.0
    with torch.inference_mode():
        for example in given:
            ids = torch.from_numpy(example.ids)[None]
            losses = cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
            total += float(losses[torch.from_numpy(example.learnt[1:])].sum())
    assert nll(model, packed.windows).sum() == pytest.approx(total, rel=1e-5)
