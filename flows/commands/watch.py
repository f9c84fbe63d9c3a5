"""The command that watches request logs of other programs: `watch`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from flows.commands.console import AsJson, Home, clear_errors, err, print_value
from infra import settings
from infra.settings import LogText

# Columns that are compared if no row lacks them.
WATCHED = ("embedding", "prompt_tokens", "completion_tokens", "latency_s", "mean_logprob", "completion_logprob")


def watch(
    log: Annotated[
        str, typer.Option(help="File or http(s) address: Parquet, JSON lines, OTLP GenAI spans, LiteLLM's, vLLM's log.")
    ],
    window: Annotated[int, typer.Option(min=4, help="Requests of a window.")] = 100,
    level: Annotated[float, typer.Option(min=1e-6, max=0.5, help="p-value at which a window has drifted.")] = 0.01,
    debounce: Annotated[int, typer.Option(min=1, help="Consecutive drifted windows that make a change.")] = 2,
    keep: Annotated[
        bool, typer.Option("--keep", help="Also write the requests into the request log of this home.")
    ] = False,
    log_text: Annotated[
        LogText | None, typer.Option(help="How texts are stored in that log; default: setting log_text.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling and permutations.")] = 0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare the windows of another program's request log and print where its traffic or quality changed."""
    with clear_errors():
        loaded = settings.load(home=home, log_text=log_text)
        settings.quiet_libraries(loaded.home)
        from flows.reports.drift.cells import stream_lines
        from infra.shared import open_lake
        from tasks.monitoring import two_tables as flow
        from tasks.monitoring.watching.states import Rules
        from tasks.serving.foreign import read_log
        from tasks.serving.request_log import RequestLog, table_of
        from tasks.serving.request_log import Rules as Kept

        requests = read_log(log)
        kept = Kept(f"log:{log}", loaded.log_text, loaded.log_days, capacity=len(requests) + 1)
        if keep:
            oldest = time.time() - 86400 * loaded.log_days if loaded.log_days else 0.0
            fresh = [request for request in requests if request.received > oldest]
            written = RequestLog(open_lake(loaded.home), kept)
            for request in fresh:
                written.put(request)
            written.close(600.0)
            err.print(
                f"{written.written} of {len(requests)} requests are in the log of {loaded.home}; "
                f"{len(requests) - len(fresh)} are older than log_days",
                highlight=False,
            )
        rules = Rules(level=level, minimum=1, debounce=debounce)
        table = table_of(requests, kept)
        watched = [name for name in WATCHED if table[name].null_count == 0]
        steps = []
        for done in flow.stream(table.select(watched), window, rules, None, (), seed):
            steps.append(done)
            if done.change is not None:
                err.print(f"change at request {done.change}", highlight=False)
        found: dict[str, Any] = {
            "current": log,
            "reference": "its first windows",
            "requests": len(requests),
            "watched": watched,
            **flow.stream_report(steps, rules),
        }
        print_value(found if as_json else stream_lines(found), as_json)
