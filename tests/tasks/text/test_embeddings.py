import subprocess
import sys

import numpy as np

from tasks.text.embeddings import DIMENSION, embed, normalised

TEXTS = ["The cat sat on the mat.", "A kitten was sitting on a rug.", "The statute limits liability for damages."]


def test_a_vector_has_256_numbers_and_does_not_depend_on_its_company() -> None:
    together = embed([*TEXTS, "x " * 5000])[:3]
    alone = np.vstack([embed([text]) for text in TEXTS])
    assert together.shape == (3, DIMENSION)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, alone)


def test_the_vectors_are_those_of_the_package_itself() -> None:
    from pathlib import Path

    import wordllama

    theirs = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True).embed(TEXTS)
    np.testing.assert_allclose(embed(TEXTS), theirs, atol=1e-5)


def test_like_texts_are_nearer_than_unlike_ones() -> None:
    unit = normalised(embed(TEXTS))
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.1


def test_nothing_and_empty_texts_embed_to_nothing_and_zeros() -> None:
    assert embed([]).shape == (0, DIMENSION)
    assert not embed([""]).any()
    np.testing.assert_allclose(np.linalg.norm(normalised(embed(["", "word"])), axis=1), 1, atol=1e-6)


def test_loading_leaves_the_root_logger_alone() -> None:
    code = (
        "import logging; root = logging.getLogger(); before = (list(root.handlers), root.level);"
        "from tasks.text.embeddings import embed; print(embed(['word']).shape);"
        "print((list(root.handlers), root.level) == before)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == [f"(1, {DIMENSION})", "True"]
