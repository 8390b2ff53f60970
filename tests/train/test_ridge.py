from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.train import fit_ridge, pooled_features, set_linear_head
from tests.conftest import make_text_encoder
from tests.train.parts import make_captions

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(200, 6)) + 3, DRAW.normal(size=(200, 4)) - 1


def test_without_regularisation_it_is_least_squares_with_an_intercept():
    matrix, bias = fit_ridge(X, Y, regularisation=0)
    solution = np.linalg.lstsq(np.c_[X, np.ones(200)], Y, rcond=None)[0]
    np.testing.assert_allclose(matrix, solution[:-1].T, atol=1e-10)
    np.testing.assert_allclose(bias, solution[-1], atol=1e-10)


def test_the_gradient_of_its_objective_is_zero():
    weights = DRAW.random(200)
    matrix, bias = fit_ridge(X, Y, weights, regularisation=0.3)
    share = weights / weights.sum()
    variance = (share[:, None] * (X - share @ X) ** 2).sum(axis=0).mean()
    errors = X @ matrix.T + bias - Y
    np.testing.assert_allclose((share[:, None] * errors).T @ X + 0.3 * variance * matrix, 0, atol=1e-12)
    np.testing.assert_allclose(share @ errors, 0, atol=1e-12)


def test_a_weight_counts_as_copies_and_the_scale_of_features_does_not_matter():
    copies = DRAW.integers(0, 3, size=200)
    weighted = fit_ridge(X, Y, copies)
    repeated = fit_ridge(np.repeat(X, copies, axis=0), np.repeat(Y, copies, axis=0))
    for a, b in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(a, b)
    np.testing.assert_allclose(fit_ridge(1000 * X, Y)[0] * 1000, fit_ridge(X, Y)[0])


def test_endless_regularisation_answers_the_mean():
    matrix, bias = fit_ridge(X, Y, regularisation=1e12)
    np.testing.assert_allclose(matrix, 0, atol=1e-10)
    np.testing.assert_allclose(bias, Y.mean(axis=0), atol=1e-8)


def test_fewer_rows_than_features_are_solved():
    matrix, bias = fit_ridge(X[:3], Y[:3], regularisation=0)
    np.testing.assert_allclose(X[:3] @ matrix.T + bias, Y[:3], atol=1e-8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": Y[:5]}, "give"),
        ({"features": X * np.nan}, "not finite"),
        ({"weights": np.zeros(200)}, "not all 0"),
        ({"regularisation": -1.0}, "at least 0"),
        ({"features": X[:0], "targets": Y[:0]}, "above 0"),
    ],
)
def test_bad_input_is_refused(change: dict, said: str):
    with pytest.raises(BabelclipError, match=said):
        fit_ridge(**({"features": X, "targets": Y} | change))


def test_the_head_set_from_it_gives_its_predictions_in_the_order_of_the_captions():
    student, captions = make_text_encoder(), make_captions(20)
    features = pooled_features(student, captions)
    assert features.shape == (40, 32)
    targets = DRAW.normal(size=(40, 16))
    matrix, bias = fit_ridge(features, targets)
    set_linear_head(student, matrix, bias)
    np.testing.assert_allclose(student.encode(captions.texts, normalize=False), features @ matrix.T + bias, atol=1e-4)


def test_a_head_of_another_form_or_size_is_named():
    student = make_text_encoder()
    with pytest.raises(BabelclipError, match="set embed_dim = 20"):
        set_linear_head(student, np.zeros((20, 32)), np.zeros(20))
    with pytest.raises(BabelclipError, match=r"\(16, 7\)"):
        set_linear_head(student, np.zeros((16, 7)), np.zeros(16))
    student.head.append(student.head[0])
    with pytest.raises(BabelclipError, match="Linear, Linear"):
        set_linear_head(student, np.zeros((16, 32)), np.zeros(16))
