"""Parameters of a pilot. Does not import Prefect, which reads the server's address when it is imported."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flows.study.config import StudyConfig
from tasks.contract import PILOTS
from tasks.options import decisions_of
from tasks.pilots.claim import profile


class PilotConfig(BaseModel):
    """Parameters of one pilot, for the command line and the Prefect page."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pilot: str = Field(description="grid, clinical, flights, weights or sentiment.")
    profile: Literal["smoke", "full"] = Field("full", description="smoke: a quick check; full: with verdicts.")
    study_id: str = Field("", description="Name of its study; empty = made from the flow run, so that Retry resumes.")
    backend: str = Field("aer", description="aer, noisy:<fake device> or ibm:<device>.")
    seed: int = Field(0, ge=0, description="Seed of all random numbers.")

    @field_validator("pilot")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in decisions_of(PILOTS):
            raise ValueError(f"no pilot {value!r}; there are {', '.join(decisions_of(PILOTS))}")
        return value

    def study(self, study_id: str) -> StudyConfig:
        """Return the study of the pilot, under this name."""
        given = profile(self.pilot, self.profile)
        asked = {"study_id": study_id, "subtask": f"{PILOTS}/{self.pilot}", "backend": self.backend, "seed": self.seed}
        return StudyConfig(**{**given, **asked, "profile": self.profile})
