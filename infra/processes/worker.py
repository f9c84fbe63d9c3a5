"""`python -m infra.processes.worker ARGUMENT ...`: `prefect worker start`, which reports the end of each attempt once.

The process worker of prefect 3.8.8 to 3.9.1 reports a process that died, runs the hooks of its flow in a new process,
which takes seconds, and reports the death again. A flow run that was retried in between would be set to `Crashed`.
"""

from __future__ import annotations

from itertools import dropwhile
from typing import TYPE_CHECKING

from prefect.workers.process import ProcessWorker

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun

_propose = ProcessWorker._propose_crashed_state  # noqa: SLF001  (no public way to change what a worker reports)


async def propose_once(
    worker: ProcessWorker, flow_run: FlowRun, message: str, client: PrefectClient | None = None
) -> None:
    """Report that an attempt crashed, unless its end was reported before.

    Args:
        worker: that started the attempt.
        flow_run: as the worker took it, with the id of the state that it had then.
        message: what is known of the crash.
        client: of the Prefect server, if not the worker's.
    """
    states = await (client or worker.client).read_flow_run_states(flow_run.id)
    own = dropwhile(lambda state: state.id != flow_run.state_id, sorted(states, key=lambda state: state.timestamp))
    if not any(state.is_final() for state in own):
        await _propose(worker, flow_run, message, client)


def main() -> None:
    """Start the worker."""
    from prefect.cli import app

    setattr(ProcessWorker, "_propose_crashed_state", propose_once)  # noqa: B010  (typed as a method)
    app()


if __name__ == "__main__":
    main()
