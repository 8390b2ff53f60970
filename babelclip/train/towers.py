"""Both towers of a `Clip` as one module to train: which parts move, and the scale and bias of the logits.

"Locked" means: no gradient, eval mode, no optimiser state, not in checkpoints. Entry point: `Pair.of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder
from babelclip.train.recipe import Recipe
from babelclip.train.sharded import is_part
from babelclip.train.trainable import lock_still, select_parameters, set_dropout

# CLIP starts at 1 / 0.07, SigLIP at 10 with a bias of -10, at which nearly every pair is a "no" from the first step.
_CLIP_SCALE = 1 / 0.07
_SIGLIP_SCALE, _SIGLIP_BIAS = 10.0, -10.0
_TEXTS_OF_A_PASS = 32
_PICTURES, _TEXTS = {"pictures", "pixels", "pooled_pictures"}, {"texts", "input_ids", "pooled_texts"}


class Pair(nn.Module):
    """Two towers, the logarithm of the logit scale, and the logit bias where the loss has one.

    A tower is absent where its vectors are given. Letters: N rows of a batch, D embed_dim.
    """

    def __init__(
        self, text: TextEncoder | None, image: ImageEncoder | None, logit_scale: float, logit_bias: float | None
    ) -> None:
        """Shares the towers; training this trains them."""
        super().__init__()
        self.text = text
        self.image = image
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.bias = None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))

    @classmethod
    def of(cls, clip: Clip, recipe: Recipe, *, text: bool, image: bool) -> Pair:
        """Returns the pair of a clip, with the modules of `text` and `image` where they are to run in the steps.

        Scale and bias are the clip's, where it has those of the loss; else they start as CLIP's or SigLIP's.
        """
        scale, bias = clip.logit_scale, clip.logit_bias
        if "sigmoid" not in recipe.loss_terms():
            scale, bias = _CLIP_SCALE if scale is None else scale, None
        elif scale is None or bias is None:
            # A scale that was trained for a softmax, often 100, drowns every bias.
            scale, bias = _SIGLIP_SCALE, _SIGLIP_BIAS
        if recipe.towers.logit_scale == "free":
            scale = min(max(scale, 1.0), recipe.towers.max_logit_scale)
        return cls(clip.text if text else None, clip.image if image else None, scale, bias)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns raw vectors of pictures and texts, each (N, D) float32, the logit scale and the logit bias.

        `batch` has `pictures` (N, D), `pixels`, or `pooled_pictures` (N, H), which only the head is still to see; and
        `texts` (N, D), `input_ids` and `attention_mask`, or `pooled_texts` (N, H). Where it has nothing of one side, as
        in a validation, that side is empty.
        """
        scale = self.log_scale.exp()
        bias = torch.zeros_like(scale).detach() if self.bias is None else self.bias * 1.0
        empty = scale.detach().new_zeros(0)
        pictures = self._of_pictures(batch) if _PICTURES & batch.keys() else empty
        texts = self._of_texts(batch) if _TEXTS & batch.keys() else empty
        return pictures, texts, scale, bias

    def _of_pictures(self, batch: Mapping[str, Tensor]) -> Tensor:
        if self.image is None:
            return batch["pictures"].float()
        if "pooled_pictures" in batch:
            projected: Tensor = self.image.head(batch["pooled_pictures"]).float()
            return projected
        # Without a gradient nothing is kept for a backward pass that never comes.
        with torch.set_grad_enabled(torch.is_grad_enabled() and _moves(self.image)):
            features: Tensor = self.image(batch["pixels"]).float()
        return features

    def _of_texts(self, batch: Mapping[str, Tensor]) -> Tensor:
        if self.text is None:
            return batch["texts"].float()
        if "pooled_texts" in batch:
            projected: Tensor = self.text.head(batch["pooled_texts"]).float()
            return projected
        input_ids, mask = batch["input_ids"], batch["attention_mask"]
        if mask.device.type != "cpu" or len(mask) <= _TEXTS_OF_A_PASS or is_part(next(self.text.parameters())):
            features: Tensor = self.text(input_ids, mask).float()
            return features
        # Batches are not sorted by length, and a processor pays for padding: texts of a length pass together.
        order = torch.argsort(mask.sum(dim=1), stable=True)
        passes = []
        for start in range(0, len(order), _TEXTS_OF_A_PASS):
            rows = order[start : start + _TEXTS_OF_A_PASS]
            longest = int(mask[rows].sum(dim=1).max())
            passes.append(self.text(input_ids[rows, :longest], mask[rows, :longest]).float())
        return torch.cat(passes)[torch.argsort(order)]

    def clamp(self, most: float) -> Callable[[], None]:
        """Returns a function that brings the logit scale back into 1 … `most`, to be called after each step."""
        log_most = math.log(most)

        def clamp() -> None:
            with torch.no_grad():
                self.log_scale.clamp_(0.0, log_most)

        return clamp

    def give_back(self, clip: Clip) -> None:
        """Writes scale and bias into the clip. A bias of old is dropped where the loss has none: they belong together.

        A scale that did not train stays the number that it was.
        """
        if self.log_scale.requires_grad or clip.logit_scale is None:
            clip.logit_scale = float(self.log_scale.detach().double().exp())
        clip.logit_bias = None if self.bias is None else float(self.bias.detach())


def trained_parameters(pair: Pair, clip: Clip, recipe: Recipe) -> dict[str, nn.Parameter]:
    """Returns what trains, by its name in the pair; sets gradients and modes of both towers.

    Raises:
        BabelclipError: a setting of [towers] is not known, or both towers are locked.
    """
    chosen: dict[str, nn.Parameter] = {}
    towers = recipe.towers
    for name, tower, trainable in (("text", clip.text, towers.text), ("image", clip.image, towers.image)):
        if tower is None:
            continue
        freeze = name == "text" and recipe.student.freeze_embeddings and not is_locked(trainable)
        selected = select_parameters(tower, trainable, setting=f"towers.{name}", freeze_embeddings=freeze)
        chosen |= {f"{name}.{key}": parameter for key, parameter in selected.items()}
        if is_locked(trainable):
            tower.eval()
        elif name == "text":
            set_dropout(tower, recipe.student.dropout)
        else:
            # Batch norms of a free tower gather statistics; those of locked layers stand still.
            tower.train()
            lock_still(tower)
    if not chosen:
        raise BabelclipError(
            'Both towers are locked, so nothing trains: set text or image to "free", "head" or "last N layers" in '
            "[towers]."
        )
    scalars = {"log_scale": pair.log_scale} | ({} if pair.bias is None else {"bias": pair.bias})
    for name, scalar in scalars.items():
        scalar.requires_grad_(towers.logit_scale == "free")
        if towers.logit_scale == "free":
            chosen[name] = scalar
    return chosen


def is_locked(trainable: str) -> bool:
    """Returns whether a setting of [towers] locks the whole tower."""
    return trainable.strip().lower() == "locked"


def _moves(tower: nn.Module) -> bool:
    return any(weight.requires_grad for weight in tower.parameters())
