"""Options of the decision `tuning_policy`; by default every run takes the settings of the stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        episodes: fine-tuning runs of each arm, 0 = the decision is left out. Its study says what they gain; each costs
            as much as a short fine-tuning.
        parallel: runs that are proposed together and trained at the same time where workers are free.
        tokens: training tokens of one run.
        cpu_s: CPU seconds that each arm may use.
        windows: windows of each text on which rewards are measured.
        shots: measurements of each circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    episodes: int = Field(0, ge=0)
    parallel: int = Field(4, ge=1)
    tokens: int = Field(8_192, ge=1)
    cpu_s: float = Field(600.0, gt=0)
    windows: int = Field(32, ge=1)
    shots: int = Field(256, ge=1)
