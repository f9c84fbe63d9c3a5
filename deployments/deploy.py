"""`ketcycle deploy`: updates pool, queues, limits, block, deployments and automations of a Prefect server.

The server is compared with the repository, and only differences are changed. Changes made by users on the Prefect page
stay: a paused queue or automation, whether a schedule is active, and the parameters of a deployment.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from deployments.automations import TAG, automations
from deployments.notify import message
from deployments.pools import KINDS, Pool, load_pool
from deployments.project import project_file
from infra.compute import TRAINERS
from infra.errors import KetcycleError
from infra.settings import NotifyKind, Settings, environment, hand_on
from infra.yaml_text import parse_yaml

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

VARIABLE = "ketcycle_deployed_parameters"  # in Prefect: what `merged` compares with
MISSING = object()
DIRECT = (
    "entrypoint",
    "version",
    "description",
    "tags",
    "parameters",
    "parameter_openapi_schema",
    "pull_steps",
    "job_variables",
)  # fmt: skip  (fields that Prefect's client takes under the same name)
BLOCK = "ketcycle-notify"
BLOCK_TYPE = "custom-webhook"
QUEUES = {
    "default": "All runs without a queue of their own.",
    "training": "Runs that train: as many at once as there are accelerators.",
    "quantum": "The dispatcher of the runtime queue: one at once.",
    "events": "Short runs that answer events or poll for them.",
}


@dataclass(frozen=True)
class Change:
    """One difference between the server and the repository.

    Attributes:
        kind: `pool`, `queue`, `limit`, `block`, `deployment`, `parameters`, `schedule` or `automation`.
        name: of the thing.
        action: `create`, `update`, `delete`, or `keep` for parameters that users changed.
        detail: the difference.
    """

    kind: str
    name: str
    action: str
    detail: str = ""


def version(folder: Path) -> str:
    """Return the version of the code: the state of its git repository, else the package's version."""
    if not (folder / "pyproject.toml").exists():  # installed from a wheel, perhaps inside another repository
        return metadata.version("ketcycle")
    asked = ["git", "-C", str(folder), "describe", "--always", "--tags", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return metadata.version("ketcycle")


def read_flows() -> None:
    """Import the flows of all deployments."""
    for entry in parse_yaml(project_file().read_text())["deployments"]:
        _flow(entry["entrypoint"])


def deploy(
    loaded: Settings, *, dry_run: bool = False, schedules: bool | None = None, reset: bool = False
) -> list[Change]:
    """Update a Prefect server from the repository; return the changes, or with `dry_run` what would change.

    Args:
        loaded: the settings.
        dry_run: whether nothing is changed.
        schedules: whether all schedules are to be active; None = as they are, in a new installation none.
        reset: whether parameters that users changed get the values of the repository again.

    Raises:
        KetcycleError: the server refused something or did not answer; what was changed before stays.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    path = project_file()
    named = environment("KETCYCLE_VERSION") or version(path.parent)  # an image without git sets the variable
    hand_on(KETCYCLE_VERSION=named, PWD=str(Path.cwd()))  # flows run in the folder with the settings
    try:
        with get_client(sync_client=True) as client:
            steps = _Steps(client, path, load_pool(loaded.work_pool), dry_run)
            changes = [*steps.pool(), *steps.limits(), *steps.block(loaded.notify_url, loaded.notify_kind)]
            return [*changes, *steps.deployments(schedules, reset), *steps.automations()]
    except (PrefectHTTPStatusError, httpx.HTTPError) as error:
        raise KetcycleError(
            f"the Prefect server refused a change ({type(error).__name__}: {error}); run `ketcycle deploy` again "
            "to continue"
        ) from error


class _Steps:
    """Each method compares one kind of object and changes it, unless it is a dry run."""

    def __init__(self, client: SyncPrefectClient, path: Path, pool: Pool, dry_run: bool) -> None:
        self._client, self._path, self._pool, self._dry = client, path, pool, dry_run

    def pool(self) -> Iterator[Change]:
        from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
        from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

        name = self._pool.name
        there: dict[str, Any] = {}
        template = self._pool.template(self._default_template())
        try:
            standing = self._client.read_work_pool(name)
            if self._pool.pod and standing.base_job_template != template:
                yield Change("pool", name, "update", "its job template")
                if not self._dry:
                    self._client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
        except ObjectNotFound:
            yield Change("pool", name, "create", f"type {self._pool.type}")
            if not self._dry:
                pool = WorkPoolCreate(name=name, type=self._pool.type, base_job_template=template)
                with suppress(ObjectAlreadyExists):  # a worker makes it too
                    self._client.create_work_pool(pool)
        with suppress(ObjectNotFound):
            there = {queue.name: queue for queue in self._client.read_work_queues(work_pool_name=name)}
        limits = {"training": trainers(), "quantum": 1}
        for queue_name, description in QUEUES.items():
            wanted = {"description": description, "concurrency_limit": limits.get(queue_name)}
            found = there.get(queue_name)
            differs = [key for key, value in wanted.items() if found is None or getattr(found, key) != value]
            if not differs:
                continue
            said = f"at most {limits[queue_name]} at once" if queue_name in limits else ""
            yield Change("queue", f"{name}/{queue_name}", "update" if found else "create", said)
            if self._dry:
                continue
            queue = found or self._client.create_work_queue(name=queue_name, work_pool_name=name)
            self._client.update_work_queue(queue.id, **wanted, is_paused=queue.is_paused)

    def _default_template(self) -> dict[str, Any]:
        known = self._client.read_worker_metadata()
        (found,) = (of[self._pool.type] for of in known.values() if self._pool.type in of)
        return dict(found["default_base_job_configuration"])

    def limits(self) -> Iterator[Change]:
        from prefect.exceptions import ObjectNotFound

        wanted = trainers()
        try:
            found = self._client.read_global_concurrency_limit_by_name(TRAINERS).limit
        except ObjectNotFound:
            found = None
        if found == wanted:
            return
        yield Change("limit", TRAINERS, "update" if found else "create", f"{found or 'none'} -> {wanted}")
        if not self._dry:
            self._client.upsert_global_concurrency_limit_by_name(TRAINERS, wanted)

    def block(self, url: str, kind: NotifyKind) -> Iterator[Change]:
        """Compare the block that posts messages."""
        found = self._block()
        if not url:
            if found is not None:
                yield Change("block", BLOCK, "delete", "notify_url is empty")
                if not self._dry:
                    self._client.delete_block_document(found.id)
            return
        data = {"name": "ketcycle", "url": url, "method": "POST", "json_data": message(url, kind)}
        if found is not None and all(found.data.get(name) == value for name, value in data.items()):
            return
        yield Change("block", BLOCK, "update" if found else "create", "posts to notify_url")
        if not self._dry:
            from prefect.blocks.notifications import CustomWebhookNotificationBlock

            CustomWebhookNotificationBlock.model_validate(data).save(BLOCK, overwrite=True)

    def _block(self) -> Any:
        from prefect.exceptions import ObjectNotFound

        try:
            return self._client.read_block_document_by_name(BLOCK, BLOCK_TYPE, include_secrets=True)
        except ObjectNotFound:
            return None

    def deployments(self, schedules: bool | None, reset: bool) -> Iterator[Change]:
        """Compare the deployments; parameters and schedules that users changed stay.

        Args:
            schedules: whether all schedules are to be active; None = as they are.
            reset: whether parameters that users changed get the values of the repository again.
        """
        wanted, before, deployed = _wanted(self._path, self._pool), self._deployed(), self._variable()
        for name, entry in wanted.items():
            found = before.get(name)
            ours = dict(entry["parameters"])
            if found is not None and not reset:
                entry["parameters"], kept = merged(deployed.get(name, ours), dict(found.parameters), ours)
                if kept:
                    yield Change("parameters", name, "keep", f"{', '.join(kept)}: set by users, not by the repository")
            differs = _differences(entry, found)
            if differs is not None:
                yield Change("deployment", name, "update" if found else "create", differs)
            states = _active(entry, found, schedules)
            yield from _switched(name, found, states)
            if not self._dry and (differs is not None or (found is not None and _states(found) != states)):
                self._put(name, entry, states)
            deployed[name] = ours
        if not self._dry:
            self._set_variable({name: value for name, value in deployed.items() if name in wanted})

    def _put(self, name: str, entry: Mapping[str, Any], active: Mapping[str, bool]) -> None:
        from prefect.client.schemas.actions import DeploymentScheduleCreate
        from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
        from prefect.client.schemas.schedules import CronSchedule

        flow, _, bare = name.partition("/")
        collision = entry["collision"]
        self._client.create_deployment(
            flow_id=self._client.create_flow_from_name(flow),
            name=bare,
            schedules=[
                DeploymentScheduleCreate(
                    schedule=CronSchedule(cron=cron, timezone=zone), active=active[slug], slug=slug
                )
                for slug, (cron, zone) in entry["schedules"].items()
            ],
            concurrency_limit=entry["limit"],
            concurrency_options=(
                ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(collision)) if collision else None
            ),
            work_pool_name=self._pool.name,
            work_queue_name=entry["queue"],
            enforce_parameter_schema=True,
            **{field: entry[field] for field in DIRECT},
        )

    def _variable(self) -> dict[str, dict[str, Any]]:
        """Return the parameters that were deployed last, by deployment."""
        found = self._client.read_variable_by_name(VARIABLE)
        return dict(found.value) if found is not None and isinstance(found.value, dict) else {}

    def _set_variable(self, value: dict[str, dict[str, Any]]) -> None:
        from prefect.client.schemas.actions import VariableCreate, VariableUpdate

        if self._client.read_variable_by_name(VARIABLE) is None:
            self._client.create_variable(VariableCreate(name=VARIABLE, value=value))
        elif self._variable() != value:
            self._client.update_variable(VariableUpdate(name=VARIABLE, value=value))

    def _deployed(self) -> dict[str, Any]:
        from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

        ours = WorkPoolFilter(name=WorkPoolFilterName(any_=[load_pool(kind).name for kind in KINDS]))
        flows = {flow.id: flow.name for flow in self._client.read_flows()}
        return {f"{flows[d.flow_id]}/{d.name}": d for d in self._client.read_deployments(work_pool_filter=ours)}

    def automations(self) -> Iterator[Change]:
        block = self._block()
        ids = {name: deployment.id for name, deployment in self._deployed().items()}
        if self._dry:  # those that would be made have no id yet
            ids |= {name: UUID(int=0) for name in _wanted(self._path, self._pool) if name not in ids}
        wanted = {item.name: item for item in automations(ids, block.id if block else None)}
        there = {item.name: item for item in self._client.read_automations() if TAG in item.tags}
        for name, item in wanted.items():
            found = there.get(name)
            if found is None:
                yield Change("automation", name, "create", item.description)
                if not self._dry:
                    self._client.create_automation(item)
            elif _plain(found) != _plain(item):
                yield Change("automation", name, "update", "paused, and stays so" if not found.enabled else "")
                if not self._dry:
                    self._client.update_automation(found.id, item.model_copy(update={"enabled": found.enabled}))
        for name in there.keys() - wanted.keys():
            yield Change("automation", name, "delete", "no longer in the code")
            if not self._dry:
                self._client.delete_automation(there[name].id)


def trainers() -> int:
    """Return how many runs may train at once: one for each GPU, or one without a GPU."""
    import torch

    return max(1, torch.cuda.device_count())


def _plain(automation: Any) -> dict[str, Any]:
    """Return the content of an automation, without ids and its paused state, names in order: they are sets."""
    found = json.loads(automation.model_dump_json(include={"description", "tags", "trigger", "actions"}))
    found["trigger"].pop("id", None)
    return dict(_ordered(found))


def _ordered(value: Any) -> Any:
    """Return plain data with all lists of texts sorted."""
    if isinstance(value, dict):
        return {name: _ordered(item) for name, item in value.items()}
    if isinstance(value, list):
        texts = all(isinstance(item, str) for item in value)
        return sorted(value) if texts else [_ordered(item) for item in value]
    return value


def _wanted(path: Path, pool: Pool) -> dict[str, dict[str, Any]]:
    """Return the deployments of prefect.yaml by flow/name, in a pool, with the schema of the flow's parameters."""
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.templating import apply_values

    content = parse_yaml(path.read_text())
    pull: Any = apply_values(content["pull"], {}, remove_notset=False)
    if pool.folder:
        pull = [{"prefect.deployments.steps.set_working_directory": {"directory": pool.folder}}]
    found = {}
    entries: Any = apply_values(content["deployments"], {}, remove_notset=False)
    for entry in entries:
        flow = _flow(entry["entrypoint"])
        limit = entry.get("concurrency_limit") or {}
        found[f"{flow.name}/{entry['name']}"] = {
            "entrypoint": entry["entrypoint"],
            "version": entry["version"],
            "description": entry.get("description") or flow.description,
            "tags": sorted(entry["tags"]),
            "parameters": entry.get("parameters", {}),
            "parameter_openapi_schema": _filled(parameter_schema(flow).model_dump_for_openapi()),
            "pull_steps": pull,
            "queue": entry["work_pool"]["work_queue_name"],
            "pool": pool.name,
            "job_variables": apply_values(pool.variables(entry["work_pool"]["job_variables"]), {}, remove_notset=False),
            "limit": limit.get("limit"),
            "collision": limit.get("collision_strategy"),
            "schedules": {item["slug"]: (item["cron"], item["timezone"]) for item in entry.get("schedules", ())},
        }
    return found


def _flow(entrypoint: str) -> Any:
    module, _, name = entrypoint.rpartition(".")
    return getattr(import_module(module), name)


def _differences(entry: Mapping[str, Any], found: Any) -> str | None:
    """Return the differences between the repository and the server as text; None if there are none."""
    if found is None:
        return str(entry["version"])
    there = _flat(found)
    differs = [key for key, value in entry.items() if there[key] != json.loads(json.dumps(value))]
    said = [f"version {there['version']} -> {entry['version']}" if key == "version" else key for key in differs]
    return ", ".join(said) if differs else None


def merged(
    deployed: Mapping[str, Any], there: Mapping[str, Any], ours: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Merge parameters three ways: values that users changed stay, all others follow the repository.

    Args:
        deployed: values of the repository at the last deployment.
        there: values on the server.
        ours: values of the repository now.

    Returns:
        The parameters, and the names of those that users changed and that differ from the repository.
    """
    result, kept = {}, []
    for name in dict.fromkeys([*ours, *there, *deployed]):
        changed = there.get(name, MISSING) != deployed.get(name, MISSING)
        value = (there if changed else ours).get(name, MISSING)
        if value is not MISSING:
            result[name] = value
        if changed and value != ours.get(name, MISSING):
            kept.append(name)
    return result, kept


def _states(found: Any) -> dict[str, bool]:
    return {item.slug: item.active for item in found.schedules} if found is not None else {}


def _active(entry: Mapping[str, Any], found: Any, schedules: bool | None) -> dict[str, bool]:
    """Return whether each schedule is to be active: as given, else unchanged, initially inactive."""
    before = _states(found)
    return {slug: before.get(slug, False) if schedules is None else schedules for slug in entry["schedules"]}


def _switched(name: str, found: Any, wanted: Mapping[str, bool]) -> Iterator[Change]:
    before = _states(found)
    for slug, active in wanted.items():
        if active != before.get(slug, False):
            yield Change("schedule", f"{name} {slug}", "update", "on" if active else "off")


def _flat(deployment: Any) -> dict[str, Any]:
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    flat = {
        name: getattr(deployment, name)
        for name in ("entrypoint", "version", "description", "parameters", "parameter_openapi_schema", "job_variables")
    }
    flat["parameter_openapi_schema"] = _filled(flat["parameter_openapi_schema"])
    flat |= {
        "tags": sorted(deployment.tags),
        "pull_steps": deployment.pull_steps,
        "queue": deployment.work_queue_name,
        "pool": deployment.work_pool_name,
        "limit": limit.limit if limit else None,
        "collision": options.collision_strategy if options else None,
        "schedules": {item.slug: (item.schedule.cron, item.schedule.timezone) for item in deployment.schedules},
    }
    return dict(json.loads(json.dumps(flat, default=str)))


def _filled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without its empty parts, which the server drops."""
    return {name: value for name, value in schema.items() if value}
