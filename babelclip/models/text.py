"""The text tower: backbone (transformers) + pooling + head, from strings to vectors of the space."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.models.encoding import Device, encode_texts
from babelclip.models.encoding import inference as inference
from babelclip.models.head import LayerSpec, backbone_width, build_head
from babelclip.models.packing import is_packed, packed_output
from babelclip.models.pooling import pool
from babelclip.models.tokenization import TextTokenizer

if TYPE_CHECKING:
    from babelclip.models.conditioning import TokenStates


class TextEncoder(nn.Module):
    """Token ids to vectors of the embedding space: `backbone` -> `pooling` -> `head`.

    Letters: N texts, T tokens, H backbone width, D embed_dim.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pooling: str,
        head: list[LayerSpec],
        tokenizer: TextTokenizer,
        token_head: list[LayerSpec] | None = None,
    ) -> None:
        """Takes a transformers encoder; the head is built from its description, its weights are set by the caller.

        Args:
            backbone: any transformers model that returns `last_hidden_state` (N, T, H).
            pooling: `mean`, `cls`, `eos` or `max` (see `pool`), or `pooler` for the backbone's own `pooler_output`.
            head: layers from H to D (see `build_head`).
            tokenizer: texts to ids, with the prefix and length that the checkpoint wants.
            token_head: layers for token states, which some checkpoints hold for diffusion models.
        """
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.head_layers = head
        self.head, self.embed_dim = build_head(head, self.width)
        self.token_head_layers = token_head
        self.token_head = None if token_head is None else build_head(token_head, backbone_width(backbone))[0]
        self.tokenizer = tokenizer
        self._positions = _positions(backbone)

    @property
    def width(self) -> int:
        """Width H of the pooled vector that enters the head."""
        return backbone_width(self.backbone, self.pooling)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the raw projection (N, D), not normalised, for token ids and mask, both (N, T) int64.

        Without a mask every token is read, which is the same and faster where no row is padded.
        """
        features: torch.Tensor = self.head(self.pooled(input_ids, attention_mask))
        return features

    def pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the pooled backbone output (N, H) before the head."""
        if attention_mask is not None and self.pooling != "pooler" and is_packed(self.backbone):
            return self.pool_states(packed_output(self.backbone, input_ids, attention_mask), input_ids, attention_mask)
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
        return self.pool_output(output, input_ids, attention_mask)

    def pool_output(self, output: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Returns the vector (N, H) that enters the head, for what the backbone gave."""
        if self.pooling == "pooler":
            pooled: torch.Tensor = output.pooler_output
            return pooled
        return self.pool_states(output.last_hidden_state, input_ids, attention_mask)

    def pool_states(
        self, states: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Returns the vector (N, H) that enters the head, for the last states (N, T, H) of the backbone."""
        eos_id = self.tokenizer.eos_id
        return pool(states, attention_mask, self.pooling, None if eos_id is None else input_ids == eos_id)

    def tokenize(self, texts: Sequence[str], lang: str | Sequence[str] | None = None) -> list[list[int]]:
        """Returns the token ids of each text, prefix and special tokens included, truncated (see `TextTokenizer`)."""
        return self.tokenizer(texts, lang)

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns `input_ids` and `attention_mask` (N, T) int64 on the tower's device.

        Raises:
            BabelclipError: the tokenizer gives ids that the backbone has no row for, or more than it has positions.
        """
        input_ids, attention_mask = self.tokenizer.pad(token_ids)
        config: Any = self.backbone.config
        rows: int = config.vocab_size
        if input_ids.numel() and int(input_ids.max()) >= rows:
            raise BabelclipError(
                f"The tokenizer gave token {int(input_ids.max())}, and the text tower has rows for {rows} tokens. "
                "Tokenizer and weights must be of one model: copy the model's folder again from its origin."
            )
        if self._positions is not None and input_ids.shape[1] > self._positions:
            raise BabelclipError(
                f"A text has {input_ids.shape[1]} tokens, and the text tower has positions for {self._positions}. Set "
                f"the tokenizer's max_length, now {self.tokenizer.max_length}, to that or less."
            )
        device = next(self.parameters()).device
        return input_ids.to(device), attention_mask.to(device)

    def encode(
        self,
        texts: str | Sequence[str],
        normalize: bool = True,
        *,
        lang: str | Sequence[str] | None = None,
        token_budget: int | None = None,
        before_head: bool = False,
        devices: Sequence[Device] | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Returns text features (N, D) float32, rows L2-normalised unless `normalize=False`; input order is kept.

        Args:
            texts: one string counts as a list of one. An empty list gives (0, D).
            normalize: False gives the raw projection, which teacher learning regresses on.
            lang: language of the texts, or one for each (BCP-47); read by models whose first token names it (NLLB).
            token_budget: most tokens of a padded batch; changes speed and memory, results only by rounding. None takes
                1024 on a processor (512 in int8) and 32768 on a GPU.
            before_head: return the pooled vectors (N, H) that enter the head, never normalised.
            devices: several devices of this machine, for example ["cuda:0", "cuda:1"]; None means where the tower is.
            progress: show a bar on stderr.

        Raises:
            BabelclipError: an item is not a string, or `lang` is no language of the model or has another length.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        features = encode_texts(
            self,
            texts,
            lang=lang,
            token_budget=token_budget,
            before_head=before_head,
            devices=devices,
            progress=progress,
        )
        return normalize_rows(features) if normalize and not before_head else features

    def encode_tokens(self, texts: str | Sequence[str], **settings: Any) -> TokenStates:
        """Returns token states for diffusion models; `settings` are those of `conditioning.encode_tokens`."""
        from babelclip.models.conditioning import encode_tokens

        return encode_tokens(self, texts, **settings)


def normalize_rows(features: np.ndarray) -> np.ndarray:
    """Returns `features` (..., D) as float32 with rows of unit length; a row of zeros stays zero."""
    features = np.asarray(features)
    if features.dtype.itemsize < 4:
        # Squares of float16 overflow from a length of 256, and the bound below is 0 in it.
        features = features.astype(np.float32)
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), dtype=np.float32)


# Towers that the Auto classes do not list in every version: 5.0 has neither a config nor a model under these names.
_UNLISTED = {
    "metaclip_2_text_model": "MetaClip2Text",
    "metaclip_2_vision_model": "MetaClip2Vision",
    "siglip_text_model": "SiglipText",
    "siglip2_text_model": "Siglip2Text",
}


def build_text_backbone(config: dict[str, Any], *, pooler: bool = False) -> nn.Module:
    """Returns a transformers text encoder for a config dictionary with `model_type`; its weights are not set.

    Args:
        config: keys of the transformers config class; the rest take its defaults.
        pooler: build the pooler that BERT-type classes can have. It is left out otherwise: hardly a checkpoint of
            this field reads its output.
    """
    parsed, model_class = parsed_backbone(config)
    if parsed.model_type == "m2m_100":  # AutoModel would build the decoder too
        modeling = importlib.import_module("transformers.models.m2m_100.modeling_m2m_100")
        model_class = modeling.M2M100Encoder
    extra = {"add_pooling_layer": pooler} if _accepts(model_class, "add_pooling_layer") else {}
    return bare(model_class._from_config(parsed, **extra))


def parsed_backbone(config: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the transformers config and the model class that belong to a config dictionary with `model_type`."""
    import transformers

    settings = dict(config)
    model_type = settings.pop("model_type")
    if model_type in _UNLISTED:
        stem = _UNLISTED[model_type]
        return getattr(transformers, f"{stem}Config")(**settings), getattr(transformers, f"{stem}Model")
    parsed = transformers.AutoConfig.for_model(model_type, **settings)
    return parsed, transformers.AutoModel._model_mapping[type(parsed)]


def bare(model: nn.Module) -> nn.Module:
    """Returns the transformer inside a class that only wraps it, as older transformers had for CLIP and SigLIP.

    Weight names are then the same whatever the version.
    """
    inner = getattr(model, "text_model", None) or getattr(model, "vision_model", None)
    return inner if isinstance(inner, nn.Module) else model


def _positions(backbone: nn.Module) -> int | None:
    """Returns the most tokens that a backbone has positions for; None where it has no such limit (T5)."""
    from babelclip.models.checkpoints.text_body import room

    config: Any = backbone.config
    content = config.to_dict()
    return room(content) if "max_position_embeddings" in content else None


def _accepts(function: Any, argument: str) -> bool:
    return argument in inspect.signature(function).parameters
