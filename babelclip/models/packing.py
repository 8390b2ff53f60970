"""Padding left out on a GPU: the tokens of a batch in one row, and attention of variable length over it.

Sorted batches pad 1.03 to 1.08 times (`batching.py`), and a padded batch needs a mask, with which the fastest attention
kernels do not run. Packed, neither is there: linear layers see real tokens alone, and `torch.nn.attention.varlen` is
told where each text begins. It wants CUDA and half precision, so everything else stays with padding and SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ATTENTION = "babelclip_packed"
# Encoders that look both ways and take positions as an argument; the number is that of a text's first position.
_FIRST_POSITION = {"bert": 0, "roberta": None, "xlm-roberta": None, "camembert": None}  # None: behind the padding id


def can_pack(backbone: nn.Module) -> bool:
    """Returns whether a text backbone can be packed where it lies: on CUDA, in half precision, of a known type."""
    weight = next(backbone.parameters())
    return weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16) and _is_known(backbone)


def pack_attention(backbone: nn.Module) -> None:
    """Makes `packed_output` possible for a backbone; without it, it attends as before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    # Registered where transformers looks names up; the same functions each time.
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model: Any = backbone
    model.set_attn_implementation(ATTENTION)


def unpack_attention(backbone: nn.Module) -> None:
    """Takes `pack_attention` back."""
    model: Any = backbone
    model.set_attn_implementation("sdpa")


def is_packed(backbone: nn.Module) -> bool:
    """Returns whether padded batches of this backbone are to go through `packed_output`; never while it is trained."""
    config: Any = backbone.config
    return not torch.is_grad_enabled() and getattr(config, "_attn_implementation", None) == ATTENTION


def packed_output(backbone: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns the last states (N, T, H) of a batch padded on the right, computed without its padding (zeros there).

    Args:
        backbone: one that went through `pack_attention`.
        input_ids: (N, T) int64.
        attention_mask: (N, T) int64, 1 for tokens.
    """
    real = attention_mask.bool()
    lengths = attention_mask.sum(dim=1)
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)[real]
    output: torch.Tensor = backbone(
        input_ids=input_ids[real][None],
        position_ids=(places + _first_position(backbone))[None],
        text_starts=starts,
        longest=input_ids.shape[1],
    ).last_hidden_state[0]
    states = output.new_zeros(*input_ids.shape, output.shape[-1])
    states[real] = output
    return states


def _is_known(backbone: nn.Module) -> bool:
    config: Any = backbone.config
    absolute = getattr(config, "position_embedding_type", None) in (None, "absolute")
    return config.model_type in _FIRST_POSITION and absolute and not getattr(config, "is_decoder", False)


def _first_position(backbone: nn.Module) -> int:
    config: Any = backbone.config
    first = _FIRST_POSITION[config.model_type]
    return int(config.pad_token_id) + 1 if first is None else first


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    text_starts: torch.Tensor | None = None,
    longest: int = 0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, query, key and value (1, heads, tokens, width) where texts are packed."""
    if text_starts is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        attended, nothing = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
        return attended, nothing
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return _variable_length(q, k, v, text_starts, longest, scaling)[None], None


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """Returns attention (tokens, heads, width) inside each text; text n has tokens starts[n] to starts[n + 1]."""
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        found: Any = varlen_attn(
            query.contiguous(), key.contiguous(), value.contiguous(), starts, starts, longest, longest, scale=scale
        )
        return torch.as_tensor(found)
    # What it equals, text by text: the kernel is of CUDA only.
    parts = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        q, k, v = (part[begin:end].transpose(0, 1) for part in (query, key, value))
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(0, 1))
    return torch.cat(parts)
