"""Text towers in int8 on the CPU: a quarter of the weights, and integer matrix products in place of float ones.

Weights and embeddings are rounded once, each row by its own scale; the input of a linear layer is rounded at run time,
each token by its own scale. A text's vector therefore never depends on its neighbours in a batch. Everything between
the products (attention, layer norms, activations, pooling, head) stays float32. No calibration texts are needed.

The products are `torch._int_mm`: oneDNN with the processor's int8 instructions (AVX512-VNNI, AMX), a plain loop where
it has none: right everywhere, fast there only. docs/log.md has what else was measured.
"""

from __future__ import annotations

import logging
import threading
import weakref
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from babelclip.errors import BabelclipError

if TYPE_CHECKING:
    from babelclip.models.clip import Clip
    from babelclip.models.text import TextEncoder

_LOG = logging.getLogger(__name__)
# Largest magnitude of a rounded value; -128 is unused, so that the range is symmetric and needs no zero point.
_LEVELS = 127


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns `x` (..., K) rounded to int8 (..., K), and float32 scales (..., 1) with x = int8 * scale about."""
    # amax and amin are vectorised where abs().amax(), aminmax and the infinity norm are 3 to 20 times slower.
    largest = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True)).clamp_(min=1e-30)
    return torch.mul(x, _LEVELS / largest).round_().to(torch.int8), largest / _LEVELS


class _Rounded(threading.local):
    """The last rounded input of a tower: queries, keys and values are three products of one input.

    One for each thread, because several encode with one tower at once.
    """

    def __init__(self) -> None:
        self.last: tuple[Any, torch.Tensor, torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns `x` (..., K) as int8 (M, K) and scales (M, 1)."""
        if self.last is not None and self.last[0]() is x:
            return self.last[1], self.last[2]
        values, scales = quantize_rows(x.reshape(-1, x.shape[-1]))
        self.last = (weakref.ref(x), values, scales)
        return values, scales

    def __reduce__(self) -> tuple[type[_Rounded], tuple[()]]:
        return _Rounded, ()  # copies and other processes start empty; a weak reference cannot travel


class Int8Linear(nn.Module):
    """A linear layer with int8 weights (O, K), a float32 scale for each output (O,) and a float32 bias. No gradients.

    Letters: M tokens, K inputs, O outputs.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, rounded: _Rounded | None = None) -> None:
        """Allocates the layer without setting it; `rounded` is shared by the layers of one tower."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _frozen(torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features))
        self.bias = _frozen(torch.empty(out_features)) if bias else None
        self._rounded = rounded or _Rounded()

    def set_from(self, linear: Any) -> None:
        """Takes the rounded weights of an `nn.Linear`."""
        values, scales = quantize_rows(linear.weight.detach().float())
        self.weight, self.scale = _frozen(values), scales.flatten()
        self.bias = None if linear.bias is None else _frozen(linear.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (..., O) float32 for `x` (..., K) float32."""
        values, scales = self._rounded(x)
        sums = torch._int_mm(values, self.weight.t())  # (M, O) int32, exact
        y = sums.float().mul_(self.scale)
        y = y.mul_(scales) if self.bias is None else torch.addcmul(self.bias, y, scales, out=y)
        return y.view(*x.shape[:-1], self.out_features)


class Int8Embedding(nn.Module):
    """An embedding table in int8 (V, H) with a float32 scale for each row (V, 1).

    `embed_scale` is the constant factor that some tables carry (M2M100, NLLB).
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, embed_scale: float = 1.0) -> None:
        """Allocates the table without setting it."""
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.embed_scale = num_embeddings, embedding_dim, embed_scale
        self.weight = _frozen(torch.empty(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(num_embeddings, 1))

    def set_from(self, embedding: Any) -> None:
        """Takes the rounded rows of an `nn.Embedding`."""
        # In parts: a table of 250,000 rows must not be copied whole in float32.
        parts = [quantize_rows(part.float()) for part in embedding.weight.detach().split(16384)]
        self.weight = _frozen(torch.cat([values for values, _ in parts]))
        self.scale = torch.cat([scales for _, scales in parts])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Returns rows (..., H) float32 for ids (...) of whole numbers."""
        rows = functional.embedding(input_ids, self.weight).float()
        return rows.mul_(functional.embedding(input_ids, self.scale) * self.embed_scale)


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def quantize(text: TextEncoder) -> TextEncoder:
    """Rounds a text tower's embeddings and the backbone's linear layers to int8, in place, and returns the tower.

    The head stays float32: it is small, and every error there is an error of the result. What is int8 already stays.

    Raises:
        BabelclipError: the tower is not on the CPU.
    """
    refuse_other_devices(next(text.parameters()).device)
    rounded = _Rounded()
    # One at a time and in place, so that never two copies of the whole tower lie in memory.
    for parent, name, layer in _layers(text.backbone):
        int8 = _empty_like(layer, rounded)
        int8.set_from(layer)
        setattr(parent, name, int8)
    return text


def allocate(text: TextEncoder) -> TextEncoder:
    """Replaces the layers that `quantize` would by int8 ones that are not set yet, for a checkpoint that holds them."""
    rounded = _Rounded()
    for parent, name, layer in _layers(text.backbone):
        setattr(parent, name, _empty_like(layer, rounded))
    return text


def is_quantized(module: nn.Module) -> bool:
    """Returns whether a tower has int8 layers."""
    return any(isinstance(layer, Int8Linear | Int8Embedding) for layer in module.modules())


def refuse_other_devices(device: torch.device) -> None:
    """Raises BabelclipError unless `device` is the CPU."""
    if device.type != "cpu":
        raise BabelclipError(
            f'dtype="int8" was asked for on {device}; it runs on the CPU only. Give device="cpu", or on a GPU '
            'dtype="bfloat16", which is faster there.'
        )


def _layers(backbone: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Returns parent, name and layer of all that is rounded.

    Exact classes only: a subclass computes something else, or is read by its parent without being called.
    """
    found = []
    for parent in backbone.modules():
        for name, layer in parent.named_children():
            scaled = isinstance(layer, nn.Embedding) and hasattr(layer, "embed_scale")
            if type(layer) in (nn.Linear, nn.Embedding) or scaled:
                found.append((parent, name, layer))
    return found


def _empty_like(layer: nn.Module, rounded: _Rounded) -> Int8Linear | Int8Embedding:
    if isinstance(layer, nn.Embedding):
        return Int8Embedding(layer.num_embeddings, layer.embedding_dim, float(getattr(layer, "embed_scale", 1.0)))
    linear: Any = layer
    return Int8Linear(linear.in_features, linear.out_features, linear.bias is not None, rounded)


def probe_texts() -> list[str]:
    """Returns the 64 built-in captions, in 50 languages and 15 scripts, on which lower precision is judged."""
    return [text for _lang, text in _probe()]


def _probe() -> list[tuple[str, str]]:
    content = resources.files("babelclip.models").joinpath("probe.txt").read_text(encoding="utf-8")
    return [(lang, text) for lang, _, text in (line.partition("\t") for line in content.splitlines())]


def fidelity(exact: np.ndarray, rounded: np.ndarray) -> dict[str, float]:
    """Returns `mean_cosine` and `min_cosine` between the rows of two arrays (N, D), of the same texts in both."""
    dots = (exact * rounded).sum(axis=1, dtype=np.float64)
    norms = np.linalg.norm(exact.astype(np.float64), axis=1) * np.linalg.norm(rounded.astype(np.float64), axis=1)
    cosines = dots / np.maximum(norms, 1e-30)
    return {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min())}


def quantize_clip(clip: Clip) -> dict[str, Any]:
    """Quantizes the text tower of `clip` in place, measures what it costs on `probe_texts`, logs and returns that.

    The picture tower, if there is one, stays as it is.

    Returns:
        `dtype`, `texts` (their number), `mean_cosine` and `min_cosine` to the tower before.

    Raises:
        BabelclipError: there is no text tower, or it is not on the CPU.
    """
    if clip.text is None:
        raise BabelclipError(
            'dtype="int8" is for the text tower, and this model was loaded without it. Load it with towers="both" or '
            '"text", or with another dtype.'
        )
    texts = probe_texts()
    exact = clip.text.encode(texts)
    measured = {"dtype": "int8", "texts": len(texts), **fidelity(exact, quantize(clip.text).encode(texts))}
    _LOG.info(
        "int8: cosine to the weights before %.4f on average, %.4f at least, on %d captions in many languages.",
        measured["mean_cosine"], measured["min_cosine"], len(texts),
    )  # fmt: skip
    return measured
