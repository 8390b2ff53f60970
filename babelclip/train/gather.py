"""The contrastive losses of the rows of one process, among the rows of all ("local loss").

Each process scores its own n pictures and texts against all N: n x N similarities, where the whole matrix would be
N x N on each of them. Letters: **n** rows of this process, **N** of all, **D** embed_dim. Averaged over the processes
with their numbers of rows as weights, which the loop does, the losses and their gradients are those of
`losses.clip_loss` and `losses.sigmoid_loss` over the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from babelclip.train.losses import positives
from babelclip.train.processes import Ranks

# Similarities of one block of rows: 256 MB a matrix, some 2 GB at the peak of the loss.
_ENTRIES = 1 << 26


class Similarities(NamedTuple):
    """Cosines (n, N) of the rows of this process with those of all, and who belongs together.

    Attributes:
        image_to_text: cosines of the own pictures with all texts.
        text_to_image: cosines of the own texts with all pictures.
        same: bool, true where text and picture fit; a symmetric relation, so it holds for both.
    """

    image_to_text: Tensor
    text_to_image: Tensor
    same: Tensor


def similarities(pictures: Tensor, texts: Tensor, groups: Tensor, ranks: Ranks) -> Similarities:
    """Returns the cosines of this process's rows with the rows of all processes.

    Args:
        pictures: (n, D), normalised here.
        texts: (n, D), normalised here.
        groups: (n, G) int64. Two rows belong together where one of the G numbers is equal: the same picture, the same
            text.
        ranks: brings the rows of the others, with gradients.
    """
    return _of_rows(_gathered(pictures, texts, groups, ranks), slice(None))


def mean_of_rows(
    pictures: Tensor, texts: Tensor, groups: Tensor, ranks: Ranks, loss_of: Callable[[Similarities], Tensor]
) -> Tensor:
    """Returns the mean over this process's rows of a loss of their similarities, in memory for a block of rows.

    A loss of n x N similarities keeps about eight such matrices for its gradient: 32 GB for 11,250 rows of 90,000. So
    from some size on they are computed a block of rows at a time, and once more in the backward pass.

    Args:
        pictures: as in `similarities`.
        texts: as in `similarities`.
        groups: as in `similarities`.
        ranks: as in `similarities`.
        loss_of: similarities of some rows -> means over them, of any shape.
    """
    features = _gathered(pictures, texts, groups, ranks)
    rows, everybody = len(pictures), len(features.all_groups)
    block = rows_at_once(everybody)
    if rows <= block:
        return loss_of(_of_rows(features, slice(None)))
    total = torch.zeros((), device=pictures.device)
    for start in range(0, rows, block):
        part = slice(start, min(start + block, rows))
        mean = checkpoint(lambda part=part: loss_of(_of_rows(features, part)), use_reentrant=False)
        total = total + mean * ((part.stop - part.start) / rows)
    return total


def rows_at_once(everybody: int) -> int:
    """Returns for how many rows `mean_of_rows` holds the similarities with `everybody` at one time."""
    return max(_ENTRIES // everybody, 1)


class _Features(NamedTuple):
    """Normalised vectors and groups of the own rows (n, …) and of all (N, …)."""

    pictures: Tensor
    texts: Tensor
    groups: Tensor
    all_pictures: Tensor
    all_texts: Tensor
    all_groups: Tensor


def _gathered(pictures: Tensor, texts: Tensor, groups: Tensor, ranks: Ranks) -> _Features:
    pictures, texts = functional.normalize(pictures, dim=-1), functional.normalize(texts, dim=-1)
    return _Features(pictures, texts, groups, ranks.gather(pictures), ranks.gather(texts), ranks.gather(groups))


def _of_rows(features: _Features, rows: slice) -> Similarities:
    groups = features.groups[rows]
    same = torch.zeros(len(groups), len(features.all_groups), dtype=torch.bool, device=groups.device)
    for own, others in zip(groups.T, features.all_groups.T, strict=True):
        same |= own[:, None] == others[None, :]
    pictures, texts = features.pictures[rows], features.texts[rows]
    return Similarities(pictures @ features.all_texts.T, texts @ features.all_pictures.T, same)


def clip_rows(cosines: Similarities, logit_scale: Tensor) -> Tensor:
    """Returns `losses.clip_loss` of the rows of this process: the mean of both cross-entropies over n."""
    targets = positives(cosines.image_to_text, cosines.same)
    image_to_text = functional.cross_entropy(logit_scale * cosines.image_to_text, targets)
    text_to_image = functional.cross_entropy(logit_scale * cosines.text_to_image, targets)
    return (image_to_text + text_to_image) / 2


def sigmoid_rows(cosines: Similarities, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Returns `losses.sigmoid_loss` of the pictures of this process with all texts, over n."""
    signs = 2 * cosines.same.to(cosines.image_to_text.dtype) - 1
    logits = logit_scale * cosines.image_to_text + logit_bias
    return -functional.logsigmoid(signs * logits).sum() / len(logits)
