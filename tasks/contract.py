"""The one contract between a decision and the methods that can take it.

A *subtask* is one decision inside a stage; an *arm* is one way to solve it. This module knows values only: it
imports nothing of the orchestrator, the quantum library or the infrastructure, and loads in milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from numpy.random import Generator
    from pydantic import BaseModel
    from qiskit.primitives import BaseEstimatorV2, BaseSamplerV2

STAGES = ("curation", "preprocessing", "architecture", "training", "finetuning", "inference", "monitoring")
PILOTS = "pilots"  # the room of decisions that are on no stage's road: published industry cases, run again

P = TypeVar("P")
S = TypeVar("S")
T = TypeVar("T")
U = TypeVar("U")


class Kind(StrEnum):
    """What sort of method an arm is."""

    CONTROL = "control"
    CLASSICAL = "classical"
    TWIN = "twin"
    DEQUANTISED = "dequantised"
    QUANTUM = "quantum"


class Method(StrEnum):
    """How a run picks the arm of a subtask."""

    CLASSICAL = "classical"
    QUANTUM = "quantum"
    SHADOW = "shadow"
    AUTO = "auto"


class OverBudget(Exception):
    """An arm has used more than the budget of its problem allows."""


class NothingToGain(Exception):
    """A test that an arm makes before its costly part says that the arm cannot gain anything; the arm is skipped."""


@dataclass(frozen=True)
class Budget:
    """What each arm may use on a problem; a problem that has one keeps it in its field `budget`.

    Attributes:
        tokens: training tokens, as the arm reports them to `Bench.spend`.
        cpu_s: CPU seconds of the arm, what it shares with other arms included.
        joules: modelled or measured joules of the CPU (narrow boundary).
        executions: circuits times shots.
    """

    tokens: int | None = None
    cpu_s: float | None = None
    joules: float | None = None
    executions: int | None = None

    def exceeded(self, used: Mapping[str, float]) -> str:
        """Return which limit is exceeded and by how much, or an empty text.

        Args:
            used: amounts by the names of the fields; what is missing counts as 0.
        """
        for item in fields(self):
            limit, amount = getattr(self, item.name), used.get(item.name, 0)
            if limit is not None and amount > limit:
                return f"{item.name} {amount:.6g} of {limit:.6g}"
        return ""


@dataclass(frozen=True)
class Artifact:
    """A solution that is a folder of files, such as a trained adapter.

    Two artifacts are the same solution when their digests are equal, wherever the folders are.

    Attributes:
        folder: where the files are.
        digest: of the names and contents of the files.
    """

    folder: Path = field(compare=False)
    digest: str

    @classmethod
    def of(cls, folder: Path) -> Artifact:
        """Return the artifact of a finished folder."""
        return cls(folder, content_key(folder))


class Spend(Protocol):
    """Counts what an arm uses against the budget of its problem."""

    def __call__(self, *, tokens: int = 0) -> None:
        """Add training tokens and check every limit; CPU seconds, joules and executions are counted by themselves.

        Raises:
            OverBudget: a limit is exceeded.
        """
        ...


class Once(Protocol):
    """Computes a value shared by several arms a single time; its full cost is charged to every arm that uses it."""

    def __call__(self, key: str, make: Callable[[], T], /) -> T:
        """Return the value of `key`, made by `make` at the first call."""
        ...


class Map(Protocol):
    """Applies a picklable function to every item, here or on the cluster, results in order."""

    def __call__(self, function: Callable[[T], U], items: Sequence[T], /) -> list[U]:
        """Return `[function(item) for item in items]`."""
        ...


def _ignored(_: Mapping[Any, int]) -> None:
    """Ignore the drawn solutions."""


def _unlimited(*, tokens: int = 0) -> None:
    del tokens


def _no_checkpoints() -> Path:
    raise ValueError("this bench keeps no checkpoints; give it `resume`")


@dataclass(frozen=True)
class Bench:
    """What an arm may use besides the problem.

    Attributes:
        rng: the only source of randomness of the arm.
        sampler: any Qiskit V2 sampler; its interface is the same for every backend.
        estimator: any Qiskit V2 estimator.
        map: applies a picklable function to many items, on other workers where some are free.
        once: shares what several arms derive from the same problem.
        scratch: a folder of this arm alone, removed when its solution has been scored and applied; an `Artifact` may
            lie in it.
        resume: returns a folder of this arm alone that survives a kill; an arm that keeps checkpoints in it goes on
            from the last one. Removed once the stage is complete.
        spend: counts the arm's use against the budget of the problem.
        deadline: seconds since the epoch after which a remote result is not waited for, or None.
        drew: takes the solutions that the method's repetitions (shots, reads) gave, each with how often it came; the
            probability that one execution hits the best quality is computed from them, not charged to the arm.
    """

    rng: Generator
    sampler: BaseSamplerV2
    estimator: BaseEstimatorV2
    map: Map
    once: Once
    scratch: Path
    resume: Callable[[], Path] = _no_checkpoints
    spend: Spend = _unlimited
    deadline: float | None = None
    drew: Callable[[Mapping[Any, int]], None] = _ignored


@dataclass(frozen=True)
class Arm(Generic[P, S]):
    """One way to solve a subtask.

    Attributes:
        name: unique within the subtask, e.g. `greedy`, `qaoa`.
        kind: what sort of method it is.
        solve: pure function of problem and bench.
        version: raised when the arm's behaviour changes; evidence of another version does not count.
        does_nothing: marks the control that leaves everything as it is, the only control that may be chosen.
        twin: of a quantum arm, the arm that gives the same samples or values without circuits; what that takes is the
            cost of simulating the arm. Empty where nothing cheaper than simulating its circuits is known.
    """

    name: str
    kind: Kind
    solve: Callable[[P, Bench], S]
    version: str = "1"
    does_nothing: bool = False
    twin: str = ""


@dataclass(frozen=True)
class Material:
    """What the instances of a bank are made of.

    Attributes:
        texts: real texts by the name of their source.
        folder: cache for values that are expensive to compute, named by content and kept for later studies.
        works: for each source, the name of the work that each of its texts is from: manual page, licence, module. A
            source that is not listed is one work.
    """

    texts: Mapping[str, Sequence[str]]
    folder: Path
    works: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Instance(Generic[P]):
    """One problem of a bank, independent of the others and made only when it is needed.

    Attributes:
        source: the texts it is made from.
        name: label for people; unique within the source.
        size: the value of `Subtask.size` for the problem.
        pose: makes the problem.
        unit: unit of independence; instances of one unit count as one observation. Empty = the source.
    """

    source: str
    name: str
    size: int
    pose: Callable[[], P]
    unit: str = ""


def in_turns(sources: Iterable[Iterable[Instance[P]]]) -> Iterator[Instance[P]]:
    """Yield the instances of several sources in turns, so that any first part of a bank is balanced."""
    return (instance for turn in zip_longest(*sources) for instance in turn if instance is not None)


@dataclass(frozen=True)
class Design:
    """What counts as one independent observation of a decision, and how many a verdict needs.

    Attributes:
        unit: `instances` of the bank from several sources, or `cells` of seed x setting, as trainings have.
        least: observations that a bank holds at least.
        sources: independent sources that a bank draws from at least.
    """

    unit: Literal["instances", "cells"]
    least: int
    sources: int


def _on_no_road(*_: Any) -> Any:
    raise ValueError("this decision is on no stage's road; give its Subtask `options`, `pose` and `apply`")


INSTANCES = Design("instances", least=20, sources=3)
CELLS = Design("cells", least=10, sources=1)


@dataclass(frozen=True)
class Subtask(Generic[P, S]):
    """One decision inside a stage that has interchangeable arms.

    Attributes:
        stage: name of the stage, or `pilots`.
        name: name of the decision.
        incumbent: the named classical arm.
        challenger: the named quantum arm; None where no form of the decision runs on a quantum device.
        others: controls, twins and further opponents.
        quality: one value for each independent instance in the problem, higher is better; empty = no truth known.
        metric: printed name and unit of the quality.
        size: size of a typical instance in the problem, by which evidence is put into buckets.
        tolerance: quality that may be lost against the best classical arm.
        bank: independent problems with known truth, each holding one instance, from several sources of real text.
        example: a small real problem with known truth, quick enough for every test.
        oracle: proven best quality for each instance, or None where the best value ever seen must serve.
        floor: quality that the incumbent reaches on the example at least (mean over instances).
        design: what counts as one independent observation.
        predictions: expected results of its study, committed in `decision.yaml` before it ran.
        options: model of the decision's settings, `<stage>.<name>.<option>`.
        pose: makes the problem from the stage's context, its state and the options; None = nothing to decide.
        apply: applies the chosen solution, given context, state, problem and solution; returns the new state.
        counts: what the size counts, in the plural, where joules for a million of them are worth saying; else empty.
        serves: problems of this size that what arms share (`Bench.once`) serves, such as a trained codebook; each
            problem is charged with its part.
        measures: further values by name, each with one value for each independent instance: what a publication printed
            beside the quality. They are stored with the evidence and judge nothing.
    """

    stage: str
    name: str
    incumbent: Arm[P, S]
    challenger: Arm[P, S] | None
    others: tuple[Arm[P, S], ...]
    quality: Callable[[P, S], tuple[float, ...]]
    metric: str
    size: Callable[[P], int]
    tolerance: float
    bank: Callable[[Material, Generator], Iterable[Instance[P]]]
    example: Callable[[Generator], P]
    oracle: Callable[[P], tuple[float, ...]] | None = None
    floor: float = float("-inf")
    design: Design = INSTANCES
    predictions: Mapping[str, Any] = field(default_factory=dict)
    options: type[BaseModel] | None = None
    pose: Callable[[Any, Any, Any], P | None] = _on_no_road
    apply: Callable[[Any, Any, P, S], Any] = _on_no_road
    counts: str = ""
    serves: Callable[[P], float] = lambda _: 1.0
    measures: Callable[[P, S], Mapping[str, tuple[float, ...]]] = lambda *_: {}

    @property
    def arms(self) -> tuple[Arm[P, S], ...]:
        """All arms, the incumbent first, the challenger second where there is one."""
        return (self.incumbent, *((self.challenger,) if self.challenger else ()), *self.others)

    @property
    def always(self) -> tuple[Arm[P, S], ...]:
        """The arms that every shadow run has: incumbent, challenger, twins and the first control."""
        named = (self.incumbent, *((self.challenger,) if self.challenger else ()))
        twins = (arm for arm in self.others if arm.kind is Kind.TWIN)
        controls = (arm for arm in self.others if arm.kind is Kind.CONTROL)
        return (*named, *twins, *islice(controls, 1))

    @property
    def key(self) -> str:
        """`stage/name`."""
        return f"{self.stage}/{self.name}"

    def arm(self, name: str) -> Arm[P, S]:
        """Return the arm called `name`.

        Raises:
            KeyError: no arm of that name; the message lists those there are.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(f"{self.key} has no arm {name!r}; it has {', '.join(a.name for a in self.arms)}")


@dataclass(frozen=True)
class Decision:
    """Why an arm was chosen.

    Attributes:
        arm: name of the chosen arm.
        rule: name of the rule that decided.
        reason: one sentence for people.
        n: instances the rule rests on.
        difference: mean paired quality difference of the chosen arm against the incumbent, or None.
        interval: its interval, or None.
    """

    arm: str
    rule: str
    reason: str
    n: int = 0
    difference: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """The chosen solution of one decision and why it was chosen."""

    solution: S
    decision: Decision
    problem: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def content_key(value: object) -> str:
    """Hash a problem by content: the same data give the same key in every process.

    Dataclass fields declared with `compare=False` do not count; a path counts by the bytes below it.

    Raises:
        TypeError: a value of a type that has no canonical form.
    """
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()[:16]


def _feed(update: Callable[[bytes], None], value: object) -> None:
    if value is None or isinstance(value, bool | int | float | str | bytes):
        update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, Path):
        update(b"path:")
        for path in sorted(value.rglob("*")) if value.is_dir() else [value]:
            if path.is_file():
                update(path.name.encode())
                with path.open("rb") as stream:
                    update(hashlib.file_digest(stream, "sha256").digest())
    elif is_dataclass(value) and not isinstance(value, type):
        update(f"{type(value).__qualname__}(".encode())
        for item in fields(value):
            if item.compare:
                update(item.name.encode())
                _feed(update, getattr(value, item.name))
        update(b")")
    elif isinstance(value, Mapping):
        update(b"{")
        for name in sorted(value, key=repr):
            _feed(update, name)
            _feed(update, value[name])
        update(b"}")
    elif isinstance(value, Sequence | set | frozenset):
        update(b"[")
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            _feed(update, item)
        update(b"]")
    elif hasattr(value, "dtype") and hasattr(value, "tobytes"):
        update(f"{value.dtype}{getattr(value, 'shape', ())}".encode())
        update(value.tobytes())
    else:
        raise TypeError(f"cannot hash a {type(value).__qualname__}; use dataclasses, arrays, paths and plain values")
