"""Arms of the adapter decision: they train an adapter of one frozen projection and execute it on the test text.

Every arm sees the same tokens and tries the same learning rates; the validation text chooses. Everything that is
linear is merged into the weights and costs nothing at inference. The quantum arms train the same rotations
classically, as published (Aizpurua et al. 2026, arXiv 2605.05914), and execute them on the test text by circuits: what
they can reach is what their twin reaches, and every text read later costs circuits again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from tasks.contract import Arm, Bench, Kind
from tasks.finetuning.adapter import maps
from tasks.finetuning.adapter.maps import Attach, Blocks, RandomRotation, Rotation
from tasks.finetuning.adapter.problem import Adaptation, Adapted, parts
from tasks.finetuning.adapter.training import Fitted, fit, merged, projected, site_inputs
from tasks.model.threads import torch_threads
from tasks.quantum.rotations import rotate_by_circuits


def adapt_nothing(_problem: Adaptation, _bench: Bench) -> Adapted:
    """Leave the model as it is."""
    return Adapted({}, None, 0)


def adapt_by(
    attach: Callable[[Adaptation], Attach], problem: Adaptation, bench: Bench, *, norms: bool = False
) -> Adapted:
    """Train an adapter and merge it."""
    with torch_threads(problem.threads):
        return merged(problem, fit(problem, bench, attach(problem)), norms=norms)


def adapt_by_circuits(problem: Adaptation, bench: Bench, *, signed: bool) -> Adapted:
    """Train rotations classically and execute them on the test text by circuits."""
    with torch_threads(problem.threads):
        fitted = _rotations(problem, bench, magnitudes=not signed)
        # In double precision, for a gate must be unitary to eight digits.
        matrices = maps.cayley(_rotation(fitted).angles.detach().double(), problem.block).numpy()
        inputs = site_inputs(problem, bench)
        vectors = inputs.flatten(0, 1).double().numpy()
        turned = rotate_by_circuits(matrices, vectors, bench.sampler, problem.shots, signed=signed)
        outputs = projected(problem, torch.from_numpy(turned.astype(np.float32)).view_as(inputs))
        return Adapted({}, outputs, fitted.trained)


def adapt_magnitudes(problem: Adaptation, bench: Bench) -> Adapted:
    """Train rotations of which only magnitudes are read, and execute them exactly."""
    with torch_threads(problem.threads):
        fitted = _rotations(problem, bench, magnitudes=True)
        with torch.inference_mode():
            outputs = _rotation(fitted)(site_inputs(problem, bench))
        return Adapted({}, np.asarray(outputs.numpy(), np.float32), fitted.trained)


def _rotations(problem: Adaptation, bench: Bench, *, magnitudes: bool) -> Fitted:
    return fit(problem, bench, maps.rotation(problem.block, magnitudes=magnitudes))


def _rotation(fitted: Fitted) -> Rotation:
    holder, name = parts(fitted.model, fitted.site)
    found = getattr(holder, name)
    assert isinstance(found, Rotation)  # noqa: S101  (what maps.rotation attaches)
    return found


def _trained(
    name: str, attach: Callable[[Adaptation], Attach], kind: Kind = Kind.CLASSICAL
) -> Arm[Adaptation, Adapted]:
    return Arm(name, kind, partial(adapt_by, attach))


def _blocks(problem: Adaptation) -> Attach:
    return maps.wrapped(lambda inner, _: Blocks(inner, problem.block))


def _butterfly(problem: Adaptation) -> Attach:
    return maps.wrapped(lambda inner, _: maps.Butterfly(inner, problem.block))


def _random(problem: Adaptation) -> Attach:
    return maps.wrapped(lambda inner, seed: RandomRotation(inner, problem.block, seed))


INCUMBENT = _trained("lora-1", lambda _: maps.lora(1))
CHALLENGER: Arm[Adaptation, Adapted] = Arm(
    "cayley-circuits", Kind.QUANTUM, partial(adapt_by_circuits, signed=True), twin="cayley"
)
OTHERS: tuple[Arm[Adaptation, Adapted], ...] = (
    Arm("nothing", Kind.CONTROL, adapt_nothing, does_nothing=True),
    _trained("random-rotation", _random, Kind.CONTROL),
    _trained("cayley", lambda problem: maps.rotation(problem.block), Kind.TWIN),
    Arm("magnitudes", Kind.TWIN, adapt_magnitudes),
    Arm("magnitudes-circuits", Kind.QUANTUM, partial(adapt_by_circuits, signed=False), twin="magnitudes"),
    _trained("oft", lambda problem: maps.oft(problem.block)),
    _trained("cayley-8", lambda _: maps.rotation(8)),
    _trained("cayley-16", lambda _: maps.rotation(16)),
    _trained("cayley-64", lambda _: maps.rotation(64)),
    _trained("blocks", _blocks),
    _trained("scale", lambda _: maps.wrapped(lambda inner, _: maps.Scale(inner))),
    _trained("bias", lambda _: maps.wrapped(lambda inner, _: maps.Bias(inner))),
    _trained("lora-3", lambda _: maps.lora(3)),
    _trained("vera", lambda _: maps.vera(16)),
    _trained("fourierft", lambda _: maps.fourier(96)),
    _trained("boft", _butterfly),
    _trained("hra", lambda _: maps.householder(2)),
    Arm("norms", Kind.CLASSICAL, partial(adapt_by, lambda _: maps.attach_norms, norms=True)),
    _trained("dense", lambda _: maps.attach_dense),
)
