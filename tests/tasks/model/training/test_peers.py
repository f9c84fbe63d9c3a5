from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._C._distributed_c10d import HashStore
from transformers import LlamaForCausalLM

from tasks.model.recipe import Recipe
from tasks.model.training.loop import Run, make_optimizers, train
from tasks.model.training.peers import GlooPeers, LostPeer, open_store
from tasks.model.windows import Windows

Make = Callable[..., LlamaForCausalLM]
Data = Callable[..., Windows]
RECIPE = Recipe(tokens=6 * 8 * 16, batch=8, parts=2, seed=3, precision="fp32")


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.history if "loss" in row]


def together(world: int, work: Callable[[int, Any], Any]) -> list[Any]:
    """Run one thread for each process of a group."""
    store = open_store("127.0.0.1", 20)

    def one(rank: int) -> Any:
        mine = store if rank == 0 else open_store("127.0.0.1", 20, store.port)
        return work(rank, mine)

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_that_share_a_batch_train_as_one(tiny: Make, counting: Data, world: int) -> None:
    alone = tiny()
    recipe = replace(RECIPE, parts=world)
    reference = train(alone, counting(), recipe)
    models = [tiny() for _ in range(world)]

    def work(rank: int, store: Any) -> tuple[Run, int]:
        peers = GlooPeers(store, rank, world)
        return train(models[rank], counting(), recipe, peers=peers), peers.bytes_sent

    found = together(world, work)
    for run, _ in found:
        assert losses(run) == pytest.approx(losses(reference), rel=1e-4)
    for values in zip(*(model.parameters() for model in models), strict=True):
        assert all(torch.equal(values[0], value) for value in values[1:])
    for mine, theirs in zip(models[0].parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, theirs) if world == 2 else torch.allclose(mine, theirs, atol=1e-3)
    weights = sum(p.numel() for p in alone.parameters())
    updates = sum(p.numel() for group in make_optimizers(alone, recipe)["muon"].param_groups for p in group["params"])
    assert found[0][1] == pytest.approx(6 * (weights + 1 + updates) * 4 * 2 * (world - 1) / world, rel=0.01)


def test_local_steps_exchange_less_and_end_with_the_same_weights(tiny: Make, counting: Data) -> None:
    models = [tiny() for _ in range(2)]

    def work(rank: int, store: Any) -> int:
        peers = GlooPeers(store, rank, 2, every=3)
        train(models[rank], counting(200), RECIPE, peers=peers)
        return peers.bytes_sent

    sent = together(2, work)
    weights = sum(p.numel() for p in models[0].parameters())
    assert sent[0] == pytest.approx(2 * weights * 4, rel=0.01)  # two exchanges in six steps
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_lost_process_is_noticed(tiny: Make, counting: Data) -> None:
    def work(rank: int, store: Any) -> str:
        peers = GlooPeers(store, rank, 2, exchange_s=3)
        recipe = RECIPE if rank == 0 else replace(RECIPE, steps=2)  # the second process leaves after two steps
        try:
            train(tiny(), counting(), recipe, peers=peers)
        except LostPeer as error:
            return str(error)
        return "done"

    lost, left = together(2, work)
    assert "an exchange failed" in lost
    assert left == "done"


def test_a_process_that_never_comes_does_not_hang_the_others() -> None:
    with pytest.raises(LostPeer, match="process 0 of 2 does not find the others"):
        GlooPeers(HashStore(), 0, 2, gather_s=1)
    with pytest.raises(LostPeer, match="no store answers"):
        open_store("127.0.0.1", 1, port=1)
