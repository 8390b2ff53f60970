"""The contrastive losses of the rows of one process, among the rows of all ("local loss").

Each process scores its own n pictures and texts against all N: n x N similarities, where the whole matrix would be
N x N on each of them. Letters: **n** rows of this process, **N** of all, **D** embed_dim. Averaged over the processes
with their numbers of rows as weights, which the loop does, the losses and their gradients are those of
`losses.clip_loss` and `losses.sigmoid_loss` over the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from babelclip.train.losses import positives
from babelclip.train.processes import Ranks


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
    pictures, texts = functional.normalize(pictures, dim=-1), functional.normalize(texts, dim=-1)
    everybody = ranks.gather(groups)
    same = torch.zeros(len(groups), len(everybody), dtype=torch.bool, device=groups.device)
    for own, others in zip(groups.T, everybody.T, strict=True):
        same |= own[:, None] == others[None, :]
    return Similarities(pictures @ ranks.gather(texts).T, texts @ ranks.gather(pictures).T, same)


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
