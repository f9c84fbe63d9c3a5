"""Processes that train one model together: what the loop needs of them, and sums by gloo, on CPUs, over TCP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch._C._distributed_c10d import Store, TCPStore  # torch.distributed does not export it to type checkers
from torch.distributed import AllreduceOptions, ProcessGroupGloo


class Peers(Protocol):
    """The processes that train one model together."""

    @property
    def rank(self) -> int:
        """Number of this process; process 0 evaluates and writes the checkpoints."""
        ...

    @property
    def world(self) -> int:
        """Number of processes."""
        ...

    @property
    def every(self) -> int:
        """Steps between two exchanges.

        1 = gradients are summed in every step, as one process would compute them; more = each process steps on its own
        and the weights are averaged (local SGD, Stich 2019).
        """
        ...

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process that trains on its own."""

    rank: int = 0
    world: int = 1
    every: int = 1

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Leave the tensors as they are."""


class LostPeer(Exception):
    """A process of the group has ended or does not answer."""


class GlooPeers:
    """One process of a group.

    The group belongs to this object and not to the process, so trainings can follow each other in a Dask worker.

    Attributes:
        rank: number of this process.
        world: number of processes.
        every: steps between two exchanges.
        bytes_sent: bytes that this process has sent: gloo's ring sends each value `2 (world - 1) / world` times.
    """

    def __init__(
        self, store: Store, rank: int, world: int, every: int = 1, gather_s: float = 60.0, exchange_s: float = 600.0
    ) -> None:
        """Join a group.

        Args:
            store: where the processes find each other.
            rank: number of this process.
            world: number of processes.
            every: steps between two exchanges.
            gather_s: seconds that the processes wait for each other here.
            exchange_s: seconds that an exchange waits for the others, an evaluation by process 0 included.

        Raises:
            LostPeer: the others do not come.
        """
        self.rank, self.world, self.every, self.bytes_sent = rank, world, every, 0
        self._exchange = timedelta(seconds=exchange_s)
        try:
            self._group: Any = ProcessGroupGloo(store, rank, world, timedelta(seconds=gather_s))
        except RuntimeError as error:
            raise LostPeer(f"process {rank} of {world} does not find the others: {error}") from error

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange.

        Raises:
            LostPeer: another process has ended or does not answer.
        """
        options = AllreduceOptions()
        options.timeout = self._exchange
        flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
        try:
            self._group.allreduce([flat], options).wait()
        except RuntimeError as error:
            raise LostPeer(f"process {self.rank} of {self.world}: an exchange failed: {error}") from error
        self.bytes_sent += round(flat.numel() * flat.element_size() * 2 * (self.world - 1) / self.world)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def open_store(host: str, timeout_s: float, port: int = 0) -> TCPStore:
    """Return the store of a group: a new one on this host (port 0, the free port is `store.port`), or that of another.

    Raises:
        LostPeer: no store answers there.
    """
    try:
        return TCPStore(host, port, None, port == 0, timedelta(seconds=timeout_s), wait_for_workers=False)
    except RuntimeError as error:
        raise LostPeer(f"no store answers at {host}:{port}: {error}") from error
