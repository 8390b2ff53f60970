"""Token states of a text tower, as text-to-image models take them in cross-attention.

Three programs compute token states of one AltCLIP and do not agree. With h the hidden states of XLM-R:

| preset | who | states | T |
|---|---|---|---|
| `altdiffusion`, `altdiffusion-m9` | FlagAI, diffusers without the flag below | `transformation(h[-1])` | 77 |
| `altdiffusion-m18` | diffusers, `has_pre_transformation` | `transformation_pre(pre_LN(h[-2]))` | 77 |
| `altclip` | transformers' `AltCLIPModel` | `transformation(pre_LN(h[-1]))` | longest row |

Only the last agrees with the pooled vector: in all three that is position 0 of `transformation(pre_LN(h[-1]))`. A
diffusion model wants the rule that it was trained with, so the preset is named after the model. Models with other
heads give their hidden states with `norm="none", head="none"` (Kandinsky 2.1 takes those of M-CLIP).

Negative prompts are texts like others; where there is none the pipelines encode the empty string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.encoding import no_gradients
from babelclip.models.text import TextEncoder

Norm = Literal["none", "pre", "final"]
Head = Literal["none", "transformation", "transformation_pre"]
Length = int | Literal["dynamic"]

NORMS = ("none", "pre", "final")
HEADS = ("none", "transformation", "transformation_pre")


@dataclass(frozen=True)
class TokenRule:
    """Which states a diffusion model takes.

    Attributes:
        layer: of the hidden states: 0 the embeddings, k after layer k, -1 after the last, -2 after the one before.
        norm: "none", "pre" (AltCLIP's `pre_LN`) or "final" (the norm that ends a CLIP or SigLIP text tower).
        head: "none", "transformation" (AltCLIP's, to the teacher's width) or "transformation_pre" (m18 only).
        length: tokens of every row, padded and cut; "dynamic" for the longest row of the call.
    """

    layer: int = -1
    norm: Norm = "none"
    head: Head = "transformation"
    length: Length = 77

    def __post_init__(self) -> None:
        for name, value, allowed in (("norm", self.norm, NORMS), ("head", self.head, HEADS)):
            if value not in allowed:
                raise BabelclipError(f"{name} {value!r} is not known. {did_you_mean(str(value), allowed)}")
        if not isinstance(self.length, int) and self.length != "dynamic":
            raise BabelclipError(f"length is {self.length!r}; give a number of tokens, for example 77, or 'dynamic'.")


PRESETS = {
    "altdiffusion": TokenRule(),
    "altdiffusion-m9": TokenRule(),
    "altdiffusion-m18": TokenRule(layer=-2, norm="pre", head="transformation_pre"),
    "altclip": TokenRule(norm="pre", length="dynamic"),
}


@dataclass(frozen=True)
class TokenStates:
    """What a diffusion model is conditioned on, N rows in input order, on the tower's device.

    Attributes:
        states: (N, T, W), not normalised; W is the teacher's width, or the backbone's with `head="none"`. Rows are
            filled up with states of padding, which diffusers hands to the diffusion model like any other.
        mask: 1 for tokens, 0 for padding (N, T) int64.
        pooled: the vector that enters the last layer of the head (N, P): for AltCLIP the one before `text_projection`.
        features: the raw projection (N, D), as `encode_text(normalize=False)` gives it.
    """

    states: torch.Tensor
    mask: torch.Tensor
    pooled: torch.Tensor
    features: torch.Tensor


def encode_tokens(
    text: TextEncoder,
    texts: str | Sequence[str],
    *,
    preset: str = "altdiffusion-m9",
    layer: int | None = None,
    norm: Norm | None = None,
    head: Head | None = None,
    length: Length | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 32,
) -> TokenStates:
    """Returns the token states, mask and pooled vectors of texts, in eval mode and without gradients.

    Args:
        text: a text tower.
        texts: prompts or negative prompts; one string counts as a list of one.
        preset: the rule of a published consumer (see `PRESETS`).
        layer: in place of the preset's, as are `norm`, `head` and `length` (see `TokenRule`).
        norm: see `layer`.
        head: see `layer`.
        length: see `layer`. At most `text.tokenizer.max_length`, which may be raised to the backbone's limit.
        dtype: of states, pooled and features; the tower's own by default, in which it computes either way.
        batch_size: texts a forward pass.

    Example:
        >>> clip = babelclip.load("copies/AltCLIP-m9", towers="text")  # doctest: +SKIP
        >>> encode_tokens(clip.text, ["两只狗", ""], preset="altdiffusion-m9").states.shape  # doctest: +SKIP
        torch.Size([2, 77, 768])

    Raises:
        BabelclipError: a text is no string, a name is unknown, or the tower has no such layer, norm or head.
    """
    if preset not in PRESETS:
        raise BabelclipError(f"Preset {preset!r} is not known. {did_you_mean(preset, PRESETS)}")
    given = {"layer": layer, "norm": norm, "head": head, "length": length}
    rule = replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    transform = _transform(text, rule)
    texts = [texts] if isinstance(texts, str) else list(texts)
    # Backbones cannot run on nothing: an empty list is run as one empty text, and its row is dropped.
    rows = [_cut(ids, rule.length, text) for ids in text.tokenize(texts or [""])]
    input_ids, mask = text.pad(rows)
    if isinstance(rule.length, int):
        input_ids = _filled(input_ids, rule.length, text.tokenizer.pad_id)
        mask = _filled(mask, rule.length, 0)
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    with no_gradients(text):
        for start in range(0, len(rows), batch_size):
            chosen = slice(start, start + batch_size)
            parts.append(_forward(text, input_ids[chosen], mask[chosen], rule.layer, transform))
    states, pooled, features = (torch.cat(column)[: len(texts)].to(dtype) for column in zip(*parts, strict=True))
    return TokenStates(states, mask[: len(texts)], pooled, features)


def _forward(
    text: TextEncoder,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    layer: int,
    transform: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns states (N, T, W), pooled (N, P) and features (N, D) of one batch."""
    output = text.backbone(input_ids=input_ids, attention_mask=mask, output_hidden_states=True)
    if not -len(output.hidden_states) <= layer < len(output.hidden_states):
        raise BabelclipError(
            f"layer is {layer}; this tower has {len(output.hidden_states) - 1} layers. Give -1 for the last, "
            f"or {-len(output.hidden_states)} to {len(output.hidden_states) - 1}."
        )
    pooled = text.pool_output(output, input_ids, mask)
    before_last = text.head[:-1](pooled)
    return transform(output.hidden_states[layer]), before_last, text.head[-1:](before_last)


def _transform(text: TextEncoder, rule: TokenRule) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns the norm and head of `rule` as one function (N, T, H) -> (N, T, W)."""
    kinds = [layer["kind"] for layer in text.head_layers]
    is_altclip = kinds == ["layer_norm", "linear", "linear"]
    steps: list[nn.Module] = []
    if (rule.norm == "pre" or rule.head == "transformation") and not is_altclip:
        raise BabelclipError(
            f"This text tower's head is {' -> '.join(kinds) or 'empty'}; pre_LN and transformation are AltCLIP's. "
            "Ask for its hidden states with norm='none' and head='none'."
        )
    if rule.norm == "pre":
        steps.append(text.head[0])
    elif rule.norm == "final":
        final = getattr(text.backbone, "final_layer_norm", None)
        if final is None:
            raise BabelclipError(
                f"{type(text.backbone).__name__} ends without a norm of its own; norm='final' is for CLIP and SigLIP "
                "text towers. Ask for norm='none'."
            )
        steps.append(final)
    if rule.head == "transformation":
        steps.append(text.head[1])
    elif rule.head == "transformation_pre":
        if text.token_head is None:
            raise BabelclipError(
                "This text tower has no transformation_pre; only the AltDiffusion-m18 copy of AltCLIP-m18 has one. "
                "Load that checkpoint, or ask for head='transformation'."
            )
        steps.append(text.token_head)
    return nn.Sequential(*steps)


def _cut(token_ids: list[int], length: Length, text: TextEncoder) -> list[int]:
    """Returns the ids cut to `length` tokens; the closing special token stays, as when a tokenizer truncates."""
    if length == "dynamic":
        return token_ids
    if not 2 <= length <= text.tokenizer.max_length:
        raise BabelclipError(
            f"length is {length}; this tower reads 2 to {text.tokenizer.max_length} tokens. Set "
            "text.tokenizer.max_length for more, up to what the backbone has positions for."
        )
    return token_ids if len(token_ids) <= length else [*token_ids[: length - 1], token_ids[-1]]


def _filled(rows: torch.Tensor, length: int, value: int) -> torch.Tensor:
    return nn.functional.pad(rows, (0, length - rows.shape[1]), value=value)
