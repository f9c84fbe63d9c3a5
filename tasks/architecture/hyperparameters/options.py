"""Options of the decision `hyperparameters`; by default nothing is searched."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        trials: training runs of each arm, 0 = no search. A search costs as much as dozens of short trainings, and the
            dial chooses without one, so a run searches only if told to.
        start: training runs of the start design, before an arm uses any result.
        parallel: training runs that are proposed together and trained at the same time where workers are free.
        tokens: training tokens of one run of the small model.
        cpu_s: CPU seconds that each arm may use.
        windows: validation windows whose loss the search sees; as many test windows score it.
        domain: domain of the training text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(0, ge=0)
    start: int = Field(10, ge=1)
    parallel: int = Field(2, ge=1)
    tokens: int = Field(60_000, ge=1)
    cpu_s: float = Field(600.0, gt=0)
    windows: int = Field(64, ge=1)
    domain: str = "base"
