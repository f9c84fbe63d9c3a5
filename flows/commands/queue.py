"""Commands of the runtime queue: `queue list|show|watch|cancel|retry|drain|resolve|settle|budget|calibration`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from flows.commands.console import PIPELINE, AsJson, Home, clear_errors, err, out, print_table, print_value
from infra import settings
from infra.errors import BadInput

app = typer.Typer(no_args_is_help=True, help="Inspect the quantum runtime queue, cancel or retry calls, set budgets.")
budget_app = typer.Typer(help="Spending limits, reserved amounts and bills.")
app.add_typer(budget_app, name="budget", invoke_without_command=True)

Run = Annotated[str | None, typer.Option("--run", help="Only this run.")]

WATCH_S = 1.0


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="Only this state, e.g. DONE.")] = None,
    run_id: Run = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of calls, the newest first.")] = 50,
    summary: Annotated[bool, typer.Option("--summary", help="Totals of the run instead: times, jobs, bills.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the calls in the ledger of the runtime queue."""
    from infra.runtime.figures.inspect import list_calls

    with clear_errors():
        loaded = settings.load(home=home)
        if summary:
            _print_summary(loaded, run_id, as_json)
            return
        calls = list_calls(loaded.ledger, state=state, run=run_id, limit=limit)
        if as_json:
            print_value(calls, as_json)
            return
        shown = [
            {
                "key": call["key"][:12],
                "state": call["state"] + (" (cancel asked)" if _leaving(call) else ""),
                "run": call["run"],
                "decision": call["subtask"],
                "arm": call["arm"],
                "backend": call["backend"],
                "circuits": call.get("circuits", 0),
                "shots": call.get("shots", 0),
                "CPU s": f"{call.get('cpu_s', 0):.3g}",
                "QPU s billed": f"{call.get('qpu_s_billed', 0):.4g}",
                "projected": f"{call.get('qpu_s_projected', 0):.4g}",
                "created": call["created"][5:19].replace("T", " "),
            }
            for call in calls
        ]
        print_table(shown, "no calls in the ledger match")


def _leaving(call: dict[str, Any]) -> bool:
    return bool(call["cancel_requested"]) and call["state"] in ("SUBMITTING", "SUBMITTED")


def _print_summary(loaded: settings.Settings, run_id: str | None, as_json: bool) -> None:
    from infra.runtime.figures.summary import rows, summarise

    if run_id is None:
        raise BadInput("--summary needs a run; name it with --run")
    summary = summarise(loaded.ledger, loaded.home, run_id)
    if as_json:
        print_value(summary, as_json)
        return
    print_table([{"figure": name, "value": value} for name, value in rows(summary)], "")


@app.command("show")
def show(
    key: Annotated[str, typer.Argument(help="Replay key, or its first characters.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one call: its request, backend, results and usage."""
    from infra.runtime.figures.inspect import show_call

    with clear_errors():
        call = show_call(settings.load(home=home).ledger, key)
        if as_json:
            print_value(call, as_json)
            return
        print_table([{"field": name, "value": value} for name, value in call.items()], "")


@app.command("watch")
def watch(
    run_id: Run = None,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between refreshes.")] = WATCH_S,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the open calls until there are none, or until Ctrl-C; with --json one line for each change."""
    from infra.runtime.figures.attention import attention
    from infra.runtime.figures.inspect import list_leaders, list_open

    with clear_errors():
        ledger = settings.load(home=home).ledger

        def take() -> Snapshot:
            return Snapshot(list_open(ledger, run_id), list_leaders(ledger), attention(ledger, run_id))

        if as_json:
            _watch_lines(take, every_s)
        else:
            _watch_table(take, every_s)


@dataclass(frozen=True)
class Snapshot:
    """What `queue watch` shows at one moment: open calls, dispatching processes, and backends that need a person."""

    open: list[dict[str, Any]]
    leaders: dict[str, dict[str, Any]]
    attention: list[dict[str, Any]]


def _watch_lines(take: Callable[[], Snapshot], every_s: float) -> None:
    seen = None
    while True:
        found = take()
        lasting = [{k: v for k, v in call.items() if k != "age_s"} for call in found.open], found.attention
        if lasting != seen:
            sys.stdout.write(json.dumps(vars(found), default=str) + "\n")
            sys.stdout.flush()
        seen = lasting
        if not found.open:
            return
        time.sleep(every_s)


def _watch_table(take: Callable[[], Snapshot], every_s: float) -> None:
    try:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                found = take()
                live.update(_open_table(found), refresh=True)
                if not found.open:
                    return
                time.sleep(every_s)
    except KeyboardInterrupt:
        return


def _open_table(found: Snapshot) -> Any:
    calls, leaders = found.open, found.leaders
    notes = [
        _note(row) for row in found.attention if row["unknown"] or row["flagged"] or any(row["reserved_s"].values())
    ]
    if not calls:
        return "\n".join(["nothing is open in the runtime queue", *notes])
    table = Table("call", "state", "run", "decision", "arm", "backend", "waits", "job", pad_edge=False)
    for call in calls[:20]:
        jobs = ", ".join(job["job_id"] or f"tag {job['tag'][:8]}" for job in call["jobs"]) or "-"
        decision = f"{call['stage']}/{call['subtask']}"
        row = (call["key"][:12], call["state"], call["run"], decision, call["arm"], call["backend"])
        table.add_row(*row, f"{call['age_s']:.0f} s", jobs)
    more = f"and {len(calls) - 20} more; " if len(calls) > 20 else ""
    who = "; ".join(f"{lane}: dispatched by process {who['pid']} on {who['host']}" for lane, who in leaders.items())
    line = f"{len(calls)} open; {more}{who or 'no process dispatches; start one with ketcycle queue drain'}"
    return Group(table, line, *notes)


def _note(row: dict[str, Any]) -> str:
    """Return the counts of a backend that need a person's decision."""
    reserved = ", ".join(f"{seconds:.3g} s {age}" for age, seconds in row["reserved_s"].items() if seconds) or "nothing"
    return f"{row['backend']}: {row['unknown']} of unknown outcome, {row['flagged']} flagged, {reserved} reserved"


@app.command("cancel")
def cancel(
    key: Annotated[str | None, typer.Argument(help="Replay key of a call, or its first characters.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="All open calls of this run.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a call, or all open calls of a run; a remote job is cancelled too unless other callers share it.

    If no process dispatches, this command cancels the remote jobs itself; it never sends one.
    """
    from infra.runtime.cancel import cancel_now

    with clear_errors():
        if (key is None) == (run_id is None):
            raise BadInput("name a call, or a run with --run")
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        found = cancel_now(loaded, run=run_id, key=key)
        if as_json:
            print_value(found, as_json)
            return
        calls = found["cancelled"]
        out.print(f"{calls} call{'' if calls == 1 else 's'} cancelled")
        for lane in found["remote"]:
            out.print(f"{lane}: its remote jobs are not cancelled yet; the next ketcycle queue drain does it")


@app.command("retry")
def retry(
    key: Annotated[str, typer.Argument(help="Replay key of a failed call, or its first characters.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Allow a failed call to be sent again, whatever the error was; hardware bills it again."""
    from infra.runtime.figures.inspect import full_key
    from infra.runtime.ledger.ledger import FAILED, Ledger

    with clear_errors():
        ledger = Ledger(settings.load(home=home).ledger, create=False)
        whole = full_key(ledger.database.url, key)
        if (state := ledger.state(whole)[0]) != FAILED:
            raise BadInput(f"call {whole[:12]} is {state}; only a failed call can be sent again")
        ledger.prepare_again(whole)
        print_value({"key": whole}, True) if as_json else out.print(f"{whole[:12]} waits to be sent again")


@app.command("drain")
def drain(
    backend: Annotated[str | None, typer.Option(help="Only this backend; default: all with open calls.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Dispatch in the foreground until nothing is open, carry out cancellations, and look for duplicate jobs.

    Arms that waited for remote results are completed, and the reports of their runs regenerated.
    """
    from infra.runtime.figures.inspect import lanes_to_drain, lanes_with_work

    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        lanes = [backend] if backend else lanes_to_drain(loaded.ledger, thorough=True)
        done, completed = [], []
        while True:
            for lane in lanes:
                done.append({"backend": lane, "jobs": _drain_lane(loaded, lane)})
                jobs = done[-1]["jobs"]
                err.print(f"{lane}: {jobs} job{'' if jobs == 1 else 's'} sent or followed", highlight=False)
            rows = _complete_arms(loaded)
            completed += rows
            for item in rows:
                line = f"{item.run_id}: {item.stage}/{item.subtask} {item.arm} is {item.status} now"
                err.print(line, highlight=False)
            lanes = [lane for lane in lanes_with_work(loaded.ledger) if backend in (None, lane)]
            if not lanes or not (rows or any(entry["jobs"] for entry in done[-len(lanes) :])):
                break
        shown = [*done, *(vars(item) for item in completed)]
        print_value(shown, True) if as_json else out.print("done" if done or completed else "nothing is open")


def _complete_arms(loaded: settings.Settings) -> list[Any]:
    """Complete the arms whose results have arrived; without the extra `pipeline` there are none."""
    if not PIPELINE:
        return []
    from flows.lifecycle.pending import complete_pending

    return [item for item in complete_pending(loaded) if item.status != "pending"]


def _drain_lane(loaded: settings.Settings, lane: str) -> int:
    """Dispatch the calls of a backend until none is open, or wait for the process that holds its lease."""
    settings.quiet_libraries(loaded.home)
    from concurrent.futures import ThreadPoolExecutor

    from infra.runtime.figures.inspect import list_leaders, list_open
    from infra.runtime.queue import Runtime

    runtime = Runtime(loaded.ledger, lane, home=loaded.home, projection=loaded.projection_device)
    sent, printed = 0, ""
    with ThreadPoolExecutor(1) as leader:
        while True:
            leading = leader.submit(runtime.drain)
            while not leading.done():
                printed = _print_states(lane, list_open(loaded.ledger), printed)
                time.sleep(0.5)
            sent += leading.result()
            left = [call for call in list_open(loaded.ledger) if call["backend"] == lane]
            if not left or lane not in list_leaders(loaded.ledger):
                return sent
            time.sleep(1.0)


def _print_states(lane: str, calls: Sequence[dict[str, Any]], printed: str) -> str:
    """Print how many calls of a backend are in which state, if that has changed; return the line."""
    states = [call["state"] for call in calls if call["backend"] == lane]
    line = f"{lane}: " + (", ".join(f"{states.count(s)} {s}" for s in sorted(set(states))) or "nothing open")
    if line != printed:
        err.print(line, highlight=False)
    return line


@app.command("resolve")
def resolve(
    tag: Annotated[str | None, typer.Argument(help="Tag of a batch; without one, list them.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Id of the job that you found under this tag.")] = None,
    never_ran: Annotated[bool, typer.Option("--never-ran", help="Record that no job exists under this tag.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the batches that may or may not have reached the service, or record your finding about one."""
    from infra.runtime.figures.inspect import list_parked
    from infra.runtime.ledger.ledger import Ledger

    with clear_errors():
        ledger = settings.load(home=home).ledger
        parked = list_parked(ledger)
        if tag is None:
            if job or never_ran:
                raise BadInput("name the tag of the batch; ketcycle queue resolve lists them")
            _print_parked(parked, as_json)
            return
        if (job is None) != never_ran:
            raise BadInput("give --job ID, or --never-ran if no job has the tag")
        found = [batch["tag"] for batch in parked if batch["tag"].startswith(tag)]
        if len(found) != 1:
            raise BadInput(f"{'several parked batches begin' if found else 'no parked batch begins'} with {tag!r}")
        Ledger(ledger, create=False).resolve(found[0], job)
        after = f"its results are fetched from job {job}" if job else "its calls wait to be sent again"
        print_value({"tag": found[0], "job": job}, True) if as_json else out.print(f"batch {found[0]}: {after}")


@app.command("settle")
def settle(
    tag: Annotated[str | None, typer.Argument(help="Tag of a batch; without one, list them.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="QPU seconds that the job used, as the service states.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the batches whose bill is missing or not plausible, or record the QPU seconds of one."""
    from infra.runtime.figures.attention import list_unsettled
    from infra.runtime.ledger.ledger import Ledger

    with clear_errors():
        ledger = settings.load(home=home).ledger
        unsettled = list_unsettled(ledger)
        if tag is None:
            if seconds is not None:
                raise BadInput("name the tag of the batch; ketcycle queue settle lists them")
            if as_json:
                print_value(unsettled, as_json)
                return
            rows = [{name: _cell(value) for name, value in row.items()} for row in unsettled]
            print_table(rows, "every bill is settled")
            return
        if seconds is None:
            raise BadInput("say what the job cost: --seconds S, as the platform's page states it")
        found = [batch["tag"] for batch in unsettled if batch["tag"].startswith(tag)]
        if len(found) != 1:
            raise BadInput(
                f"{'several unsettled batches begin' if found else 'no unsettled batch begins'} with {tag!r}"
            )
        Ledger(ledger, create=False).settle(found[0], seconds)
        done = {"tag": found[0], "billed_s": seconds}
        print_value(done, True) if as_json else out.print(f"batch {found[0]}: charged {seconds:g} QPU seconds")


def _print_parked(parked: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_value(parked, as_json)
        return
    print_table(
        [
            {
                "tag": batch["tag"],
                "backend": batch["backend"],
                "since": batch["since"][:19],
                "parts": batch["parts"],
                "QPU s, estimated": f"{batch['estimate_s'] or 0:.3g}",
                "calls": ", ".join(key[:12] for key in batch["calls"]),
                "why": batch["reason"],
            }
            for batch in parked
        ],
        "no batch is parked",
    )
    for batch in parked:
        out.print(f"{batch['look']}; then ketcycle queue resolve {batch['tag'][:12]} --job ID, or --never-ran")


@budget_app.callback()
def budget(context: typer.Context, home: Home = None, as_json: AsJson = False) -> None:
    """Show spending limits, reserved amounts and bills; `budget set` changes a limit, also during a run."""
    if context.invoked_subcommand is not None:
        return
    from infra.runtime.ledger.budget import overview
    from infra.runtime.ledger.ledger import Ledger

    with clear_errors():
        found = overview(Ledger(settings.load(home=home).ledger, create=False))
        if as_json:
            print_value(found, as_json)
            return
        print_table([{name: _cell(value) for name, value in row.items()} for row in found], "no limit is set")


@budget_app.command("set")
def set_(
    scope: Annotated[str, typer.Argument(help="run, stage, day or month.")],
    unit: Annotated[str, typer.Argument(help="qpu_s (QPU seconds) or usd.")],
    value: Annotated[str, typer.Argument(help="Maximum amount, or none for no limit.")],
    home: Home = None,
) -> None:
    """Set a spending limit, or remove it with `none`; it applies to all later jobs, also of a current run."""
    from infra.runtime.ledger.budget import set_limit
    from infra.runtime.ledger.ledger import Ledger

    with clear_errors():
        try:
            limit = None if value.lower() == "none" else float(value)
        except ValueError:
            raise BadInput(f"a limit is a number or none, not {value!r}") from None
        set_limit(Ledger(settings.load(home=home).ledger), scope, unit, limit)
        out.print(f"{scope}: {'no limit' if limit is None else f'at most {limit:g}'} {unit}")


@app.command("calibration")
def calibration(home: Home = None, as_json: AsJson = False) -> None:
    """Show the ratio of bills to estimates for each backend, with its error."""
    from infra.runtime.figures.calibration import calibration_table
    from infra.runtime.ledger.ledger import Ledger

    with clear_errors():
        found = calibration_table(Ledger(settings.load(home=home).ledger, create=False))
        if as_json:
            print_value(found, as_json)
            return
        print_table([{name: _cell(value) for name, value in row.items()} for row in found], "no job was billed yet")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
