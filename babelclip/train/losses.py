"""Losses of the field as pure functions on tensors.

Letters: **N** items of a batch, **D** embed_dim. All inputs are floating point; every loss is a scalar of their dtype.
Whether rows must be normalised is said at each function.

The element-mean trap: `mse` averages over D as well as over N. For unit vectors it is about 1/D however wrong the
student is (two orthogonal unit vectors of D = 512 score 2/512 = 0.0039), so the gradient is tiny and the figure looks
good while nothing is learned. `trivial_mse` is the figure to hold beside it: what a student reaches that answers the
mean of the targets to everything. Learning has begun when `mse / trivial_mse` falls below 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from babelclip.errors import BabelclipError


def mse(student: Tensor, targets: Tensor) -> Tensor:
    """Returns the squared error averaged over N and D; rows (N, D) are used as they are.

    Equation 1 of M-CLIP (Carlsson et al., LREC 2022) and of Reimers and Gurevych (arXiv 2004.09813):
    1/(N D) sum_nd (s_nd - t_nd)^2. See the module's note on the element mean.

    Raises:
        BabelclipError: the shapes differ.
    """
    check_shapes(student, targets)
    return functional.mse_loss(student, targets)


def mse_sum(student: Tensor, targets: Tensor) -> Tensor:
    """Returns the squared distance, summed over D and averaged over N: D times `mse`. Rows (N, D) as they are.

    The form to use with targets of unit length: 2 - 2 cos for unit rows, whatever D is.

    Raises:
        BabelclipError: the shapes differ.
    """
    check_shapes(student, targets)
    return (student - targets).square().sum(dim=-1).mean()


def cosine(student: Tensor, targets: Tensor) -> Tensor:
    """Returns 1 - cos(s_n, t_n) averaged over N; the lengths of the rows (N, D) do not matter.

    The cosine loss of AltCLIP's training script (Chen et al., arXiv 2211.06679); a row of zeros counts as cos = 0.

    Raises:
        BabelclipError: the shapes differ.
    """
    check_shapes(student, targets)
    return (1 - functional.cosine_similarity(student, targets, dim=-1)).mean()


def infonce(
    student: Tensor,
    targets: Tensor,
    temperature: float = 0.05,
    same: Tensor | None = None,
    negatives: Tensor | None = None,
) -> Tensor:
    """Returns the cross-entropy of finding a row's own target among the N targets of the batch and M further ones.

    Equation 4 of van den Oord et al. (arXiv 1807.03748) with f = exp(cos / temperature). One-sided: the targets do not
    move, so only student -> target is scored.

    Args:
        student: (N, D), normalised here.
        targets: (N, D), normalised here.
        temperature: divides the cosines; positive.
        same: bool (N, N + M), true where target m also belongs to row n, for example two languages of one caption.
            Such targets share the probability instead of counting as negatives. None: the diagonal.
        negatives: (M, D) further targets, normalised here. They cost one matrix product, no pass through the student.

    Raises:
        BabelclipError: the shapes differ, or a row of `same` has no true entry.
    """
    check_shapes(student, targets)
    known = targets if negatives is None else torch.cat([targets, negatives])
    logits = functional.normalize(student, dim=-1) @ functional.normalize(known, dim=-1).T / temperature
    return functional.cross_entropy(logits, positives(logits, same))


def clip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, same: Tensor | None = None
) -> Tensor:
    """Returns the mean of the image -> text and text -> image cross-entropies over the batch.

    Figure 3 of Radford et al. (arXiv 2103.00020); with several positives a row, the supervised form of Khosla et al.
    (arXiv 2004.11362, eq. 2) by soft targets: the positives of a row share its probability evenly.

    Args:
        image_features: (N, D), normalised here.
        text_features: (N, D), normalised here.
        logit_scale: factor of the cosines, already exponentiated.
        same: bool (N, N), true where text m fits picture n, so that duplicate captions are not negatives. None: the
            diagonal.

    Raises:
        BabelclipError: the shapes differ, or a row or column of `same` has no true entry.
    """
    check_shapes(image_features, text_features, "image features", "text features")
    cosines = functional.normalize(image_features, dim=-1) @ functional.normalize(text_features, dim=-1).T
    logits = logit_scale * cosines
    transposed = None if same is None else same.T
    image_to_text = functional.cross_entropy(logits, positives(logits, same))
    text_to_image = functional.cross_entropy(logits.T, positives(logits, transposed))
    return (image_to_text + text_to_image) / 2


def sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    same: Tensor | None = None,
) -> Tensor:
    """Returns the pairwise sigmoid loss: every one of the N x N pairs is a yes or no of its own, summed, over N.

    Algorithm 1 of Zhai et al. (SigLIP, arXiv 2303.15343): -1/N sum_nm log sigmoid(z_nm (scale cos_nm + bias)), z = 1
    for pairs that belong together and -1 for others.

    Args:
        image_features: (N, D), normalised here.
        text_features: (N, D), normalised here.
        logit_scale: factor of the cosines, already exponentiated; SigLIP starts at 10.
        logit_bias: added to the logits; SigLIP starts at -10.
        same: bool (N, N) as in `clip_loss`.

    Raises:
        BabelclipError: the shapes differ, or a row of `same` has no true entry.
    """
    check_shapes(image_features, text_features, "image features", "text features")
    cosines = functional.normalize(image_features, dim=-1) @ functional.normalize(text_features, dim=-1).T
    signs = 2 * (positives(cosines, same) > 0).to(cosines.dtype) - 1
    return -functional.logsigmoid(signs * (logit_scale * cosines + logit_bias)).sum() / len(cosines)


def multi_positive_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float, labels: Tensor
) -> Tensor:
    """Returns `clip_loss` where every pair of a picture and a text of one class belongs together.

    The supervised form of Khosla et al. (arXiv 2004.11362, eq. 2): a row's probability is shared by the rows of its
    class. `clip_loss` without labels, the diagonal, takes the prompt of another picture of the class for a negative:
    with 10 classes, half of all batches of 4 hold two of one class. Where both have the very same prompt the two losses
    are equal; where they have different ones, the diagonal pushes a picture from a true description of it.

    Args:
        image_features: (N, D), normalised here.
        text_features: (N, D), prompts of the pictures' classes, normalised here.
        logit_scale: factor of the cosines, already exponentiated.
        labels: class of each row (N,) int64.

    Raises:
        BabelclipError: the shapes differ.
    """
    check_shapes(image_features, text_features, "image features", "text features")
    _check_labels(labels, len(image_features))
    return clip_loss(image_features, text_features, logit_scale, labels[:, None] == labels[None, :])


def class_vector_loss(
    image_features: Tensor, class_features: Tensor, logit_scale: Tensor | float, labels: Tensor
) -> Tensor:
    """Returns the cross-entropy of finding the class of a picture among the vectors of all C classes.

    -1/N sum_n log softmax(scale cos_n)[y_n]: the classifier that zero-shot classification makes of class names
    (Radford et al., arXiv 2103.00020, section 3.1), trained as such. What is in the batch does not matter.

    Args:
        image_features: (N, D), normalised here.
        class_features: (C, D), one row for each class, normalised here.
        logit_scale: factor of the cosines, already exponentiated.
        labels: row of each picture's class (N,) int64.

    Raises:
        BabelclipError: the dimensions differ, or there are not as many labels as pictures.
    """
    if image_features.ndim != 2 or class_features.ndim != 2 or image_features.shape[1] != class_features.shape[1]:
        raise BabelclipError(
            f"class features are {tuple(class_features.shape)} but image features are {tuple(image_features.shape)}: "
            "both must have D columns."
        )
    _check_labels(labels, len(image_features))
    cosines = functional.normalize(image_features, dim=-1) @ functional.normalize(class_features, dim=-1).T
    return functional.cross_entropy(logit_scale * cosines, labels)


def _check_labels(labels: Tensor, rows: int) -> None:
    if labels.shape != (rows,):
        raise BabelclipError(f"{tuple(labels.shape)} labels were given for {rows} pictures: give one for each.")


def tension_loss(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean loss of Contrastive Tension: each pair's raw dot product z is a yes or no of its own.

    -1/N sum_n [y_n log sigmoid(z_n) + (1 - y_n) log sigmoid(-z_n)], z_n = first_n . second_n. Carlsson et al.
    (ICLR 2021), with the mean over pairs that their code takes; no temperature.

    Args:
        first: vectors of one encoder (N, D), not normalised.
        second: vectors of the other encoder (N, D), not normalised.
        labels: (N,), 1 where both encoders read the same sentence, 0 where they read two.

    Raises:
        BabelclipError: the shapes differ.
    """
    check_shapes(first, second, "vectors of f1", "vectors of f2")
    if labels.shape != first.shape[:1]:
        raise BabelclipError(f"{tuple(labels.shape)} labels were given for {len(first)} pairs: give one for each.")
    return functional.binary_cross_entropy_with_logits((first * second).sum(dim=-1), labels.to(first.dtype))


def tension_in_batch(
    first: Tensor,
    second: Tensor,
    logit_scale: Tensor | float,
    *,
    all_first: Tensor | None = None,
    all_second: Tensor | None = None,
    start: int = 0,
) -> Tensor:
    """Returns the loss of in-batch Contrastive Tension: both encoders read the same N sentences, others are negatives.

    Mean of the cross-entropies f1 -> f2 and f2 -> f1 over scaled cosines, as `clip_loss` of two text encoders; the
    variant that sentence-transformers calls ContrastiveTensionLossInBatchNegatives. The sentences must differ.

    Args:
        first: vectors of one encoder (N, D), normalised here.
        second: vectors of the other encoder (N, D), normalised here.
        logit_scale: factor of the cosines, already exponentiated.
        all_first: vectors of all M sentences of a batch that several processes share (M, D); None: `first`.
        all_second: the same of the other encoder.
        start: place of the first of the N sentences among the M.

    Raises:
        BabelclipError: the shapes differ.
    """
    check_shapes(first, second, "vectors of f1", "vectors of f2")
    known_first = functional.normalize(first if all_first is None else all_first, dim=-1)
    known_second = functional.normalize(second if all_second is None else all_second, dim=-1)
    own = torch.arange(start, start + len(first), device=first.device)
    forth = functional.cross_entropy(logit_scale * functional.normalize(first, dim=-1) @ known_second.T, own)
    back = functional.cross_entropy(logit_scale * functional.normalize(second, dim=-1) @ known_first.T, own)
    return (forth + back) / 2


def cosine_regression(first: Tensor, second: Tensor, scores: Tensor) -> Tensor:
    """Returns the squared error of the pairs' cosines, averaged over N: 1/N sum_n (cos(u_n, v_n) - s_n)^2.

    The regression objective of Reimers and Gurevych (Sentence-BERT, arXiv 1908.10084).

    Args:
        first: vectors u (N, D); their lengths do not matter.
        second: vectors v (N, D).
        scores: wanted cosines (N,), for STS-b the score / 5.

    Raises:
        BabelclipError: the shapes differ.
    """
    check_shapes(first, second, "vectors of the first sentences", "vectors of the second sentences")
    if scores.shape != first.shape[:1]:
        raise BabelclipError(f"{tuple(scores.shape)} scores were given for {len(first)} pairs: give one for each.")
    return functional.mse_loss(functional.cosine_similarity(first, second, dim=-1), scores.to(first.dtype))


def ranking(
    anchors: Tensor, candidates: Tensor, own: Tensor, scale: float = 20.0, ignored: Tensor | None = None
) -> Tensor:
    """Returns the cross-entropy of finding an anchor's own candidate among M, negatives given for the purpose included.

    Multiple negatives ranking (Henderson et al., arXiv 1705.00652, section 4.4) with scaled cosines.

    Args:
        anchors: (N, D), normalised here.
        candidates: (M, D), normalised here.
        own: place of each anchor's candidate (N,) int64.
        scale: factor of the cosines.
        ignored: bool (N, M), true where a candidate is neither the own one nor a negative, as a duplicate of the own
            one is. The own one counts whatever stands there. None: all count.

    Raises:
        BabelclipError: the dimensions differ.
    """
    if anchors.ndim != 2 or candidates.ndim != 2 or anchors.shape[1] != candidates.shape[1]:
        raise BabelclipError(
            f"candidates are {tuple(candidates.shape)} but anchors are {tuple(anchors.shape)}: both must be (N, D)."
        )
    logits = scale * functional.normalize(anchors, dim=-1) @ functional.normalize(candidates, dim=-1).T
    if ignored is not None:
        others = ignored.scatter(1, own[:, None], False)
        logits = logits.masked_fill(others, float("-inf"))
    return functional.cross_entropy(logits, own)


def trivial_mse(targets: Tensor) -> Tensor:
    """Returns the `mse` (element mean) of the best constant answer: the variance of targets (N, D) about their mean."""
    return (targets - targets.mean(dim=0)).square().mean()


def positives(logits: Tensor, same: Tensor | None) -> Tensor:
    """Returns target probabilities (N, M): each row of `same` divided by its count; the diagonal for None.

    Raises:
        BabelclipError: `same` has another shape than `logits`, or a row of it has no true entry.
    """
    if same is None:
        return torch.eye(*logits.shape, dtype=logits.dtype, device=logits.device)
    if same.shape != logits.shape:
        raise BabelclipError(
            f"The mask of positives is {tuple(same.shape)} but the similarities are {tuple(logits.shape)}: "
            "give one row and one column per item of the batch."
        )
    counts = same.sum(dim=1, keepdim=True)
    if bool((counts == 0).any()):
        row = int((counts == 0).flatten().nonzero()[0])
        raise BabelclipError(f"Row {row} of the mask of positives is empty: mark at least its own pair.")
    return same.to(logits.dtype) / counts


def check_shapes(
    student: Tensor, targets: Tensor, student_name: str = "student", targets_name: str = "targets"
) -> None:
    """Checks that both are (N, D) of one shape.

    Raises:
        BabelclipError: they are not; the message names both shapes and the setting to change.
    """
    if student.shape == targets.shape and student.ndim == 2:
        return
    given, made = tuple(targets.shape), tuple(student.shape)
    if student_name != "student":
        raise BabelclipError(
            f"{targets_name} are {given} but {student_name} are {made}: both must be (N, D) with one row per pair."
        )
    if student.ndim == targets.ndim == 2 and made[1] != given[1]:
        raise BabelclipError(dim_mismatch(given, made[1]))
    raise BabelclipError(f"teacher targets are {given} but the student gives {made}: give one target row per caption.")


def dim_mismatch(targets_shape: tuple[int, ...], student_dim: int) -> str:
    """Returns the message for targets (N, D) that a student of another dimension cannot meet."""
    return (
        f"teacher targets are {targets_shape} but the student projects to {student_dim}: "
        f"set embed_dim = {targets_shape[-1]} in [student]"
    )
