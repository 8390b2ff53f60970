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


def mse_cosine(student: Tensor, targets: Tensor, mse_weight: float = 1.0, cosine_weight: float = 1.0) -> Tensor:
    """Returns `mse_weight` * `mse` + `cosine_weight` * `cosine` of rows (N, D), not normalised.

    Raises:
        BabelclipError: the shapes differ.
    """
    return mse_weight * mse(student, targets) + cosine_weight * cosine(student, targets)


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
