"""Error suppression and mitigation by name, and what the vendor's primitives make of it.

    optimization_level     0 to 3, of the compilation for the device; 2 by default
    seed_transpiler        of the same
    rep_delay              seconds between two executions
    dynamical_decoupling   XX, XpXm, XY4, or true for XX
    gate_twirling          true or false
    measure_twirling       true or false
    num_randomizations     of twirling
    shots_per_randomization
    measure_mitigation     true or false: readout errors of expectation values (TREX)
    zne_mitigation         true or false: zero-noise extrapolation of expectation values
    pec_mitigation         true or false: probabilistic error cancellation of expectation values
    resilience_level       0, 1 or 2, of expectation values; 0 by default: mitigation is off unless it is set
    dry_run                true or false: ask the service for its own estimate before each job

What corrects expectation values does nothing to samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from infra.errors import BadInput

Check = Callable[[Any], Any]


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError("true or false")


def _whole(low: int, high: int | None = None) -> Check:
    def check(value: Any) -> int:
        number = int(value)
        if isinstance(value, bool) or number < low or (high is not None and number > high):
            raise ValueError(f"a whole number from {low}" + (f" to {high}" if high is not None else " on"))
        return number

    return check


def _delay(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError("seconds from 0 to 1")
    return float(value)


def _sequence(value: Any) -> str | bool:
    names = {"xx": "XX", "xpxm": "XpXm", "xy4": "XY4", "true": "XX", "false": False}
    if str(value).lower() not in names:
        raise ValueError("XX, XpXm, XY4, true or false")
    return names[str(value).lower()]  # type: ignore[return-value]


OPTIONS: Mapping[str, Check] = {
    "optimization_level": _whole(0, 3),
    "seed_transpiler": _whole(0),
    "rep_delay": _delay,
    "dynamical_decoupling": _sequence,
    "gate_twirling": _flag,
    "measure_twirling": _flag,
    "num_randomizations": _whole(1),
    "shots_per_randomization": _whole(1),
    "measure_mitigation": _flag,
    "zne_mitigation": _flag,
    "pec_mitigation": _flag,
    "resilience_level": _whole(0, 2),
    "dry_run": _flag,
}
ESTIMATOR_ONLY = frozenset({"measure_mitigation", "zne_mitigation", "pec_mitigation", "resilience_level"})


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with their values read, in a fixed order.

    Raises:
        BadInput: an unknown name, or a value that it does not take; the message lists those there are.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise BadInput(f"there is no option {', '.join(unknown)} on hardware; there are {', '.join(OPTIONS)}")
    found = {}
    for name in OPTIONS:
        if name in options:
            try:
                found[name] = OPTIONS[name](options[name])
            except (TypeError, ValueError) as error:
                raise BadInput(f"option {name} is {options[name]!r}; it takes {error}") from None
    return found


def primitive_options(options: Mapping[str, Any], primitive: str, *, tag: str, max_s: int | None) -> dict[str, Any]:
    """Return the client's own options for a job of one primitive.

    Args:
        options: as `check_options` returns them.
        primitive: `sampler` or `estimator`.
        tag: what the job can be found by.
        max_s: QPU seconds after which the service stops the job.
    """
    twirling = {
        "enable_gates": options.get("gate_twirling", False),
        "enable_measure": options.get("measure_twirling", False),
        **{n: options[n] for n in ("num_randomizations", "shots_per_randomization") if n in options},
    }
    made: dict[str, Any] = {
        "environment": {"job_tags": [tag]},
        "max_execution_time": max_s,
        "twirling": twirling,
        "execution": {"rep_delay": options["rep_delay"]} if "rep_delay" in options else {},
    }
    if sequence := options.get("dynamical_decoupling"):
        made["dynamical_decoupling"] = {"enable": True, "sequence_type": sequence}
    if primitive == "estimator":
        made["resilience_level"] = options.get("resilience_level", 0)
        names = ("measure_mitigation", "zne_mitigation", "pec_mitigation")
        made["resilience"] = {name: options[name] for name in names if name in options}
        if made["resilience_level"] > 0 or any(made["resilience"].values()):  # they turn on the twirling they need
            for name, key in (("gate_twirling", "enable_gates"), ("measure_twirling", "enable_measure")):
                if name not in options:
                    del twirling[key]
    return made
