"""The losses of class fine-tuning against plain loops and closed forms, and why the diagonal is none of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from babelclip.errors import BabelclipError
from babelclip.train import losses
from tests.train.test_losses import cos, pair, slow_cross_entropy, transposed

LABELS = torch.tensor([0, 1, 0, 2, 1, 0])
SCALE = 7.0


def test_multi_positive_equals_the_plain_loop():
    images, texts = pair()
    logits = [[SCALE * cos(image, text) for text in texts.tolist()] for image in images.tolist()]
    same = [[a == b for b in LABELS.tolist()] for a in LABELS.tolist()]
    slow = (slow_cross_entropy(logits, same) + slow_cross_entropy(transposed(logits), same)) / 2
    assert losses.multi_positive_loss(images, texts, SCALE, LABELS).item() == pytest.approx(slow)


def test_multi_positive_of_perfect_pairs_is_what_two_of_a_class_must_share():
    # Two classes with orthogonal vectors, two rows of each: every row has two positives at s and two negatives at 0.
    vectors = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 1]]
    labels = torch.tensor([0, 1, 0, 1])
    expected = math.log(2) + math.log(1 + math.exp(-SCALE))
    assert losses.multi_positive_loss(vectors, vectors, SCALE, labels).item() == pytest.approx(expected)


def test_class_vector_loss_equals_the_plain_loop_and_its_closed_form():
    images, texts = pair()
    classes = texts[:3]
    logits = [[SCALE * cos(image, vector) for vector in classes.tolist()] for image in images.tolist()]
    one_hot = [[label == place for place in range(3)] for label in LABELS.tolist()]
    slow = slow_cross_entropy(logits, one_hot)
    assert losses.class_vector_loss(images, classes, SCALE, LABELS).item() == pytest.approx(slow)
    # Pictures that are their class vectors, C orthogonal ones: -log(e^s / (e^s + C - 1)).
    axes = torch.eye(5, dtype=torch.float64)
    perfect = losses.class_vector_loss(axes, axes, SCALE, torch.arange(5)).item()
    assert perfect == pytest.approx(math.log(1 + 4 * math.exp(-SCALE)))


def test_gradients_are_those_of_the_differences():
    images, texts = (tensor.requires_grad_() for tensor in pair())
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def multi_positive(a: torch.Tensor, b: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return losses.multi_positive_loss(a, b, s, LABELS)

    def class_vectors(a: torch.Tensor, b: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return losses.class_vector_loss(a, b[:3], s, LABELS)

    assert torch.autograd.gradcheck(multi_positive, (images, texts, scale))
    assert torch.autograd.gradcheck(class_vectors, (images, texts, scale))


def test_the_diagonal_equals_multi_positive_where_a_class_has_one_prompt_and_not_where_it_has_several():
    images, texts = pair()
    one_prompt = texts[LABELS]
    several = losses.multi_positive_loss(images, texts, SCALE, LABELS)
    assert losses.clip_loss(images, one_prompt, SCALE).item() == pytest.approx(
        losses.multi_positive_loss(images, one_prompt, SCALE, LABELS).item()
    )
    assert abs(losses.clip_loss(images, texts, SCALE) - several) > 0.05


def test_the_diagonal_pushes_a_picture_from_a_true_description_of_it_and_multi_positive_does_not():
    # Two pictures of one class, drawn as alike, with two prompts of it; the third pair is of another class.
    labels = torch.tensor([0, 0, 1])
    axes = torch.eye(3, dtype=torch.float64)
    images = axes[[0, 0, 2]].clone().requires_grad_()
    texts = functional.normalize(torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0], [0.0, 0.0, 1.0]]).double(), dim=1)

    def pull_of_the_other_prompt(loss: torch.Tensor) -> float:
        (gradient,) = torch.autograd.grad(loss, images)
        # The prompts differ along the second axis: descent goes against the gradient.
        return float(-gradient[0] @ axes[1] * texts[1, 1])

    assert pull_of_the_other_prompt(losses.clip_loss(images, texts, SCALE)) < -0.01
    assert abs(pull_of_the_other_prompt(losses.multi_positive_loss(images, texts, SCALE, labels))) < 1e-9


def test_the_sigmoid_loss_counts_every_pair_of_a_class_as_a_yes():
    images, texts = pair()
    same = LABELS[:, None] == LABELS[None, :]
    slow = 0.0
    for i, image in enumerate(images.tolist()):
        for j, text in enumerate(texts.tolist()):
            logit = SCALE * cos(image, text) - 2
            slow += math.log(1 + math.exp(-logit if same[i, j] else logit))
    assert losses.sigmoid_loss(images, texts, SCALE, -2.0, same).item() == pytest.approx(slow / 6)


def test_shapes_that_do_not_fit_are_named():
    images, texts = pair()
    with pytest.raises(BabelclipError, match=r"\(5,\) labels were given for 6 pictures: give one for each"):
        losses.multi_positive_loss(images, texts, SCALE, LABELS[:5])
    with pytest.raises(BabelclipError, match=r"\(3, 4\).*\(6, 5\): both must have D columns"):
        losses.class_vector_loss(images, texts[:3, :4], SCALE, LABELS)
    with pytest.raises(BabelclipError, match="labels were given"):
        losses.class_vector_loss(images, texts, SCALE, LABELS[:2])
