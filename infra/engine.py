"""Tasks and artifacts of a flow run: through Prefect inside a flow, without it otherwise.

A run without a Prefect server calls the same functions: a task is then a call on a worker of the current Dask cluster.
Prefect's engine would take two tenths of a CPU second for each task, and its server ten CPU seconds for each run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from infra.energy.processes import machine

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Future(Protocol[R_co]):
    """A submitted task."""

    def result(self, timeout: float | None = None) -> R_co:
        """Wait for the task and return its result, or raise its error.

        Raises:
            TimeoutError: it did not end in this many seconds.
        """


def in_flow() -> bool:
    """Return whether this code is called by a flow run that Prefect's engine runs."""
    context = sys.modules.get("prefect.context")  # only that engine imports it
    return context is not None and context.FlowRunContext.get() is not None


def submit(name: str, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> Future[R]:
    """Start a function of a module on the current Dask cluster, in a flow run as a task run of that name."""
    if in_flow():
        from prefect import task

        as_task: Any = task(name=function.__name__, task_run_name=name.replace("{", "{{").replace("}", "}}"))(function)
        return cast("Future[R]", as_task.submit(*arguments, **named))
    import distributed

    future: Any = distributed.get_client().submit(function, *arguments, **named, pure=False)
    return cast("Future[R]", future)


def outcome(future: Future[R], timeout_s: float | None = None) -> R | Exception:
    """Wait for a task and return its result, or the error that it raised.

    Raises:
        TimeoutError: it did not end in this many seconds.
    """
    started: Any = future
    if hasattr(started, "exception"):  # of Dask
        error: Exception | None = started.exception(timeout=timeout_s)
        return error or future.result()
    return cast("R | Exception", started.result(timeout=timeout_s, raise_on_failure=False))


def has_worker(future: Future[Any]) -> bool:
    """Return whether a worker of the current Dask cluster executes a task or is about to."""
    import distributed

    key = getattr(future, "wrapped_future", cast("Any", future)).key  # of Prefect, or Dask's own
    return any(key in keys for keys in distributed.get_client().processing().values())


def where_imported(module: str, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Call a function in a process of this machine that has imported a module already: this one or a Dask worker.

    It saves an import that takes seconds. Where none has imported it, or without a cluster, the call is made here.
    """
    if module not in sys.modules and (client := _client()):
        seen = client.run(_imported, module, on_error="ignore")
        if workers := [worker for worker, found in seen.items() if found == (machine(), True)]:
            place = {"workers": workers, "allow_other_workers": True, "priority": 10}
            return cast("R", client.submit(function, *arguments, **named, **place, pure=False).result())
    return function(*arguments, **named)


def _client() -> Any:
    """Return the client of the current Dask cluster, if there is one."""
    if "distributed" in sys.modules:  # which takes long to import
        import distributed

        with suppress(ValueError):
            return distributed.get_client()
    return None


def _imported(module: str) -> tuple[str, bool]:
    return machine(), module in sys.modules


def publish(text: str, key: str, description: str) -> None:
    """Put Markdown on the page of the current flow run; without one there is no such page."""
    if in_flow():
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(text, key=key, description=description)
