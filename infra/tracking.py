"""MLflow: one parent run per lifecycle, one child per stage, fixed metric names, registered models with an alias."""

from __future__ import annotations

import fcntl
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

from deployments.tables import make_tables
from infra import engine
from infra.errors import BadInput
from infra.moved import readdress

P = ParamSpec("P")
R = TypeVar("R")

EXPERIMENT = "ketcycle"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else its page opens on traces, of which we have none
LONGEST_PARAM = 500
FOLDER = "ketcycle_folder"  # where the files of a version came from that were sent to a server
_UNSAFE = re.compile(r"[^A-Za-z0-9_\-./ ]")


@dataclass(frozen=True)
class Version:
    """A version of a registered model, and the address of its files."""

    name: str
    number: int
    source: str


class Tracking:
    """A thin client of one MLflow store."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        import mlflow

        self._remote = uri.startswith("http")  # a server keeps the files that it is sent
        self._uri, self._home = uri, artifacts.absolute().parents[1]
        self._fetched = self._home / "mlflow" / "fetched"
        # Two processes that make the tables, the experiment or a model at once would both fail.
        database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
        self._lock = database.with_suffix(".lock") if database else None
        if self._lock:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if database:
                make_tables(database, "mlflow")
            readdress(artifacts.parents[1])
            self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = (
                found.experiment_id
                if found
                else self._client.create_experiment(
                    EXPERIMENT, None if self._remote else artifacts.absolute().as_uri(), KIND
                )
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._lock is None:
            yield
            return
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open(
        self,
        run: str,
        stage: str,
        began_s: float,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
    ) -> str:
        """Return the id of the MLflow run of a ketcycle run (stage `lifecycle`) or of one of its stages.

        A run that goes on keeps its MLflow run. Parameters of an MLflow run never change, so with other ones it gets
        a new MLflow run and the old one goes to the bin, from which `mlflow runs restore` brings it back.

        Args:
            run: name of the ketcycle run.
            stage: `lifecycle` or a stage.
            began_s: when it began, seconds since the epoch.
            params: its parameters.
            tags: further tags.
            parent: id of the MLflow run that it belongs to.
        """
        wanted = {_UNSAFE.sub("_", name): str(value)[:LONGEST_PARAM] for name, value in params.items()}
        all_tags = {**tags, "ketcycle_run": run, "ketcycle_stage": stage}
        if parent:
            all_tags["mlflow.parentRunId"] = parent
        found = self.find(run, stage)
        if found:
            known = self._client.get_run(found).data.params
            if all(wanted.get(name, value) == value for name, value in known.items()):
                for name, value in all_tags.items():
                    self._client.set_tag(found, name, value)
            else:
                self._client.delete_run(found)
                found = None
        if not found:
            name = stage if parent else run
            made = self._client.create_run(self._experiment, round(began_s * 1000), all_tags, run_name=name)
            found = str(made.info.run_id)
        self._log_params(found, wanted)
        return found

    def find(self, run: str, stage: str = "lifecycle") -> str | None:
        """Return the MLflow run of a ketcycle run or of one of its stages, if there is one."""
        safe_run, safe_stage = _UNSAFE.sub("_", run), _UNSAFE.sub("_", stage)
        query = f"tags.ketcycle_run = '{safe_run}' and tags.ketcycle_stage = '{safe_stage}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        notes = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(notes), 100):
            self._client.log_batch(run, params=notes[start : start + 100])

    def log(self, run: str, metrics: Mapping[str, float | None]) -> None:
        """Log metrics in batches; values that are not finite numbers are skipped."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        rows = [
            Metric(_UNSAFE.sub("_", name), float(value), now, 0)
            for name, value in metrics.items()
            if value is not None and math.isfinite(value)
        ]
        for start in range(0, len(rows), 1000):
            self._client.log_batch(run, metrics=rows[start : start + 1000])

    def curve(self, run: str, rows: Sequence[Mapping[str, float]], at_s: float) -> None:
        """Log rows of a training curve as `training/<column>` at their step.

        Args:
            run: id of the MLflow run.
            rows: each has `step` and the values of that step.
            at_s: when they were made, seconds since the epoch.
        """
        from mlflow.entities import Metric

        points = [
            Metric(f"training/{name}", float(value), round(at_s * 1000), int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name != "step" and math.isfinite(value)
        ]
        for start in range(0, len(points), 1000):
            self._client.log_batch(run, metrics=points[start : start + 1000])

    def artifact(self, run: str, path: Path) -> None:
        """Attach a file to a run."""
        self._client.log_artifact(run, str(path))

    def finish(self, run: str, ended_s: float, *, failed: bool = False) -> None:
        """End a run at a time given in seconds since the epoch."""
        self._client.set_terminated(run, "FAILED" if failed else "FINISHED", round(ended_s * 1000))

    def register(self, name: str, folder: Path, alias: str, tags: Mapping[str, str]) -> int:
        """Register a model folder under a name, let the alias point to it, and return the version.

        The same folder registered again gives the version that is there already.
        """
        with self._alone():
            return self._register(name, folder, alias, tags)

    def model(self, name: str, alias: str = "", version: str = "") -> tuple[int, Path, dict[str, str]]:
        """Return a registered model's version, the folder of its files (fetched where they are elsewhere), its tags.

        Raises:
            BadInput: there is no such model, alias or version; the message says what there is.
        """
        import mlflow

        try:
            found = (
                self._client.get_model_version_by_alias(name, alias)
                if alias
                else self._client.get_model_version(name, version)
            )
        except mlflow.exceptions.MlflowException as error:
            models = {m.name: m.aliases for m in self._client.search_registered_models()}
            known = [f"{m}@{a}" for m, aliases in models.items() for a in aliases] or ["no model yet"]
            raise BadInput(
                f"the registry has no model {name}{f'@{alias}' if alias else f'/{version}'} "
                f"({error.message}); it has {', '.join(known)}"
            ) from None
        return int(found.version), self._files(name, found), dict(found.tags)

    def _files(self, name: str, version: Any) -> Path:
        source = str(version.source)
        if source.startswith("file:"):
            folder = Path(unquote(urlsplit(source).path))
            if not folder.is_dir():
                raise BadInput(
                    f"{name} version {version.version} is registered, but its files are gone: {folder}; "
                    "`ketcycle doctor` lists such versions; point the alias to another version, or train a new one"
                )
            return folder
        import mlflow

        folder = self._fetched / f"{_UNSAFE.sub('_', name)}-{version.version}-{version.creation_timestamp}"
        if not folder.exists():
            self._fetched.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._fetched) as scratch:
                uri = self._client.get_model_version_download_uri(name, version.version)
                got = mlflow.artifacts.download_artifacts(uri, dst_path=scratch, tracking_uri=self._uri)
                with suppress(FileExistsError):  # another process fetched it meanwhile
                    Path(got).rename(folder)
        return folder

    def registered(self) -> frozenset[str]:
        """Return the addresses of the folders of all registered models."""
        return frozenset(str(version.source) for version in self._client.search_model_versions(""))

    def expired(self, keep: int) -> list[Version]:
        """Return the versions that no alias points to, apart from the newest `keep` of each model."""
        aliased = {
            (model.name, str(version))
            for model in self._client.search_registered_models()
            for version in model.aliases.values()
        }
        found: dict[str, list[Version]] = {}
        for item in self._client.search_model_versions(""):
            found.setdefault(item.name, []).append(Version(item.name, int(item.version), str(item.source)))
        old = [
            item
            for versions in found.values()
            for item in sorted(versions, key=lambda version: version.number, reverse=True)[keep:]
        ]
        return [item for item in old if (item.name, str(item.number)) not in aliased]

    def forget(self, version: Version) -> None:
        """Delete a version from the registry; its files stay."""
        self._client.delete_model_version(version.name, str(version.number))

    def pointed_at(self, name: str, alias: str) -> tuple[int, Path] | None:
        """Return version and local folder of the model that an alias points to, if it points to one.

        Raises:
            BadInput: the files of the version are gone.
        """
        import mlflow

        try:
            found = self._client.get_model_version_by_alias(name, alias)
        except mlflow.exceptions.MlflowException:
            return None
        return int(found.version), self._files(name, found)

    def with_alias(self, alias: str) -> dict[str, int]:
        """Return the models that have an alias, and the version that it points to."""
        models = self._client.search_registered_models()
        return {model.name: int(model.aliases[alias]) for model in models if alias in model.aliases}

    def version_at(self, name: str, alias: str) -> int | None:
        """Return the version that an alias points to, if it points to one; its files may be gone."""
        import mlflow

        try:
            return int(self._client.get_model_version_by_alias(name, alias).version)
        except mlflow.exceptions.MlflowException:
            return None

    def promote(self, name: str, version: int, alias: str) -> int | None:
        """Point an alias to a version; return the version before, which gets the alias `previous`.

        Raises:
            BadInput: there is no such version.
        """
        import mlflow

        with self._alone():
            before = self.version_at(name, alias)
            try:
                self._client.get_model_version(name, str(version))
                if before and before != version:
                    self._client.set_registered_model_alias(name, "previous", str(before))
                self._client.set_registered_model_alias(name, alias, str(version))
            except mlflow.exceptions.MlflowException as error:
                raise BadInput(f"{name} version {version} cannot become {alias}: {error.message}") from None
        return before

    def describe(self, name: str, version: int, text: str) -> None:
        """Set the description of a version, shown on the registry's page."""
        self._client.update_model_version(name, str(version), description=text)

    def _register(self, name: str, folder: Path, alias: str, tags: Mapping[str, str]) -> int:
        import mlflow

        source, named = folder.absolute().as_uri(), self._named(folder)
        try:
            known = self._client.search_model_versions(f"name = '{_UNSAFE.sub('_', name)}'")
        except mlflow.exceptions.MlflowException:
            known = None
        version = next((v for v in known or () if source == v.source or v.tags.get(FOLDER) in (named, source)), None)
        if version is None:
            if not known:
                try:
                    self._client.create_registered_model(name)
                except mlflow.exceptions.MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
            version = self._sent(name, folder, tags) if self._remote else None
            version = version or self._client.create_model_version(name, source, tags=dict(tags))
        self._client.set_registered_model_alias(name, alias, version.version)
        return int(version.version)

    def _named(self, folder: Path) -> str:
        """Return the name of a model folder: relative to the home, the same in every home of an installation."""
        absolute = folder.absolute()
        return str(absolute.relative_to(self._home)) if absolute.is_relative_to(self._home) else absolute.as_uri()

    def _sent(self, name: str, folder: Path, tags: Mapping[str, str]) -> Any:
        """Upload the files of a model to the server and return the new version."""
        run = self._client.create_run(self._experiment, tags=dict(tags), run_name=f"model {name}")
        self._client.log_artifacts(run.info.run_id, str(folder), "model")
        self._client.set_terminated(run.info.run_id)
        source, all_tags = f"{run.info.artifact_uri}/model", {**tags, FOLDER: self._named(folder)}
        return self._client.create_model_version(name, source, run.info.run_id, tags=all_tags)


def open_tracking() -> Tracking:
    """Open the tracking store of the installation."""
    from infra import settings

    loaded = settings.load()
    return Tracking(loaded.tracking, loaded.home / "mlflow" / "artifacts")


def where_open(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Call a function in a process of this machine that has opened a tracking store, if one has, else here.

    MLflow takes longer to import than a short run takes to train.
    """
    from infra import settings

    kind = "rest_store" if settings.load().tracking.startswith("http") else "sqlalchemy_store"
    return engine.where_imported(f"mlflow.store.tracking.{kind}", function, *arguments, **named)


def register_model(name: str, folder: Path, alias: str, meta: Mapping[str, str]) -> int:
    """Register a model folder in the installation's registry and return the version."""
    return open_tracking().register(name, folder, alias, meta)
