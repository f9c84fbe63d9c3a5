"""Commands that let the pipeline run by itself: `deploy`, `webhooks`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.commands.console import AsJson, Home, clear_errors, err, print_table, print_value
from infra import settings
from infra.errors import BadInput


def deploy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    schedules: Annotated[
        str | None, typer.Option(metavar="on|off", help="Switch all schedules; default: as they are, at first off.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring Prefect to what the repository says: pool, queues, limits, deployments, automations. Twice is once."""
    with clear_errors():
        if schedules not in (None, "on", "off"):
            raise BadInput(f"--schedules is on or off, not {schedules!r}")
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        _use_prefect(loaded)
        err.print("reading the flows and comparing them with the server", highlight=False)
        from deployments import deploy as deploying

        found = deploying.deploy(loaded, dry_run=dry_run, schedules=None if schedules is None else schedules == "on")
        rows = [asdict(change) for change in found]
        if as_json:
            print_value({"dry_run": dry_run, "changes": rows}, as_json)
        else:
            print_table(rows, "nothing to change: all is as the repository says")
            if rows:
                err.print(f"{len(rows)} would change" if dry_run else f"{len(rows)} changed", highlight=False)


def webhooks(
    host: Annotated[str, typer.Option(help="Address; not loopback: needs TLS and a secret.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 = any; default 8765.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="TLS on loopback too.")] = False,
    home: Home = None,
) -> None:
    """Take webhooks from outside (POST /mlflow signed, POST /events with a token) and make Prefect events of them."""
    with clear_errors():
        loaded = settings.load(home=home, webhook_port=port)
        settings.quiet_libraries(loaded.home)
        from infra.access import Guard, is_loopback, require_guard, shown
        from infra.claims import Claims
        from infra.standing import choose_port
        from infra.webhooks import Receiver, serve

        guard = Guard.of(loaded.home) if tls or not is_loopback(host) else Guard()
        require_guard(f"receiving webhooks on {host}", host, guard)
        token = loaded.webhook_token.get_secret_value() or guard.key() or ""
        secret = loaded.webhook_secret.get_secret_value()
        receiver = Receiver(Claims(loaded.ledger, "webhooks"), token=token, secret=secret)
        prefect, chosen = _use_prefect(loaded), choose_port(loaded, "webhook_port")
        takes = [name for name, value in (("/events", token), ("/mlflow", secret)) if value]
        address = f"{'https' if guard.certificate else 'http'}://{shown(host)}:{chosen}"
        err.print(f"{address} takes {' and '.join(takes)}; events go to {prefect}", highlight=False, soft_wrap=True)
        serve(receiver, host, chosen, guard.certificate)


def _use_prefect(loaded: settings.Settings) -> str:
    """Let this process talk to the running Prefect server, and return its API's address.

    Raises:
        BadInput: there is none.
    """
    from infra.compute import running_prefect

    url = running_prefect(loaded)
    if url is None:
        raise BadInput(
            f"no Prefect server answers for {loaded.home}; start one with `ketcycle up`, or set prefect_url to yours"
        )
    settings.hand_on(PREFECT_API_URL=url)
    return url
