"""Training text that mixes the target with text of the base domain: rehearsal, which lowers forgetting."""

from __future__ import annotations

import numpy as np

from tasks.model.windows import Windows


def mixed(target: Windows, base: Windows, share: float, count: int) -> Windows:
    """Return windows of which a share is text of the base domain; a text with too few windows is repeated.

    Args:
        target: windows of the target.
        base: windows of the base domain, as long as those of the target.
        share: share of the base domain, 0 to 1.
        count: number of windows.

    Raises:
        ValueError: a text that is needed has no window, or the windows differ in length.
    """
    from_base = round(share * count)
    parts = [(target, count - from_base), (base, from_base)]
    if any(n and not len(text) for text, n in parts):
        raise ValueError(f"a mixture of {share:g} needs windows of both texts, found {len(target)} and {len(base)}")
    if target.context != base.context:
        raise ValueError(f"windows of {target.context} and of {base.context} tokens cannot be mixed")
    chosen = [text.take(np.arange(n) % max(1, len(text))) for text, n in parts]
    plain = all(part.scored is None and part.positions is None for part in chosen)
    read = (count, target.context)
    return Windows(
        np.concatenate([part.tokens for part in chosen]),
        np.concatenate([part.n_bytes for part in chosen]),
        None if plain else np.concatenate([_or(part.scored, np.ones(read, bool), part) for part in chosen]),
        None if plain else np.concatenate([_or(part.positions, np.tile(np.arange(read[1]), (count, 1)), part)
                                           for part in chosen]),
    )  # fmt: skip


def _or(given: np.ndarray | None, otherwise: np.ndarray, part: Windows) -> np.ndarray:
    return otherwise[: len(part)] if given is None else given
