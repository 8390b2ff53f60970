"""A tower as an ONNX graph in memory: from token ids or pixels to vectors, with pooling and head inside.

torch traces the tower by `torch.export`, where a dimension that the code froze at its traced size is an error; the
older TorchScript tracer freezes it in silence (docs/log.md). Letters: N texts or pictures, T tokens, D embed_dim.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from babelclip.errors import BabelclipError, require
from babelclip.models.encoding import no_gradients
from babelclip.models.image import ImageEncoder
from babelclip.models.naflex import NaflexTower
from babelclip.models.text import TextEncoder

TEXT_INPUTS = ("input_ids", "attention_mask")
IMAGE_INPUTS = ("pixels",)
OUTPUTS = ("features", "embeddings")
# The first with the Gelu operator. onnxruntime reads it from version 1.17 on, OpenVINO from 2024.
OPSET = 20
_COMPUTED = {"float32": torch.float32, "float16": torch.float16}
# Three texts of different lengths: a batch of one, or of one length, could hide what depends on either.
_TRACED_TEXTS = ("a photo of two dogs that play in the deep snow", "a dog", "två hundar")
_TRACED_PICTURES = 5


class TextGraph(nn.Module):
    """Token ids and mask (N, T) int64 to raw and to unit vectors (N, D) float32."""

    def __init__(self, text: TextEncoder, dtype: torch.dtype) -> None:
        """The backbone computes in `dtype`, pooling and head in float32."""
        super().__init__()
        self.backbone = _in_dtype(text.backbone, dtype)
        self.head = _in_dtype(text.head, torch.float32)
        self._pool_output = text.pool_output
        self._padding_is_read = text.tokenizer.pad_to is not None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns `features` (N, D) as the head gives them, and `embeddings` (N, D), the same with rows of length 1."""
        if self._padding_is_read:
            # Texts of fixed length (SigLIP) are read with their padding, whatever a tokenizer says of it.
            attention_mask = torch.ones_like(input_ids)
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
        for name in ("last_hidden_state", "pooler_output"):
            if getattr(output, name, None) is not None:
                output[name] = output[name].float()
        return _both(self.head(self._pool_output(output, input_ids, attention_mask)))


class ImageGraph(nn.Module):
    """Pixels (N, 3, height, width) float32 to raw and to unit vectors (N, D) float32."""

    def __init__(self, image: ImageEncoder, dtype: torch.dtype) -> None:
        """The backbone computes in `dtype`, the head in float32."""
        super().__init__()
        self.backbone = _in_dtype(image.backbone, dtype)
        self.head = _in_dtype(image.head, torch.float32)
        self._dtype = dtype

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns `features` (N, D) as the head gives them, and `embeddings` (N, D), the same with rows of length 1."""
        output = self.backbone(pixels.to(self._dtype))
        pooled = output if isinstance(output, torch.Tensor) else output.pooler_output
        return _both(self.head(pooled.float()))


def text_graph(text: TextEncoder, dtype: str = "float32") -> Any:
    """Returns the text tower as an `onnx_ir` model with dynamic batch and length (fixed where the model fixes it)."""
    input_ids, attention_mask = (tensor.cpu() for tensor in text.pad(text.tokenize(_TRACED_TEXTS)))
    dynamic = {0: "batch"} if text.tokenizer.pad_to is not None else {0: "batch", 1: "tokens"}
    inputs = dict(zip(TEXT_INPUTS, (input_ids, attention_mask), strict=True))
    with no_gradients(text):
        return _traced(TextGraph(text, _COMPUTED[dtype]), inputs, dict.fromkeys(TEXT_INPUTS, dynamic))


def image_graph(image: ImageEncoder, dtype: str = "float32") -> Any:
    """Returns the picture tower as an `onnx_ir` model with dynamic batch.

    Raises:
        BabelclipError: the tower takes pictures in their own proportions (SigLIP 2 NaFlex).
    """
    if isinstance(image.backbone, NaflexTower):
        raise BabelclipError(
            "This picture tower is SigLIP 2 NaFlex, which resizes its positions for every picture by an operation that "
            "ONNX lacks. Export its text tower alone (towers='text'), or a SigLIP 2 of fixed resolution."
        )
    side = image.preprocess.crop
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(_TRACED_PICTURES, 3, side, side)))
    with no_gradients(image):
        return _traced(ImageGraph(image, _COMPUTED[dtype]), {"pixels": pixels.float()}, {"pixels": {0: "batch"}})


def _both(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return features, functional.normalize(features, dim=-1)


def _in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Returns the module itself if it is on the CPU in `dtype`, else a copy that is."""
    if all(p.device.type == "cpu" and p.dtype in (dtype, torch.int64) for p in module.parameters()):
        return module
    return copy.deepcopy(module).to(device="cpu", dtype=dtype)


def _traced(graph: nn.Module, inputs: Mapping[str, torch.Tensor], dynamic: Mapping[str, Mapping[int, str]]) -> Any:
    require("onnxscript", "export")
    shapes = tuple(dict.fromkeys(dynamic[name], torch.export.Dim.DYNAMIC) for name in inputs)
    program: Any = torch.export.export(graph.eval(), tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
    with _quiet():
        traced: Any = torch.onnx.export(
            program,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            verbose=False,
        )
    _name_dimensions(traced.model, dynamic)
    for part in (traced.model, traced.model.graph, *traced.model.graph.all_nodes()):
        # Stack traces: the size of a small model, and the paths of the machine that exported it.
        part.metadata_props.clear()
        part.doc_string = None
    return traced.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from reporting that torchvision is absent, and what its own code will have to change."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_dimensions(model: Any, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Names symbols such as s43 by what they count; several symbols can stand for the batch."""
    import onnx_ir as ir

    names = {str(value.shape[axis]): name for value in model.graph.inputs for axis, name in dynamic[value.name].items()}
    values = [*model.graph.inputs, *(output for node in model.graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.shape is None or value.shape.is_static():
            continue
        named = [
            dim if isinstance(dim, int) else re.sub(r"\w+", lambda m: names.get(m[0], m[0]), str(dim))
            for dim in value.shape
        ]
        value.shape = ir.Shape(named)
