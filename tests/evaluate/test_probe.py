"""The linear probe: its optimum, its choice of weight decay, few shots, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.probe import (
    WEIGHT_DECAYS,
    Labelled,
    choose_weight_decay,
    evaluate_probe,
    few_shots,
    fit_probe,
)
from babelclip.evaluate.result import RunFacts, check_result

FACTS = RunFacts(model="points", dataset="clouds")


def clouds(n, seed, spread=0.5, n_classes=6, dim=8):
    """Points on a sphere around the centre of their class."""
    centres = np.random.default_rng(7).normal(size=(n_classes, dim))
    random = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    points = centres[labels] / np.linalg.norm(centres[labels], axis=1, keepdims=True)
    points = points + spread * random.normal(size=points.shape)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Labelled(points.astype(np.float32), labels, tuple(map(str, range(n))))


def test_the_gradient_is_nought_at_what_was_found():
    train = clouds(60, 1)
    probe = fit_probe(train, 6, 1e-2)
    scale = np.sqrt(8)
    weights, x = probe.weights.astype(np.float64) / scale, train.features.astype(np.float64) * scale
    logits = x @ weights.T + probe.bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    error = odds - np.eye(6)[train.labels]
    assert np.abs(error.T @ x / 60 + 1e-2 * weights).max() < 1e-4
    assert np.abs(error.mean(axis=0)).max() < 1e-4


def test_the_optimum_does_not_depend_on_where_it_starts():
    train = clouds(60, 1)
    far = fit_probe(train, 6, 10.0)
    once, again = fit_probe(train, 6, 1e-2), fit_probe(train, 6, 1e-2, start=far)
    assert again.scores(train.features) == pytest.approx(once.scores(train.features), abs=1e-2)


def test_the_weight_decay_is_one_of_the_grid_and_good_on_validation():
    train, validation = clouds(48, 1, spread=0.8), clouds(240, 2, spread=0.8)
    chosen = choose_weight_decay(train, validation, 6)
    assert chosen in WEIGHT_DECAYS

    def accuracy(decay):
        scores = fit_probe(train, 6, decay).scores(validation.features)
        return (scores.argmax(axis=1) == validation.labels).mean()

    assert accuracy(chosen) >= max(accuracy(WEIGHT_DECAYS[place]) for place in (0, 48, 96)) - 0.01


def test_all_pictures_and_few_give_complete_results():
    train, test = clouds(120, 1, spread=0.3), clouds(120, 2, spread=0.3)
    everything, one, four = evaluate_probe(train, test, 6, facts=FACTS, shots=(None, 1, 4), seeds=(0, 1))
    for result in (everything, one, four):
        check_result(result)
        low, high = result["intervals"]["lp_acc1"]
        assert low <= result["metrics"]["lp_acc1"] <= high
    assert [result["n_train_images"] for result in (everything, one, four)] == [120, 6, 24]
    assert (everything["shots"], one["shots"], one["fewshot_k"]) == (None, 1, 1)
    assert everything["metrics"]["lp_acc1"] > one["metrics"]["lp_acc1"] > 0.3
    assert len(one["weight_decay"]) == len(one["seeds"]) == 2
    assert one["metrics"]["lp_acc1_std"] >= 0
    assert everything["validation"] == "20% of training"
    [told] = evaluate_probe(train, test, 6, facts=FACTS, validation=clouds(30, 3), seeds=(0, 1))
    assert (told["n_train_images"], told["validation"], told["seeds"]) == (150, "own split", [0])
    # Few shots keep to their shots, whatever other pictures there are.
    few = evaluate_probe(train, test, 6, facts=FACTS, validation=clouds(30, 3), shots=(1, 4), seeds=(0,))
    assert [result["validation"] for result in few] == ["the shot itself", "20% of training"]


def test_few_shots_are_as_many_of_each_class_and_depend_on_the_seed_alone():
    labels = np.array([0] * 9 + [1] * 5 + [2] * 30)
    drawn = few_shots(labels, 4, 0, 3)
    assert np.bincount(labels[drawn]).tolist() == [4, 4, 4]
    assert few_shots(labels, 4, 0, 3).tolist() == drawn.tolist()
    assert few_shots(labels, 4, 1, 3).tolist() != drawn.tolist()
    with pytest.raises(BabelclipError, match="class 1 has 5 pictures"):
        few_shots(labels, 6, 0, 3)


def test_a_class_that_cannot_be_learned_is_named():
    train = clouds(60, 1)
    with pytest.raises(BabelclipError, match="1 of 7 classes have no training picture, first class 6"):
        evaluate_probe(train, train, 7, facts=FACTS)
    several = Labelled(train.features, np.zeros((60, 6)))
    with pytest.raises(BabelclipError, match="one class a picture"):
        evaluate_probe(several, train, 6, facts=FACTS)
