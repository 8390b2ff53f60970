"""Each loss against a reference in plain Python loops, and against a closed form."""

from __future__ import annotations

import math

import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.train import losses


def pair(n: int = 6, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(n, dim, generator=generator, dtype=torch.float64),
        torch.randn(n, dim, generator=generator, dtype=torch.float64),
    )


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cos(a: list[float], b: list[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def slow_cross_entropy(logits: list[list[float]], same: list[list[bool]]) -> float:
    total = 0.0
    for row, positives in zip(logits, same, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        chosen = [value - log_sum for value, positive in zip(row, positives, strict=True) if positive]
        total -= sum(chosen) / len(chosen)
    return total / len(logits)


def transposed(rows: list[list]) -> list[list]:
    return [list(column) for column in zip(*rows, strict=True)]


def eye(n: int) -> list[list[bool]]:
    return [[i == j for j in range(n)] for i in range(n)]


SAME = torch.eye(6, dtype=torch.bool)
SAME[0, 3] = SAME[3, 0] = SAME[1, 4] = True


def test_mse_equals_the_plain_loop_and_its_closed_form():
    student, targets = pair()
    slow = [
        (s - t) ** 2 for a, b in zip(student.tolist(), targets.tolist(), strict=True) for s, t in zip(a, b, strict=True)
    ]
    assert losses.mse(student, targets).item() == pytest.approx(sum(slow) / 30)
    assert losses.mse(targets + 0.5, targets).item() == pytest.approx(0.25)


def test_mse_sum_is_d_times_mse_and_2_for_orthogonal_unit_rows():
    student, targets = pair()
    assert losses.mse_sum(student, targets).item() == pytest.approx(5 * losses.mse(student, targets).item())
    basis = torch.eye(512, dtype=torch.float64)
    assert losses.mse_sum(basis, basis.roll(1, 0)).item() == pytest.approx(2)


def test_the_element_mean_makes_a_useless_student_look_good():
    """The trap: orthogonal unit vectors of D = 512 score 2/512; the trivial predictor puts that in its place."""
    basis = torch.eye(512, dtype=torch.float64)
    assert losses.mse(basis, basis.roll(1, 0)).item() == pytest.approx(2 / 512)
    assert losses.mse(basis, basis.roll(1, 0)).item() > losses.trivial_mse(basis).item()


def test_cosine_equals_the_plain_loop_and_its_closed_forms():
    student, targets = pair()
    slow = [1 - cos(a, b) for a, b in zip(student.tolist(), targets.tolist(), strict=True)]
    assert losses.cosine(student, targets).item() == pytest.approx(sum(slow) / 6)
    assert losses.cosine(3 * targets, targets).item() == pytest.approx(0, abs=1e-12)
    assert losses.cosine(-targets, targets).item() == pytest.approx(2)


@pytest.mark.parametrize("same", [None, SAME])
def test_infonce_equals_the_plain_loop(same: torch.Tensor | None):
    student, targets = pair()
    logits = [[cos(a, b) / 0.2 for b in targets.tolist()] for a in student.tolist()]
    slow = slow_cross_entropy(logits, eye(6) if same is None else same.tolist())
    assert losses.infonce(student, targets, 0.2, same).item() == pytest.approx(slow)


def test_further_negatives_of_infonce_are_columns_like_the_targets_of_the_batch():
    torch.manual_seed(5)
    student, targets, others = (torch.randn(n, 6, dtype=torch.float64) for n in (3, 3, 4))
    slow = 0.0
    for n in range(3):
        cosines = [float(torch.cosine_similarity(student[n], row, dim=0)) / 0.1 for row in [*targets, *others]]
        slow -= cosines[n] - math.log(sum(math.exp(value) for value in cosines))
    assert losses.infonce(student, targets, 0.1, None, others).item() == pytest.approx(slow / 3)
    same = torch.eye(3, 7, dtype=torch.bool)
    same[0, 5] = True  # a negative that is row 0's own target again is none
    own = torch.cat([others[:2], targets[:1], others[3:]])
    masked = losses.infonce(student[:1], targets[:1], 0.1, same[:1, [0, 3, 4, 5, 6]], own)
    cosines = [float(torch.cosine_similarity(student[0], row, dim=0)) / 0.1 for row in [targets[0], *own]]
    total = math.log(sum(math.exp(value) for value in cosines))
    assert masked.item() == pytest.approx(total - (cosines[0] + cosines[3]) / 2)


def test_infonce_of_targets_that_are_all_alike_is_log_n():
    student, _ = pair()
    assert losses.infonce(student, torch.ones(6, 5, dtype=torch.float64)).item() == pytest.approx(math.log(6))


def test_infonce_of_orthogonal_rows_has_its_closed_form():
    basis = torch.eye(8, dtype=torch.float64)
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 7))
    assert losses.infonce(basis, basis, 0.5).item() == pytest.approx(expected)


@pytest.mark.parametrize("same", [None, SAME])
def test_clip_loss_equals_the_plain_loop_in_both_directions(same: torch.Tensor | None):
    pictures, texts = pair()
    logits = [[7.0 * cos(a, b) for b in texts.tolist()] for a in pictures.tolist()]
    positives = eye(6) if same is None else same.tolist()
    slow = (slow_cross_entropy(logits, positives) + slow_cross_entropy(transposed(logits), transposed(positives))) / 2
    assert losses.clip_loss(pictures, texts, 7.0, same).item() == pytest.approx(slow)


def test_clip_loss_of_orthogonal_pairs_has_its_closed_form():
    basis = torch.eye(4, dtype=torch.float64)
    expected = -math.log(math.exp(5) / (math.exp(5) + 3))
    assert losses.clip_loss(basis, 2 * basis, 5.0).item() == pytest.approx(expected)


def test_duplicate_captions_that_fit_perfectly_reach_the_entropy_of_their_choice():
    """Two pictures, one caption twice: as negatives the loss is stuck, as positives it is the least there is, log 2."""
    same = torch.ones(2, 2, dtype=torch.bool)
    features = torch.ones(2, 3, dtype=torch.float64)
    assert losses.clip_loss(features, features, 20.0, same).item() == pytest.approx(math.log(2))
    assert losses.clip_loss(features, features, 20.0, same).requires_grad is False
    moved = features.clone().requires_grad_()
    losses.clip_loss(moved, features, 20.0, same).backward()
    assert moved.grad.abs().max().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("same", [None, SAME])
def test_sigmoid_loss_equals_the_plain_loop(same: torch.Tensor | None):
    pictures, texts = pair()
    positives = eye(6) if same is None else same.tolist()
    slow = 0.0
    for i, a in enumerate(pictures.tolist()):
        for j, b in enumerate(texts.tolist()):
            sign = 1 if positives[i][j] else -1
            slow += math.log(1 + math.exp(-sign * (3.0 * cos(a, b) - 2.0))) / 6
    assert losses.sigmoid_loss(pictures, texts, 3.0, -2.0, same).item() == pytest.approx(slow)


def test_sigmoid_loss_without_scale_and_bias_is_n_log_2():
    pictures, texts = pair()
    assert losses.sigmoid_loss(pictures, texts, 0.0, 0.0).item() == pytest.approx(6 * math.log(2))


def test_trivial_mse_is_the_mse_of_the_mean_and_no_constant_beats_it():
    _, targets = pair()
    mean = targets.mean(dim=0).expand_as(targets)
    trivial = losses.trivial_mse(targets).item()
    assert trivial == pytest.approx(losses.mse(mean, targets).item())
    assert trivial < losses.mse(mean + 0.01, targets).item()
    assert trivial == pytest.approx(targets.numpy().var(axis=0).mean())


ALL = {
    "mse": losses.mse,
    "mse_sum": losses.mse_sum,
    "cosine": losses.cosine,
    "infonce": losses.infonce,
    "clip": lambda a, b: losses.clip_loss(a, b, 10.0, SAME),
    "sigmoid": lambda a, b: losses.sigmoid_loss(a, b, 10.0, -10.0, SAME),
}


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_right_and_finite(name: str):
    student, targets = pair()
    assert torch.autograd.gradcheck(lambda s: ALL[name](s, targets), student.requires_grad_())
    zeros = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    ALL[name](zeros, targets).backward()
    assert zeros.grad.isfinite().all()


@pytest.mark.parametrize("name", ["mse", "mse_sum", "cosine", "infonce"])
def test_the_order_of_the_batch_does_not_matter(name: str):
    student, targets = pair()
    places = torch.tensor([3, 1, 5, 0, 2, 4])
    assert ALL[name](student[places], targets[places]).item() == pytest.approx(ALL[name](student, targets).item())


def test_a_student_of_another_dimension_is_told_which_setting_to_change():
    with pytest.raises(BabelclipError) as error:
        losses.mse(torch.zeros(2048, 768), torch.zeros(2048, 512))
    assert str(error.value) == (
        "teacher targets are (2048, 512) but the student projects to 768: set embed_dim = 512 in [student]"
    )


def test_other_mismatches_name_both_shapes():
    with pytest.raises(BabelclipError, match=r"\(3, 4\).*\(2, 4\)"):
        losses.mse(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(BabelclipError, match="text features"):
        losses.clip_loss(torch.zeros(2, 4), torch.zeros(3, 4), 1.0)
    with pytest.raises(BabelclipError, match="mask of positives is"):
        losses.infonce(torch.zeros(2, 4), torch.zeros(2, 4), same=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(BabelclipError, match="Row 1 of the mask"):
        losses.infonce(torch.ones(2, 4), torch.ones(2, 4), same=torch.tensor([[True, False], [False, False]]))


def test_tension_of_a_batch_computed_by_hand():
    """z = 2, 0, -1; the first pair is the positive: -(log s(2) + log(1 - s(0)) + log(1 - s(-1))) / 3."""
    first = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 0.5]], dtype=torch.float64)
    second = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    loss = losses.tension_loss(first, second, torch.tensor([1.0, 0.0, 0.0]))
    by_hand = (math.log(1 + math.exp(-2)) + math.log(2) + math.log(1 + math.exp(-1))) / 3
    assert loss.item() == pytest.approx(by_hand) == pytest.approx(0.3777789, abs=1e-6)


def test_tension_equals_the_plain_loop_and_its_closed_form():
    first, second = pair()
    labels = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    slow = 0.0
    for a, b, label in zip(first.tolist(), second.tolist(), labels, strict=True):
        probability = 1 / (1 + math.exp(-dot(a, b)))
        slow -= math.log(probability if label else 1 - probability)
    assert losses.tension_loss(first, second, torch.tensor(labels)).item() == pytest.approx(slow / 6)
    # No opinion on any pair: log 2, whatever the labels.
    assert losses.tension_loss(first, torch.zeros_like(first), torch.tensor(labels)).item() == pytest.approx(
        math.log(2)
    )


def test_tension_takes_the_mean_so_that_twice_the_batch_gives_the_same_gradient():
    first, second = (rows.requires_grad_() for rows in pair())
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    once = torch.autograd.grad(losses.tension_loss(first, second, labels), first)[0]
    twice = losses.tension_loss(first.repeat(2, 1), second.repeat(2, 1), labels.repeat(2))
    torch.testing.assert_close(torch.autograd.grad(twice, first)[0], once)
    residual = torch.sigmoid((first * second).sum(1)) - labels
    torch.testing.assert_close(once, residual[:, None] * second / 6)


def test_tension_in_batch_equals_the_plain_loop_both_ways():
    first, second = pair()
    logits = [[20 * cos(a, b) for b in second.tolist()] for a in first.tolist()]
    slow = (slow_cross_entropy(logits, eye(6)) + slow_cross_entropy(transposed(logits), eye(6))) / 2
    assert losses.tension_in_batch(first, second, 20.0).item() == pytest.approx(slow)


def test_tension_in_batch_has_its_closed_forms():
    basis = torch.eye(6, dtype=torch.float64)
    perfect = math.log(math.exp(20) + 5) - 20
    assert losses.tension_in_batch(basis, 3 * basis, 20.0).item() == pytest.approx(perfect)
    assert losses.tension_in_batch(torch.ones_like(basis), basis, 20.0).item() == pytest.approx(math.log(6))


def test_parts_of_a_batch_that_see_all_of_it_average_to_the_whole():
    first, second = pair()
    whole = losses.tension_in_batch(first, second, 20.0)
    parts = [
        losses.tension_in_batch(
            first[at : at + 2], second[at : at + 2], 20.0, all_first=first, all_second=second, start=at
        )
        for at in (0, 2, 4)
    ]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item())


def test_cosine_regression_of_pairs_computed_by_hand():
    """Cosines 1, 0 and -1 against 0.8, 0.5 and 0: (0.04 + 0.25 + 1) / 3."""
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
    second = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-2.0, -2.0]], dtype=torch.float64)
    loss = losses.cosine_regression(first, second, torch.tensor([0.8, 0.5, 0.0], dtype=torch.float64))
    assert loss.item() == pytest.approx(1.29 / 3)


@pytest.mark.parametrize("some", [False, True])
def test_ranking_equals_the_plain_loop_without_what_is_ignored(some: bool):
    anchors, positives = pair()
    candidates = torch.cat([positives, anchors.flip(0)[:3] + 0.5])
    ignored = torch.zeros(6, 9, dtype=torch.bool)
    if some:
        ignored[0, 4] = ignored[0, 0] = ignored[3, 8] = True
    own = torch.arange(6)
    slow = 0.0
    for row in range(6):
        logits = [20 * cos(anchors[row].tolist(), other) for other in candidates.tolist()]
        kept = [z for place, z in enumerate(logits) if place == row or not ignored[row, place]]
        slow += math.log(sum(math.exp(z) for z in kept)) - logits[row]
    assert losses.ranking(anchors, candidates, own, 20.0, ignored).item() == pytest.approx(slow / 6)


def test_losses_of_pairs_name_shapes_that_do_not_fit():
    first, second = pair()
    with pytest.raises(BabelclipError, match="give one for each"):
        losses.tension_loss(first, second, torch.ones(5))
    with pytest.raises(BabelclipError, match="vectors of f1"):
        losses.tension_in_batch(first, second[:5], 20.0)
    with pytest.raises(BabelclipError, match="give one for each"):
        losses.cosine_regression(first, second, torch.ones(7))
    with pytest.raises(BabelclipError, match="anchors are"):
        losses.ranking(first, second[:, :3], torch.arange(6))
