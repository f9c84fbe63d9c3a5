"""Settings of an installation: flag > environment > `ketcycle.toml` > default. The only reader of the environment."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from infra.errors import BadInput

Objective = Literal["energy", "cost", "time"]
LogText = Literal["hashed", "redacted", "plain"]
NotifyKind = Literal["auto", "slack", "teams", "json"]
TRACKING = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
WorkPool = Literal["process", "docker", "kubernetes"]

FILE = "ketcycle.toml"
PREFIX = "KETCYCLE_"

LOOPBACK = ("127.0.0.1", "localhost")
USER = "ketcycle"  # user name for the services of an installation

# Variables that keep the libraries local: no telemetry, no look-ups, no unexpected servers.
_QUIET = {
    "DO_NOT_TRACK": "true",  # mlflow does not take "1" for true
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "ketcycle",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # log lines of a service belong to no flow run
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # progress lines are printed separately
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # an automation ends flow runs without heartbeats
    # The server's database stays bounded: it forgets events after 7 days, flow runs after 30.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 24 * 3600),
    "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": '{"prefect.flow-run.heartbeat": 86400}',
    "USAGE_DATA_OPT_OUT": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "QDK_PYTHON_TELEMETRY": "none",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DASK_LOGGING__DISTRIBUTED": "error",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Settings(BaseSettings):
    """The settings of an installation; each field has a description."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, toml_file=FILE, extra="forbid", frozen=True)

    home: Path = Field(Path(".ketcycle"), description="State folder.")
    ledger_url: str = Field("", description="Database URL of the runtime queue's ledger; empty = SQLite in the home.")
    lake_url: str = Field(
        "",
        description="Store that several machines share for lake, evidence and records, e.g. s3://bucket/prefix; "
        "empty = the home.",
    )
    tracking_uri: str = Field("", description="MLflow tracking address; empty = SQLite in the home.")
    prefect_url: str = Field("", description="Prefect API to use; empty = this home's running one, else none.")
    dask_address: str = Field(
        "", description="Dask scheduler to use; empty = this home's running one, else one per run."
    )
    work_pool: WorkPool = Field(
        "process", description="Where runs of deployments take place: process, docker or kubernetes."
    )
    workers: int = Field(2, ge=1, description="Dask worker processes of a run's own cluster.")
    prefect_port: int = Field(4200, ge=0, le=65535, description="Port of the Prefect page of `ketcycle up`; 0 = any.")
    mlflow_port: int = Field(5000, ge=0, le=65535, description="Port of the MLflow page of `ketcycle up`; 0 = any.")
    dask_port: int = Field(8787, ge=0, le=65535, description="Port of the Dask dashboard of `ketcycle up`; 0 = any.")
    scheduler_port: int = Field(8786, ge=0, le=65535, description="Port of the Dask scheduler of a role; 0 = any.")
    metrics_port: int = Field(
        9464, ge=0, le=65535, description="Port of the queue's metrics in `ketcycle up`; 0 = any."
    )
    serve_port: int = Field(8000, ge=0, le=65535, description="Port of `ketcycle serve`; 0 = any.")
    log_text: LogText = Field(
        "hashed", description="What the request log keeps of texts: a digest, the text without addresses, or all."
    )
    log_days: float = Field(30.0, ge=0, description="Days for which the request log is kept; 0 = for ever.")
    api_key_file: Path | None = Field(None, description="File with the key that clients of `ketcycle serve` send.")
    inbox: Path | None = Field(
        None, description="Folder that is watched for new files of the corpus; unset = inbox in the home."
    )
    contact: str = Field(
        "", description="Web or mail address that the user agent of `ketcycle fetch` names, for owners of sites."
    )
    notify_url: str = Field(
        "",
        description="Where a message is posted when a deployed run fails, or drift, worse quality or a spent budget is "
        "seen; empty = nowhere.",
    )
    notify_kind: NotifyKind = Field(
        "auto", description="What notify_url takes: slack, teams or json; auto = by its address."
    )
    webhook_port: int = Field(8765, ge=0, le=65535, description="Port of `ketcycle webhooks`; 0 = any.")
    webhook_token: SecretStr = Field(
        SecretStr(""),
        description="Token of plain JSON webhooks, at least 16 characters; better in the environment.",
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""), description="Secret of MLflow's webhooks, at least 16 characters; better in the environment."
    )
    country: str = Field("DEU", description="ISO code of the country in which the work is computed, for carbon.")
    carbon_series: Path | None = Field(
        None, description="CSV or Parquet file of that place's carbon intensity over time; unset = yearly mean."
    )
    carbon_provider: str = Field(
        "",
        description="Class that gives that series instead of a file, as package.module:Class; see docs/operations.md.",
    )
    carbon_timezone: str = Field("UTC", description="Time zone of times in that file that have none.")
    qpu_country: str = Field("USA", description="ISO code of the QPU's site, for the carbon of seconds billed.")
    projection_device: str = Field("fake_torino", description="Fake device on which QPU time is projected.")
    simulation_limit_s: float = Field(
        1200.0, gt=0, description="CPU seconds that one call may be expected to simulate; beyond it the arm is refused."
    )
    remote_deadline_s: float = Field(
        600.0, ge=0, description="Seconds that an arm waits for a remote queue; then its row is pending."
    )
    objective: Objective = Field("energy", description="What method auto minimises: energy, cost or time.")
    ibm_api_url: str = Field("", description="Address of the quantum platform's API; empty = the public API.")
    ibm_identity_url: str = Field(
        "", description="Address that issues access tokens of the platform; empty = the public address."
    )
    ibm_search_url: str = Field(
        "", description="Address of the search for an account's instances; empty = the public address."
    )
    ibm_instance: str = Field(
        "", description="Name or CRN of the service instance; empty = the default of the account."
    )
    ibm_mode: Literal["job", "batch"] = Field("job", description="Execution mode: jobs are sent alone or in a batch.")
    provider_prices: Path | None = Field(
        None,
        description="YAML file with what the devices of `provider:` cost, by <module>:<device>; see docs/queue.md.",
    )
    ibm_listing_delay_s: float = Field(
        60.0, ge=0, description="Seconds after which the platform lists every created job."
    )
    ibm_options: dict[str, Any] = Field(
        default_factory=dict,
        description='Error suppression and mitigation by name, e.g. {dynamical_decoupling = "XY4"}.',
    )

    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of stages for every run, nested, e.g. [options.inference.pruning] units = 8.",
    )

    @field_validator("carbon_series", "api_key_file", "inbox", "provider_prices", mode="before")
    @classmethod
    def _unset(cls, value: Any) -> Any:
        return None if value == "" else value  # TOML has no null

    @field_validator("home")
    @classmethod
    def _is_usable(cls, value: Path) -> Path:
        if "?" in str(value.absolute()):
            raise ValueError(f"a question mark ends the path in addresses of databases; name another than {value}")
        return value

    @field_validator("tracking_uri")
    @classmethod
    def _is_tracking(cls, value: str) -> str:
        kind = value.partition(":")[0].partition("+")[0]
        if kind.startswith("databricks"):
            raise ValueError(
                "Databricks is not supported: its experiments and models are named by paths and catalogs; name an "
                "MLflow server (https://...), or leave it empty for SQLite in the home"
            )
        if value and kind not in TRACKING:
            raise ValueError(f"an MLflow store has an address that begins with {', '.join(TRACKING)}, not {kind!r}")
        return value

    @field_validator("lake_url")
    @classmethod
    def _is_store(cls, value: str) -> str:
        protocol, separator, place = value.partition("://")
        if value and not (separator and place.strip("/")):
            raise ValueError("an object store has an address like s3://bucket/prefix")
        if protocol in ("file", "local"):
            raise ValueError("a folder that machines share is used as home; lake_url is for object stores")
        if "@" in place.partition("/")[0]:
            raise ValueError("no credentials in the address; the store's client finds them, e.g. in AWS_ACCESS_KEY_ID")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flag, environment, file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    @property
    def ledger(self) -> str:
        """URL of the ledger."""
        return self.ledger_url or f"sqlite:///{self.home.absolute() / 'ledger.db'}"

    @property
    def inbox_folder(self) -> Path:
        """Folder that is watched for new files of the corpus."""
        return (self.inbox or self.home / "inbox").expanduser().absolute()

    @property
    def tracking(self) -> str:
        """URL of the tracking store."""
        return self.tracking_uri or f"sqlite:///{self.home.absolute() / 'mlflow' / 'mlflow.db'}"


@dataclass(frozen=True)
class Setting:
    """One setting as `ketcycle config` shows it.

    Attributes:
        name: name of the setting in the file; the variable is `KETCYCLE_` and the name in capitals.
        value: effective value, without passwords in addresses.
        origin: `flag`, the variable, the file, or `default`.
        description: purpose of the setting.
    """

    name: str
    value: Any
    origin: str
    description: str


def load(**flags: Any) -> Settings:
    """Return the settings, `flags` that are not None first; the home becomes absolute and exists.

    Raises:
        BadInput: a value cannot be used; the message names its origin.
    """
    settings = _read(flags)
    home = settings.home.expanduser().absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"the state folder {home} cannot be made ({error.strerror}); choose another with --home or {PREFIX}HOME"
        ) from error
    return settings.model_copy(update={"home": home})


def home_here(home: Path) -> Path:
    """Return the state folder on this machine for settings that come from another machine.

    With a store (`lake_url`) every machine has its own folder; without a store all share one folder at the same path.
    """
    loaded = _read({})
    return loaded.home.expanduser().absolute() if loaded.lake_url else home


def shared(loaded: Settings) -> dict[str, str]:
    """Return the settings that machines must have in common to work on one run, passwords left out."""
    if not loaded.lake_url:
        return {"lake_url": "none"}
    found = {"lake_url": loaded.lake_url, "ledger_url": loaded.ledger, "tracking_uri": loaded.tracking}
    return {name: _masked(value) for name, value in found.items()}


def show(**flags: Any) -> list[Setting]:
    """Return every setting with its value and the origin of the value.

    Raises:
        BadInput: a value cannot be used.
    """
    loaded = _read(flags)
    return [
        Setting(name, _masked(getattr(loaded, name)), _origin(name, flags), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def template() -> str:
    """Return a `ketcycle.toml` with every setting as a comment, with its default."""
    lines = ["# Settings of ketcycle: flag > environment (KETCYCLE_NAME) > this file > default.", ""]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        value = '""' if default is None else json.dumps(default, default=str)
        lines += [f"# {field.description}", f"# {name} = {value}", ""]
    return "\n".join(lines)


def _read(flags: Mapping[str, Any]) -> Settings:
    given = tuple((name, value) for name, value in flags.items() if value is not None)
    try:
        return _made(given, frozenset(os.environ.items()), _stamp(Path(FILE).absolute()))
    except ValidationError as error:
        said = []
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else ""
            known = (
                f"; the settings are {', '.join(Settings.model_fields)}" if item["type"] == "extra_forbidden" else ""
            )
            said.append(f"{_origin(name, flags)}: {name}: {item['msg']}{known}")
        raise BadInput("; ".join(said)) from None
    except (tomllib.TOMLDecodeError, SettingsError, UnicodeDecodeError) as error:
        raise BadInput(f"the settings cannot be read ({error}); `ketcycle init` writes a file that can") from None


@lru_cache(maxsize=16)
def _made(
    flags: tuple[tuple[str, Any], ...],
    _environment: frozenset[tuple[str, str]],
    _file: tuple[Path, int, int] | None,
) -> Settings:
    """Return the settings; reading and checking them takes a millisecond, and a run asks some hundred times."""
    return Settings(**dict(flags))


def _stamp(path: Path) -> tuple[Path, int, int] | None:
    """Return what changes when a file is written again, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return path, found.st_mtime_ns, found.st_size


def _origin(name: str, flags: Mapping[str, Any]) -> str:
    if flags.get(name) is not None:
        return "flag"
    variable = f"{PREFIX}{name.upper()}"
    if variable in os.environ:
        return variable
    with suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        if name in tomllib.loads(Path(FILE).read_text()):
            return str(Path(FILE).absolute())
    return "default"


def _masked(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    return re.sub(r"(?<=://)([^/@:]*):[^/@]+@", r"\1:***@", value) if isinstance(value, str) else value


def quiet_libraries(home: Path) -> None:
    """Set variables that libraries read at import, for this process and its children; the user's own values are kept.

    Call it before importing prefect, mlflow, transformers or qiskit_ibm_runtime.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    for name in ("NO_PROXY", "no_proxy"):  # local services are reached directly, also behind a proxy
        os.environ[name] = ",".join(dict.fromkeys([*filter(None, os.environ.get(name, "").split(",")), *LOOPBACK]))
    os.environ["KETCYCLE_HOME"] = str(home)
    with suppress(OSError):  # secret that the services of a multi-machine installation require
        secret = (home / "tls" / "secret").read_text().strip()
        os.environ.setdefault("PREFECT_API_AUTH_STRING", f"{USER}:{secret}")
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", USER)
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", secret)
        for library in ("PREFECT_API_SSL_CERT_FILE", "MLFLOW_TRACKING_SERVER_CERT_PATH"):
            os.environ.setdefault(library, str(home / "tls" / "ca.pem"))


def hand_on(**variables: str) -> None:
    """Set environment variables for this process and its children."""
    os.environ.update(variables)


def unset(name: str) -> None:
    """Remove an environment variable from this process and the children that it starts from now on."""
    os.environ.pop(name, None)


def environment_with(**variables: str) -> dict[str, str]:
    """Return the environment of this process and further variables, for a process that it starts."""
    return {**os.environ, **variables}


def environment(name: str) -> str | None:
    """Read one variable that a library owns."""
    return os.environ.get(name)
