"""The risk register: each risk with likelihood, impact, owner, guard, and the test that shows the guard."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

FILE = Path(__file__).with_name("risks.yaml")
LEVELS = {"low": 1, "medium": 2, "high": 3}

Level = Literal["low", "medium", "high"]


class Risk(BaseModel):
    """One risk of using quantum services.

    Attributes:
        name: short name.
        risk: what may happen.
        likelihood: how likely, judged.
        impact: how bad, judged.
        owner: who acts.
        guard: what the software does by itself; empty if nothing.
        test: the test that shows the guard, `file::function`; empty without a guard.
        field: evidence field or command that shows the risk's state.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    risk: str
    likelihood: Level
    impact: Level
    owner: str
    guard: str = ""
    test: str = ""
    field: str

    @model_validator(mode="after")
    def _shown(self) -> Risk:
        if bool(self.guard) != bool(self.test):
            raise ValueError(f"{self.name}: a guard needs the test that shows it, and a test a guard")
        return self

    @property
    def score(self) -> int:
        """Likelihood times impact, 1 to 9."""
        return LEVELS[self.likelihood] * LEVELS[self.impact]


def load_risks() -> list[Risk]:
    """Return the register, the highest score first."""
    found = [Risk.model_validate(item) for item in yaml.safe_load(FILE.read_bytes())["risks"]]
    return sorted(found, key=lambda risk: (-risk.score, risk.name))
