"""Commands of unattended operation: `deploy`, `emit`, `webhooks`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated
from uuid import uuid4

import typer

from flows.commands.console import AsJson, Home, clear_errors, err, print_table, print_value
from infra import settings
from infra.errors import BadInput

POLL_S = 0.2  # between two questions whether a server answers


def deploy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    schedules: Annotated[
        str | None,
        typer.Option(metavar="on|off", help="Switch all schedules on or off; default: unchanged, initially off."),
    ] = None,
    reset_parameters: Annotated[
        bool,
        typer.Option(
            "--reset-parameters", help="Reset parameters that were changed by hand to those of the repository."
        ),
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for the server, if it does not answer yet.")
    ] = 0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Update the Prefect server from the repository: pool, queues, limits, deployments, automations. Safe to repeat."""
    with clear_errors():
        if schedules not in (None, "on", "off"):
            raise BadInput(f"--schedules is on or off, not {schedules!r}")
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        if not wait:
            _use_prefect(loaded)  # says at once that none answers
        err.print("reading the flows and comparing them with the server", highlight=False)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from deployments import deploy as deploying

        deploying.read_flows()  # takes longer than all else, and needs no server
        url, switch = _use_prefect(loaded, wait), None if schedules is None else schedules == "on"
        with temporary_settings({PREFECT_API_URL: url}):  # Prefect read its settings with the flows
            found = deploying.deploy(loaded, dry_run=dry_run, schedules=switch, reset=reset_parameters)
        rows = [asdict(change) for change in found]
        if as_json:
            print_value({"dry_run": dry_run, "changes": rows}, as_json)
        else:
            print_table(rows, "nothing to change: the server matches the repository")
            count = sum(change.action != "keep" for change in found)
            if rows:
                err.print(f"{count} would change" if dry_run else f"{count} changed", highlight=False)


def emit(
    event: Annotated[str, typer.Argument(help="Name of the event, e.g. corpus.arrived.")],
    payload: Annotated[str, typer.Option(help="JSON object with the fields of the event.")] = "{}",
    home: Home = None,
) -> None:
    """Emit an event; an unknown name or a payload with wrong fields is refused."""
    with clear_errors():
        try:
            given = json.loads(payload)
        except json.JSONDecodeError as error:
            raise BadInput(f"--payload is not JSON: {error}") from None
        if not isinstance(given, dict):
            raise BadInput(f"--payload should be a JSON object, found {type(given).__name__}")
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        from infra.events import checked, resource_of, send

        known = checked(event, given)
        url = _use_prefect(loaded)
        send(event, known, uuid4())
        err.print(f"{event} on {resource_of(known)} sent to {url}", highlight=False, soft_wrap=True)


def webhooks(
    host: Annotated[str, typer.Option(help="Address; not loopback: needs TLS and a secret.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 = any; default 8765.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="TLS on loopback too.")] = False,
    home: Home = None,
) -> None:
    """Receive webhooks (POST /mlflow signed, POST /events with a token) and turn them into Prefect events."""
    with clear_errors():
        loaded = settings.load(home=home, webhook_port=port)
        settings.quiet_libraries(loaded.home)
        from infra.access import Guard, is_loopback, require_guard, shown
        from infra.claims import Claims
        from infra.installation.services import choose_port
        from infra.installation.webhooks import Receiver, serve

        guard = Guard.of(loaded.home) if tls or not is_loopback(host) else Guard()
        require_guard(f"receiving webhooks on {host}", host, guard)
        token = loaded.webhook_token.get_secret_value() or guard.key() or ""
        claims = Claims(loaded.ledger, "webhooks", at_work=lambda _: False)  # a killed receiver has accepted nothing
        secret = loaded.webhook_secret.get_secret_value()
        receiver = Receiver(claims, token=token, secret=secret)
        prefect, chosen = _use_prefect(loaded), choose_port(loaded, "webhook_port")
        takes = [name for name, value in (("/events", token), ("/mlflow", secret)) if value]
        address = f"{'https' if guard.certificate else 'http'}://{shown(host)}:{chosen}"
        err.print(f"{address} takes {' and '.join(takes)}; events go to {prefect}", highlight=False, soft_wrap=True)
        serve(receiver, host, chosen, guard.certificate)


def _use_prefect(loaded: settings.Settings, wait: float = 0) -> str:
    """Set the address of the running Prefect server for this process, and return it.

    Args:
        loaded: the settings.
        wait: seconds to wait for a server that does not answer yet.

    Raises:
        BadInput: no server answers.
    """
    give_up = time.monotonic() + wait
    while True:
        try:
            url = _answering_prefect(loaded)
        except BadInput:
            if time.monotonic() > give_up:
                raise
            time.sleep(POLL_S)
        else:
            settings.hand_on(PREFECT_API_URL=url)
            return url


def _answering_prefect(loaded: settings.Settings) -> str:
    from infra.compute import running_prefect

    url = running_prefect(loaded)
    if url is None:
        raise BadInput(
            f"no Prefect server answers for {loaded.home}; start one with `ketcycle up`, or set prefect_url to yours"
        )
    return url
