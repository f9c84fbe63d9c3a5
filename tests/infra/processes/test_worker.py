"""The end of an attempt of a flow run is reported once, also when the run was retried since."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry, Crashed, Pending, Running, Scheduled

from infra.processes import worker

pytestmark = pytest.mark.engine


def reports(states: list[State[Any]], taken: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often a crash is reported of the attempt that the worker took in one of some states."""
    told: list[str] = []

    async def propose(*arguments: Any) -> None:
        told.append(arguments[2])

    async def read(_: Any) -> list[State[Any]]:
        return states[::-1]

    monkeypatch.setattr(worker, "_propose", propose)
    client = SimpleNamespace(read_flow_run_states=read)
    run = FlowRun(flow_id=uuid4(), state_id=states[taken].id)
    asyncio.run(worker.propose_once(SimpleNamespace(client=client), run, "it died"))  # type: ignore[arg-type]
    return len(told)


def test_the_first_report_is_made_and_the_second_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    lived: list[State[Any]] = [Scheduled(), Pending(), Running()]
    assert reports(lived, 0, monkeypatch) == 1
    assert reports([*lived, Crashed()], 0, monkeypatch) == 0


def test_a_retry_is_not_ended_by_the_report_of_the_attempt_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[State[Any]] = [Scheduled(), Pending(), Running(), Crashed(), AwaitingRetry(), Pending(), Running()]
    assert reports(states, 0, monkeypatch) == 0
    assert reports(states, 4, monkeypatch) == 1, "the second attempt's own crash is reported"
