"""Options of the decision `drift`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tasks.monitoring.watching.harm import MARGIN


class Options(BaseModel):
    """Settings of the decision.

    Attributes:
        level: false-alarm probability at which the arms are compared.
        alarm_level: p-value at which a window counts as drifted for the state; stricter than `level`, because
            windows follow one another and each is a chance of a false alarm.
        permutations: permutations of each two-sample test.
        shots: samples of each circuit.
        least_gain: share of the square root of the number of background texts that the geometric difference of a
            quantum kernel to the Gaussian one must reach; else its arm is skipped before a circuit runs. 0 = never.
        minimum: minimum number of requests of a window; a smaller window is not tested.
        debounce: consecutive drifted windows that raise an alert.
        recovery: consecutive windows without drift that end an alert.
        cool_down: number of windows after an announced alert in which no other alert is announced.
        margin: largest loss of mean log-likelihood, in nats per token, that still counts as no harm.
        power_trials: number of mixtures with known drift from which the power at these window sizes is estimated;
            0 = not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: float = Field(0.05, gt=0, lt=1)
    alarm_level: float = Field(0.01, gt=0, lt=1)
    permutations: int = Field(499, ge=19)
    shots: int = Field(128, ge=1)
    least_gain: float = Field(0.1, ge=0, le=1)
    minimum: int = Field(20, ge=1)
    debounce: int = Field(2, ge=1)
    recovery: int = Field(2, ge=1)
    cool_down: int = Field(3, ge=0)
    margin: float = Field(MARGIN, ge=0)
    power_trials: int = Field(20, ge=0)
