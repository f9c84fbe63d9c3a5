import numpy as np
import pytest

from tasks.monitoring.replay import cut_prompts, plan_replay

BASE = [f"base {i}" for i in range(100)]
SECOND = [f"second {i}" for i in range(30)]
SIZES = {"reference": 20, "window": 10, "mixture": 0.4, "drifted": 2, "background": 30}


def test_no_prompt_is_sent_twice_and_the_mixture_is_as_asked() -> None:
    replay = plan_replay(BASE, SECOND, np.random.default_rng(0), **SIZES)  # type: ignore[arg-type]
    assert [s.label for s in replay.streams] == ["reference", "base-1", "mixture-1", "mixture-2"]
    assert [len(s.prompts) for s in replay.streams] == [20, 10, 10, 10]
    assert [sum(p.startswith("second") for p in s.prompts) for s in replay.streams] == [0, 0, 4, 4]
    assert [s.drifted for s in replay.streams] == [False, False, True, True]
    everything = [*replay.background, *replay.alien, *(p for s in replay.streams for p in s.prompts)]
    assert len(set(everything)) == len(everything)
    assert len(replay.background) == 30
    assert len(replay.alien) == 22
    assert all(p.startswith("base") for p in replay.background)


def test_the_deal_depends_on_the_seed_alone() -> None:
    def deal(seed: int) -> object:
        return plan_replay(BASE, SECOND, np.random.default_rng(seed), **SIZES)  # type: ignore[arg-type]

    assert deal(1) == deal(1) != deal(2)


def test_without_a_second_domain_nothing_is_mixed_and_a_short_background_is_taken_as_it_is() -> None:
    replay = plan_replay(BASE[:35], [], np.random.default_rng(0), **SIZES)  # type: ignore[arg-type]
    assert [s.label for s in replay.streams] == ["reference", "base-1"]
    assert len(replay.background) == 5
    assert replay.alien == ()


def test_too_little_text_is_said_in_numbers() -> None:
    with pytest.raises(
        ValueError, match=r"needs 42 prompts of the base and 8 of the second domain; .* gives 40 and 30"
    ):
        plan_replay(BASE[:40], SECOND, np.random.default_rng(0), **SIZES)  # type: ignore[arg-type]


def test_prompts_are_distinct_passages_in_rounds_over_the_documents() -> None:
    texts = ["a b c d e f", "g h i j", "a b c", "k"]
    assert cut_prompts(texts, 3) == ["a b c", "g h i", "d e f"]
