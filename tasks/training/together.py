"""Training by several Dask workers: each takes its parts of every batch, gloo sums the gradients.

The worker that does the step of the stage is process 0 and opens a store; the others are given its address through the
scheduler. A worker that does not come, or is lost, ends the attempt for all. The training then continues at its last
checkpoint with the workers that are left, in the end with one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import distributed

from infra.energy.meter import Meter
from infra.processes.stopping import at_work
from infra.progress import forward_from_worker
from tasks.model.causal import load_model
from tasks.model.recipe import Precision, Recipe
from tasks.model.threads import torch_threads
from tasks.model.training.checkpoint import Place
from tasks.model.training.device import find_device
from tasks.model.training.loop import Run, Watch, train
from tasks.model.training.peers import GlooPeers, LostPeer, open_store
from tasks.model.training.precision import use_bf16
from tasks.parallel import free_workers
from tasks.records import record_work
from tasks.stage import Context, State
from tasks.training.text import context_length, options_of, store_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("ketcycle.training")

# Tokens of a step from which a second worker pays: exchange and computation grow alike with the model, so their ratio
# depends on the tokens alone (`python -m benchmarks.training workers`).
LARGE_STEP = 2048
GATHER_S = 180.0  # that the processes wait for each other before the first step
EXCHANGE_S = 600.0  # that an exchange waits, an evaluation by process 0 included
ATTEMPTS = 4  # with others; then this process trains alone, so that workers that always die cannot hold up a training
ENDED_S = 30.0  # after which a process that should have ended is given up


@dataclass(frozen=True)
class Share:
    """What another worker is given: its place in the group, and how it trains. Picklable.

    Attributes:
        context: the stage.
        state: what the stage has so far.
        recipe: settings of the training, the same in every process.
        address: host and port of the store.
        rank: number of the process.
        world: number of processes.
        every: steps between two exchanges.
    """

    context: Context
    state: State
    recipe: Recipe
    address: tuple[str, int]
    rank: int
    world: int
    every: int


def train_together(
    context: Context,
    state: State,
    recipe: Recipe,
    watch: Watch,
    sample: Callable[[PreTrainedModel], str] | None,
    place: Place | None,
) -> tuple[PreTrainedModel, Run, dict[str, Any]]:
    """Train on as many free workers as the options name, this one included.

    Args:
        context: the stage.
        state: what the stage has so far.
        recipe: settings of the training.
        watch: evaluation and reporting.
        sample: generates a text with a model, at each evaluation.
        place: where checkpoints are kept.

    Returns:
        the trained model, the run, and figures: `workers`, bytes sent by each process, attempts.
    """
    options = options_of(context)
    workers = options.workers or (2 if recipe.batch * context_length(context) >= LARGE_STEP else 1)
    if workers > 1:  # all processes must make products of one type, on whatever processors they are
        device = find_device(recipe.device).type
        precision: Precision = "bf16" if use_bf16(recipe.precision, device) else "fp32"
        recipe = replace(recipe, precision=precision, parts=max(2, recipe.parts))
    avoided: set[str] = set()
    attempts = 0
    while True:
        attempts += 1
        others: list[str] = []
        if workers > 1 and attempts <= ATTEMPTS:
            others = [address for address in free_workers() if address not in avoided][: workers - 1]
        model = load_model(context.lake.folder(context.require("architecture/model")))
        if sample is not None:
            watch = replace(watch, sample=partial(sample, model))
        windows = store_training(context, state, options)
        if not others:
            return model, train(model, windows, recipe, watch, place), {"workers": 1, "attempts": attempts}
        store = open_store(urlsplit(distributed.get_worker().address).hostname or "127.0.0.1", GATHER_S)
        world = len(others) + 1
        share = Share(context, state, recipe, (store.host, store.port), 0, world, options.exchange_every)
        futures = _invite(share, others)
        log.info("training on %d workers", world)
        try:
            peers = GlooPeers(store, 0, world, options.exchange_every, GATHER_S, EXCHANGE_S)
            run = train(model, windows, recipe, watch, place, peers)
            sent = [peers.bytes_sent, *(_bytes_of(address, future) for address, future in futures.items())]
        except LostPeer as error:
            lost = _lost(futures)
            avoided |= lost or set(others)
            log.warning("%s; continuing at the last checkpoint without %s", error, ", ".join(sorted(lost)) or "others")
        else:
            return model, run, {"workers": world, "attempts": attempts, "bytes_sent": sent}


def _invite(share: Share, others: list[str]) -> dict[str, Any]:
    """Start `take_part` on each of the other workers, and nowhere else; return the futures by address."""
    return {
        address: distributed.get_client().submit(
            take_part,
            replace(share, rank=rank),
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
            priority=10,
        )
        for rank, address in enumerate(others, 1)
    }


def take_part(share: Share) -> int:
    """Train as one of the other processes; return the bytes sent. Its CPU time is recorded as work of the stage."""
    context, options = share.context, options_of(share.context)
    forward_from_worker(context.run_id)
    with at_work(context.run_id), Meter() as meter, torch_threads(options.threads):
        store = open_store(share.address[0], GATHER_S, share.address[1])
        peers = GlooPeers(store, share.rank, share.world, share.every, GATHER_S, EXCHANGE_S)
        model = load_model(context.lake.folder(context.require("architecture/model")))
        windows = store_training(context, share.state, options)
        place = Place.of(context) if options.checkpoint_every else None
        train(model, windows, share.recipe, Watch(log=log), place, peers)
    record_work(context, f"train as process {share.rank}", meter.usage, meter.source, meter.peak_rss_mb)
    return peers.bytes_sent


def _bytes_of(address: str, future: Any) -> int | None:
    """Return the bytes that a worker has sent; None if it was lost after its last exchange, which costs no more."""
    try:
        return int(future.result(timeout=ENDED_S))
    except (distributed.KilledWorker, distributed.client.FutureCancelledError, TimeoutError, LostPeer) as error:
        log.warning("worker %s was lost after the training was done: %s", address, error)
        future.cancel()
        return None


def _lost(futures: dict[str, Any]) -> set[str]:
    """Wait until the other processes have noticed, and return the workers that are gone or do not answer."""
    give_up = time.monotonic() + ENDED_S
    left = dict(futures)
    gone: set[str] = set()
    while left and time.monotonic() < give_up:
        known = distributed.get_client().scheduler_info(n_workers=-1)["workers"]
        gone |= {address for address in left if address not in known}
        left = {a: future for a, future in left.items() if a in known and not future.done()}
        time.sleep(0.2)
    for address, future in futures.items():
        if future.status == "error":
            log.warning("worker %s: %s", address, future.exception())
        future.cancel()
    return gone | set(left)
