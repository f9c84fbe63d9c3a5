"""Arms of the flights pilot: the searches of the architecture stage, at equal fits.

The published method fits a Fourier series by a circuit to the fits so far and goes where the series is lowest. The arms
differ in what makes the series: the circuit read by shots, the circuit read exactly, and ridge regression on the same
frequencies. All searches share start design, number of fits and the rule that stops a bad fit early.
"""

from __future__ import annotations

from tasks.architecture.hyperparameters import arms as searches
from tasks.architecture.hyperparameters.problem import Found, Search
from tasks.contract import Arm

_SEARCHES = {arm.name: arm for arm in (searches.INCUMBENT, searches.CHALLENGER, *searches.OTHERS)}

INCUMBENT: Arm[Search, Found] = _SEARCHES["gaussian-process"]
CHALLENGER: Arm[Search, Found] = _SEARCHES["fourier-circuit"]
OTHERS: tuple[Arm[Search, Found], ...] = tuple(
    _SEARCHES[name] for name in ("random", "fourier-circuit-exact", "fourier-ridge", "sobol", "tpe", "quadratic-exact")
)
