"""From token states to one vector a text."""

from __future__ import annotations

import torch

from babelclip.errors import BabelclipError, did_you_mean

POOLINGS = ("mean", "cls", "eos", "max", "pooler")


def pool(
    token_states: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str, ends: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns one vector a text (N, H), not normalised, in the dtype of `token_states`.

    Args:
        token_states: last hidden states (N, T, H).
        attention_mask: 1 for tokens, 0 for padding on the right (N, T); None where no row is padded.
        pooling: `mean` over the tokens (M-CLIP, E5), `cls` the first token (AltCLIP), `max` over the tokens, `eos` the
            token where the text ends (CLIP). `pooler`, the backbone's own pooled output, needs no states and is
            taken by `TextEncoder.pooled`.
        ends: true at end-of-text tokens (N, T) bool. `eos` takes the first of a row, as CLIP does when a text itself
            spells that token; the last real token where it is None.

    Raises:
        BabelclipError: `pooling` is none of these.
    """
    if pooling == "cls":
        return token_states[:, 0]
    if pooling == "mean":
        if attention_mask is None:
            return token_states.mean(dim=1)
        # As `mean` does inside: a sum in float16 overflows, and bfloat16 counts no tokens beyond 256.
        wide = token_states.to(torch.promote_types(token_states.dtype, torch.float32))
        weights = attention_mask.unsqueeze(-1).to(wide.dtype)
        return ((wide * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)).to(token_states.dtype)
    if pooling == "max":
        if attention_mask is not None:
            token_states = token_states.masked_fill(attention_mask.unsqueeze(-1) == 0, float("-inf"))
        return token_states.amax(dim=1)
    if pooling == "eos":
        if ends is not None:
            last = ends.int().argmax(dim=1)
        elif attention_mask is not None:
            last = attention_mask.sum(dim=1).clamp(min=1) - 1
        else:
            return token_states[:, -1]
        # `shape[0]` stays symbolic in torch.export, where `len` would freeze the batch at the traced size.
        return token_states[torch.arange(last.shape[0], device=last.device), last]
    raise BabelclipError(f"Pooling {pooling!r} is not known. {did_you_mean(pooling, POOLINGS)}")
