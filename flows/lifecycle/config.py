"""Parameters of a run, for the command line and the Prefect page."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.errors import BadInput
from infra.settings import FILE, Objective, Settings
from infra.yaml_text import parse_yaml
from tasks.contract import STAGES, Method
from tasks.options import check as check_options
from tasks.options import decisions_of
from tasks.options import merge as merge_options
from tasks.registry import modules_of

# Options of stages that are set by parameters of the run.
SHORTHAND = {
    "curation": ("corpus", "second", "text_column", "id_column", "weight_column", "threshold", "alone"),
    "preprocessing": ("model",),
    "architecture": ("model",),
    "training": ("model", "evaluate"),
}
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class RunConfig(BaseModel):
    """One run of the lifecycle, or of some of its stages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(
        "", description="Name of the run, which a retry resumes; empty = named after the Prefect flow run."
    )
    profile: str = Field(
        "demo",
        description="Sizes: demo, smoke, full, pretrained (where a model is given), or a YAML file of your own.",
        json_schema_extra=lambda schema: schema.update(examples=[*profiles()]),
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description='Options of stages on top of the profile, nested, e.g. {"inference": {"pruning": {"units": 8}}}.',
    )
    corpus: tuple[str, ...] = Field((), description="Files or folders of text; empty = the sample that ships.")
    second: tuple[str, ...] = Field((), description="Files or folders of the second domain; empty = the sample's.")
    text_column: str = Field("", description="Column that holds the text; empty = text, content or body.")
    id_column: str = Field("", description="Column that names a document; empty = doc_id or id, else path and row.")
    weight_column: str = Field("", description="Column with the weight of a document; empty = its length.")
    threshold: float | None = Field(
        None, gt=0, le=1, description="Jaccard similarity of near duplicates; empty = the profile's, .7."
    )
    model: str = Field("", description="Folder of a pretrained model in transformers format; empty = train one.")
    evaluate: str = Field("", description="Text file on which a pretrained model is scored; empty = none.")
    method: Method = Field(Method.SHADOW, description="How each decision picks its arm.")
    backend: str = Field("aer", description="aer or noisy:<fake device>.")
    stages: tuple[str, ...] = Field(
        STAGES,
        description="Stages to run, in lifecycle order.",
        json_schema_extra={"items": {"type": "string", "enum": [*STAGES]}},
    )
    objective: Objective = Field("energy", description="What auto routing minimises.")
    seed: int = Field(0, ge=0, description="Seed of all random numbers.")

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_a_pretrained_model(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("model") and not given.get("profile"):
            return {**given, "profile": "pretrained"}
        return given

    @field_validator("run_id")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if value and not RUN_ID.fullmatch(value):
            raise ValueError(f"a run is named with a-z, 0-9 and dashes, not {value!r}")
        return value

    @field_validator("stages")
    @classmethod
    def _known_stages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in STAGES]
        if unknown:
            raise ValueError(f"unknown stages {', '.join(unknown)}; the stages are {', '.join(STAGES)}")
        return tuple(name for name in STAGES if name in value)

    @property
    def alone(self) -> bool:
        """Whether the run only curates the user's corpus."""
        return self.stages == ("curation",) and bool(self.corpus)

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that the workers of the run need; a cluster of its own imports them once for all its workers."""
        decisions = (f"{stage}/{name}" for stage in self.stages for name in decisions_of(stage))
        return ("tasks.steps", *(f"tasks.{stage}.stage" for stage in self.stages), *modules_of(decisions))

    def named(self) -> RunConfig:
        """Return the run with a name: its own, else that of the current Prefect flow run, the same on every retry."""
        if self.run_id:
            return self
        from prefect.runtime import flow_run

        return self.model_copy(update={"run_id": named_after(str(flow_run.id))})


def named_after(flow_run_id: str) -> str:
    """Return the default name of a run, the same on every retry of its flow run."""
    return f"run-{flow_run_id[:13]}"


def explain(error: ValidationError) -> str:
    """Return the validation errors of parameters in one line."""
    found = ((".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors())
    return "; ".join(f"{name}: {said}" for name, said in found)


def profiles() -> list[str]:
    """Return the names of the profiles."""
    folder = resources.files("deployments") / "profiles"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def is_file(profile: str) -> bool:
    """Return whether a profile is given as a file, not as one of the names that ship."""
    return profile.endswith((".yaml", ".yml")) or "/" in profile


def load_profile(name: str) -> dict[str, Any]:
    """Return the options of a profile by stage (and of `settle`), from a name that ships or from a YAML file.

    Raises:
        BadInput: there is no such profile, it cannot be read, or it sets an option that does not exist.
    """
    if is_file(name):
        path = Path(name).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"the profile {path} cannot be read ({error}); give a YAML file") from None
    elif name in profiles():
        text = (resources.files("deployments") / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise BadInput(f"no profile {name!r}; there are {', '.join(profiles())}, or give a YAML file")
    try:
        loaded: Any = parse_yaml(text) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"the profile {name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, dict | None) for value in loaded.values()):
        raise BadInput(f"the profile {name} should map stages to their options, such as training: {{tokens: 1000}}")
    check_options(loaded, f"profile {name}")
    return {stage: options or {} for stage, options in loaded.items()}


def resolve_options(config: RunConfig, loaded: Settings) -> dict[str, Any]:
    """Return the options of all stages: the profile, then ketcycle.toml, then the run's own on top.

    Raises:
        BadInput: an option does not exist or its value is not allowed; the message says where it was set.
    """
    check_options(loaded.options, FILE)
    check_options(config.options, "--set")
    merged = merge_options(load_profile(config.profile), loaded.options, config.options)
    shorthand = {
        stage: {name: value for name in names if (value := getattr(config, name))} for stage, names in SHORTHAND.items()
    }
    merged = merge_options(merged, {stage: options for stage, options in shorthand.items() if options})
    check_options(merged)
    return merged
