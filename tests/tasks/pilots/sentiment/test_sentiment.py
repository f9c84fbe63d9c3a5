from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.pilots.sentiment import sentences as module
from tasks.pilots.sentiment.bank import few, rows_of, split
from tasks.pilots.sentiment.sections import sections
from tasks.pilots.sentiment.sentences import (
    PACKAGE,
    STATIC,
    TRANSFORMER,
    TUNED,
    Rows,
    Vectors,
    encoders,
    sentences,
    vectors,
)


def test_the_split_rule_is_the_published_one() -> None:
    train, validation, test = rows_of(3)
    assert (len(train), len(validation), len(test)) == (435, 77, 9_101)
    assert len({*train, *validation, *test}) == len(sentences()[0]) == 9_613
    labels = sentences()[1]
    assert labels[[*train, *validation]].sum() == 256
    assert not np.array_equal(train, rows_of(4)[0])


def test_a_small_instance_has_as_many_of_each_class(tmp_path: Path) -> None:
    found = few(STATIC, tmp_path, 3)
    assert found.labels.tolist() == [0] * 20 + [1] * 20
    assert len(found.truth) == 30


def test_both_classes_are_told_apart_better_than_by_chance(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    problem = split(STATIC, tmp_path, 3)
    model = LogisticRegression(max_iter=500).fit(problem.train, problem.labels)
    assert 0.65 < np.mean(model.predict(problem.test) == np.array(problem.truth)) < 0.85


def test_kept_embeddings_are_used_and_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    assert encoders(tmp_path) == (STATIC,)
    monkeypatch.setattr(module, "_transformed", lambda texts: np.ones((len(texts), 3), np.float32))
    assert vectors(TRANSFORMER, tmp_path / "cache").shape == (9_613, 3)
    assert encoders(tmp_path / "cache") == (STATIC, TRANSFORMER)
    with pytest.raises(KeyError, match="no encoder 'bert'"):
        vectors("bert", tmp_path)


def test_the_fine_tuned_encoder_learns_from_the_labelled_sentences_of_its_split_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def tuned(seed: int, train: Rows, wanted: Rows) -> Vectors:
        given.append((seed, train, wanted))
        return np.arange(len(wanted), dtype=np.float32)[:, None]

    monkeypatch.setattr(module, "_tuned", tuned)
    problem = split(TUNED, tmp_path, 3, tested=10)
    train, _, test = rows_of(3)
    ((seed, learned, wanted),) = given
    assert (seed, learned.tolist()) == (3, train.tolist())
    assert wanted.tolist() == [*train, *test[:10]]
    assert problem.train[:, 0].tolist() == list(range(435))
    assert problem.test[:, 0].tolist() == list(range(435, 445))
    split(TUNED, tmp_path, 3, tested=10)
    assert len(given) == 1, "kept for later studies"
    split(TUNED, tmp_path, 4, tested=10)
    assert len(given) == 2, "each split has its own"


@pytest.mark.skipif(util.find_spec(PACKAGE) is None, reason="needs the extra `encoders`")
def test_fine_tuning_tells_classes_apart_better_than_the_frozen_encoder() -> None:
    labels = sentences()[1]
    train, _, test = rows_of(1)
    tested = test[:200]
    wanted = np.concatenate([train, tested])
    tuned, frozen = module._tuned(1, train, wanted), module._transformed(tuple(sentences()[0][i] for i in wanted))

    def accuracy(found: Vectors) -> float:
        means = np.stack([found[:435][labels[train] == label].mean(axis=0) for label in (0, 1)])
        nearest = ((found[435:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        return float(np.mean(nearest == labels[tested]))

    assert accuracy(tuned) > accuracy(frozen) > 0.65


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences.cache_clear()
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="has the checksum 792c7e"):
        sentences()


def test_the_third_column_has_no_crossing() -> None:
    (table,) = sections([])
    assert "34 qubits" in table.sentence
    shapes: dict[Any, Any] = {row[0]: row[1] for row in table.rows}
    assert shapes[34] == pytest.approx(1.0)  # the published crossing
    assert shapes[30] == pytest.approx(34 / 30 / 16)  # twice the simulation for each qubit, the device linear
    assert shapes[42] > 100
