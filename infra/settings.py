"""Settings of an installation: flag > environment > `ketcycle.toml` > default. The only reader of the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

Objective = Literal["energy", "cost", "time"]

# What keeps the libraries quiet and local: no telemetry, no look-ups, no surprise servers.
_QUIET = {
    "DO_NOT_TRACK": "true",  # mlflow does not take "1" for true
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "ketcycle",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # progress lines reach the console on their own road
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "USAGE_DATA_OPT_OUT": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DASK_LOGGING__DISTRIBUTED": "error",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Settings(BaseSettings):
    """What an installation is set to.

    Attributes:
        home: the state folder.
        ledger_url: SQLAlchemy URL of the runtime queue's ledger; empty = SQLite in the state folder.
        tracking_uri: MLflow tracking address; empty = SQLite in the state folder.
        prefect_url: address of a Prefect API to use; empty = the running one of this home, else one per run.
        dask_address: address of a Dask scheduler to use; empty = the running one of this home, else one per run.
        workers: Dask worker processes of a run's own cluster.
        country: ISO code of the place that computes, for carbon.
        carbon_series: CSV or Parquet file of that place's carbon intensity over time; None = yearly mean.
        carbon_timezone: time zone of times in that file that do not say theirs.
        qpu_country: ISO code of the QPU's site, for the carbon of seconds billed.
        projection_device: fake device on which QPU time is projected.
        simulation_limit_s: CPU seconds that one call may be expected to simulate; beyond it the arm is refused.
        remote_deadline_s: seconds that an arm waits for a remote queue; then its row is pending and is completed later.
        ibm_api_url: address of the quantum platform's API, e.g. of a private deployment; empty = the public one.
        ibm_identity_url: address where the platform's access tokens come from; empty = the public one.
        ibm_search_url: address where an account's instances are searched; empty = the public one.
        ibm_instance: name or CRN of the service instance; empty = what the vendor's account says.
        ibm_mode: whether jobs travel alone or in a batch; sessions bill idle time and are not offered.
        ibm_options: error suppression and mitigation by name, e.g. {"dynamical_decoupling": "XY4"}.
    """

    model_config = SettingsConfigDict(env_prefix="KETCYCLE_", toml_file="ketcycle.toml", extra="forbid", frozen=True)

    home: Path = Path(".ketcycle")
    ledger_url: str = ""
    tracking_uri: str = ""
    prefect_url: str = ""
    dask_address: str = ""
    workers: int = Field(default=2, ge=1)
    country: str = "DEU"
    carbon_series: Path | None = None
    carbon_timezone: str = "UTC"
    qpu_country: str = "USA"
    projection_device: str = "fake_torino"
    simulation_limit_s: float = Field(default=1200.0, gt=0)
    remote_deadline_s: float = Field(default=600.0, ge=0)
    objective: Objective = "energy"
    ibm_api_url: str = ""
    ibm_identity_url: str = ""
    ibm_search_url: str = ""
    ibm_instance: str = ""
    ibm_mode: Literal["job", "batch"] = "job"
    ibm_options: dict[str, Any] = Field(default_factory=dict)

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
    def tracking(self) -> str:
        """URL of the tracking store."""
        return self.tracking_uri or f"sqlite:///{self.home.absolute() / 'mlflow' / 'mlflow.db'}"


def load(**flags: Any) -> Settings:
    """Return the settings, `flags` that are not None first; the home becomes absolute and exists."""
    settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    home = settings.home.expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    return settings.model_copy(update={"home": home})


def quiet_libraries(home: Path) -> None:
    """Set what the libraries read at import, for this process and those it starts; the user's own values stay.

    Call it before importing prefect, mlflow, transformers or qiskit_ibm_runtime.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    os.environ["KETCYCLE_HOME"] = str(home)


def hand_on(**variables: str) -> None:
    """Set environment variables for this process and those it starts."""
    os.environ.update(variables)


def environment(name: str) -> str | None:
    """Read one variable that a library owns."""
    return os.environ.get(name)
