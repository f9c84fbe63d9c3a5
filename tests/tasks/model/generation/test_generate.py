from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.model.generation import generate as generation
from tasks.model.generation.decode import Vocabulary
from tasks.model.generation.generate import Sampling, Text, Texts, complete, encode_prompt, generate

Make = Callable[..., LlamaForCausalLM]
END = "<end>"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """End of text, 59 ASCII characters and the four bytes of an emoji."""
    alphabet = dict(zip(range(256), _byte_characters(), strict=True))
    texts = [chr(c) for c in range(ord("@"), ord("z") + 1)]
    vocab = {END: 0} | {text: i for i, text in enumerate(texts, 1)}
    vocab |= {alphabet[byte]: 60 + i for i, byte in enumerate("😀".encode())}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's alphabet."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def script(monkeypatch: pytest.MonkeyPatch, ids: list[int]) -> None:
    """Let the next token be decided by a list instead of by the logits."""
    left, draw = iter(ids), Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, said, _: draw(text, said, next(left)))


@pytest.mark.parametrize("fast", [True, False])
def test_greedy_text_is_that_of_transformers(
    tiny: Make, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    model: Any = tiny(max_position_embeddings=48)
    if not fast:
        monkeypatch.setattr(generation, "supports", lambda _: False)
    for prompt in ("hello", "Zebra", "x"):
        ids = torch.tensor([encode_prompt(model, tokenizer, prompt)])
        with torch.no_grad():
            expected = model.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        done = complete(model, tokenizer, prompt, Sampling(max_tokens=30))
        assert list(done.ids) == expected.tolist()
        assert done.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert done.n_prompt == ids.shape[1]


def test_log_probabilities_are_those_of_the_model(tiny: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(max_position_embeddings=48)
    done = complete(model, tokenizer, "abc", Sampling(max_tokens=8, temperature=0.7, seed=1))
    ids = torch.tensor([[*encode_prompt(model, tokenizer, "abc"), *done.ids]])
    with torch.no_grad():
        log_probabilities = torch.log_softmax(model(ids).logits[0], -1)
    expected = [float(log_probabilities[at - 1, ids[0, at]]) for at in range(4, ids.shape[1])]
    assert done.logprobs == pytest.approx(expected, abs=1e-4)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(
    tiny: Make, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [complete(tiny(), tokenizer, "a", Sampling(max_tokens=12, temperature=1.0, seed=s)).ids for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    scores = torch.log_softmax(logits, -1).numpy()
    rng = np.random.default_rng(0)
    draws = [generation._draw(scores, Sampling(temperature=1.0), rng) for _ in range(4000)]
    assert np.bincount(draws, minlength=4) / 4000 == pytest.approx(torch.softmax(logits, -1).numpy(), abs=0.03)
    cold = [generation._draw(scores, Sampling(temperature=0.5), rng) for _ in range(4000)]
    assert np.bincount(cold, minlength=4) / 4000 == pytest.approx(torch.softmax(logits * 2, -1).numpy(), abs=0.03)
    few = [generation._draw(scores, Sampling(temperature=5.0, top_k=2), rng) for _ in range(500)]
    assert set(few) == {0, 1}


def test_a_stop_string_over_several_tokens_ends_the_text_before_it(
    tiny: Make, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, tokenizer.encode("abcxabcyz"))
    pieces = list(generate(tiny(), tokenizer, "q", Sampling(max_tokens=9, stop=("abcy", "nothing"))))
    assert "".join(piece.text for piece in pieces) == "abcx"
    assert [piece.text for piece in pieces] == ["", "", "", "abcx", "", "", "", ""]
    assert pieces[-1].finish == "stop"


def test_what_might_have_become_a_stop_string_is_given_out_at_the_end(
    tiny: Make, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, tokenizer.encode("xab"))
    done = complete(tiny(), tokenizer, "q", Sampling(max_tokens=3, stop=("abcy",)))
    assert (done.text, done.finish) == ("xab", "length")


def test_a_character_of_several_tokens_appears_when_it_is_whole(
    tiny: Make, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, tokenizer.encode("a😀b"))
    pieces = [piece.text for piece in generate(tiny(), tokenizer, "q", Sampling(max_tokens=6))]
    assert pieces == ["a", "", "", "", "😀", "b"]


def test_the_end_of_text_token_ends_the_text_and_is_not_part_of_it(
    tiny: Make, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, [*tokenizer.encode("ab"), 0, 5])
    done = complete(tiny(), tokenizer, "q", Sampling(max_tokens=9))
    assert (done.text, done.finish, len(done.ids)) == ("ab", "stop", 3)


@pytest.mark.parametrize("fast", [True, False])
def test_text_goes_on_past_the_context(
    tiny: Make, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr(generation, "supports", lambda _: False)
    model = tiny()
    done = complete(model, tokenizer, "abcdefghijklmnopqrstuvwxyz", Sampling(max_tokens=20, temperature=1.0, seed=3))
    assert done.n_prompt == 15
    assert len(done.ids) == 20 or done.finish == "stop"
    # After the context of 16 is full for the first time, the model has read the last 8 tokens.
    ids = [*encode_prompt(model, tokenizer, "abcdefghijklmnopqrstuvwxyz"), *done.ids]
    with torch.no_grad():
        log_probabilities = torch.log_softmax(model(torch.tensor([ids[9:17]])).logits[0, -1], -1)
    assert done.logprobs[2] == pytest.approx(float(log_probabilities[ids[17]]), abs=1e-4)


def test_an_empty_prompt_starts_from_the_end_of_text_token(tiny: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny()
    assert encode_prompt(model, tokenizer, "") == [0]
    assert len(complete(model, tokenizer, "", Sampling(max_tokens=2)).ids) >= 1
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="empty"):
        list(generate(model, tokenizer, ""))


def test_no_tokens_wanted_gives_an_empty_text(tiny: Make, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    done = complete(tiny(), tokenizer, "a", Sampling(max_tokens=0))
    assert (done.text, done.ids, done.finish) == ("", (), "length")


@pytest.mark.parametrize("fast", [True, False])
def test_texts_side_by_side_are_those_written_alone(
    tiny: Make, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr(generation, "supports", lambda _: False)
    model = tiny()
    asked = [
        ("hello", Sampling(max_tokens=3)),
        ("Z", Sampling(max_tokens=30, temperature=0.8, seed=4, top_p=0.9)),
        ("abcdefghijklm", Sampling(max_tokens=9, temperature=1.0, seed=7)),
        ("hey", Sampling(max_tokens=12, stop=("e",))),
        ("none", Sampling(max_tokens=0)),
    ]
    alone = [complete(model, tokenizer, prompt, sampling) for prompt, sampling in asked]
    texts, waiting = Texts(model, tokenizer, 2), list(enumerate(asked))
    found: dict[int, tuple[str, list[int]]] = {}
    names: dict[Any, int] = {}
    while waiting or texts.open:
        while waiting and len(texts.open) < texts.rows:
            index, (prompt, sampling) = waiting.pop(0)
            names[texts.add(encode_prompt(model, tokenizer, prompt), sampling)] = index
            found[index] = ("", [])
        for text, token in texts.draw():
            said, ids = found[names[text]]
            found[names[text]] = (said + token.text, [*ids, token.id])
        texts.advance()
    assert found == {i: (done.text, list(done.ids)) for i, done in enumerate(alone)}


def test_a_nucleus_is_the_smallest_set_that_holds_the_probability() -> None:
    scores = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))
    rng = np.random.default_rng(0)
    for top_p, expected in ((0.01, {1}), (0.5, {1}), (0.6, {1, 3}), (0.8, {1, 3, 2}), (1.0, {0, 1, 2, 3})):
        draws = {generation._draw(scores, Sampling(temperature=1.0, top_p=top_p), rng) for _ in range(300)}
        assert draws == expected, top_p


def test_the_most_probable_tokens_are_told_with_each_token(tiny: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    for token in generate(tiny(), tokenizer, "abc", Sampling(max_tokens=3, top=4)):
        assert token.top[0] == (token.id, pytest.approx(token.logprob))
        assert [p for _, p in token.top] == sorted((p for _, p in token.top), reverse=True)
        assert len(token.top) == 4


def test_penalties_and_bias_weigh_what_is_drawn_not_what_is_reported(tokenizer: PreTrainedTokenizerFast) -> None:
    said = torch.log_softmax(torch.tensor([0.0, 3.0, 2.5, 2.0, *[-9.0] * 60]), -1).numpy()

    def drawn(**asked: Any) -> list[int]:
        text = Text(Vocabulary(tokenizer), frozenset(), [1, 1, 1], Sampling(max_tokens=6, **asked))
        tokens = [text.draw(said, 1) for _ in range(6)]
        assert all(token.logprob == pytest.approx(float(said[token.id])) for token in tokens)
        return [token.id for token in tokens]

    assert drawn() == [1] * 6, "the prompt is not counted"
    assert drawn(presence_penalty=0.75) == [1, 2, 1, 1, 1, 1]
    assert drawn(frequency_penalty=0.6) == [1, 2, 1, 3, 2, 1]
    assert drawn(frequency_penalty=-1.0) == [1] * 6
    assert drawn(bias=((1, -100.0), (3, 0.6))) == [3] * 6
