import numpy as np
import pytest

from tasks.monitoring.components import CLIP, standard_components


def test_components_have_unit_variance_on_the_axes_of_normal_texts() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(400, 3)) * [5.0, 1.0, 0.1]
    found = standard_components(normal, normal, 2)
    assert found.std(axis=0) == pytest.approx([1, 1], abs=0.02)
    assert abs(np.corrcoef(found[:, 0], normal[:, 0])[0, 1]) == pytest.approx(1, abs=1e-3)


def test_normal_texts_that_are_all_equal_have_the_axis_of_the_others() -> None:
    normal, texts = np.zeros((50, 2)), np.array([[0.0, 0.0], [0.6, 0.8], [60.0, 80.0]])
    found = standard_components(normal, texts, 8)
    assert np.abs(found[:, 0]) == pytest.approx([0, 1, CLIP])
    assert standard_components(normal, normal, 8).tolist() == [[0.0]] * 50
