"""The English CLIP of the starter: a picture classifier and a sentence encoder, joined without training by ConSE.

Norouzi et al., 2014 (arXiv 1312.5650): the vector of a picture is the mean of the class names' text vectors, weighted
by the classifier's probabilities. With v_c the unit vector of "a photo of a {class c}" and m their mean,

    picture  f(x) = sum over c of p_c(x) (v_c - m)         text  g(t) = t / |t| - m

Taking m off both sides moves the origin into the middle of the classes, without which all cosines are nearly equal.
Both are plain layers of a head, so the result is an ordinary `Clip`. Entry point: `assemble_teacher`.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from babelclip.errors import BabelclipError
from babelclip.files import read_json
from babelclip.models.checkpoints.build import text_tower, uninitialised
from babelclip.models.checkpoints.keymap import Weights, fill
from babelclip.models.checkpoints.native import read_weights
from babelclip.models.clip import Clip
from babelclip.models.efficientnet import EfficientNetLite, EfficientNetLiteConfig
from babelclip.models.head import LayerSpec
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import Preprocess
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer
from babelclip.starter.parts import CLASS_NAMES, LITE0, MINILM, locate

SPACE = "starter/lite0-conse-minilm"
NAME = "starter teacher (English)"
PROMPT = "a photo of a {}"
ATTRIBUTION = tuple(part.attribution for part in (LITE0, MINILM, CLASS_NAMES))

# As the sentence encoder was published: longer texts are cut at 256 tokens.
_MAX_LENGTH = 256
# The padded square keeps the whole picture: 58 % R@10 on 311 cut-out photographs, against 52 % with a centre crop.
PREPROCESS = Preprocess(
    resize=224,
    crop=224,
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
    fit="pad",
)
# Of BatchNorm in the TensorFlow model that the weights come from; torch's own default is 1e-5.
_BATCH_NORM_EPS = 1e-3


def assemble_teacher() -> Clip:
    """Returns the English teacher, in eval mode, on the CPU: D = 384, no logit scale.

    Raises:
        PartError: a package is absent, of another version or damaged; the message holds the command to install it.
    """
    names = read_json(locate(CLASS_NAMES))
    return build_teacher(locate(LITE0), locate(MINILM), names)


def build_teacher(
    classifier: Path,
    sentence_encoder: Path,
    classnames: Sequence[str],
    config: EfficientNetLiteConfig | None = None,
    preprocess: Preprocess = PREPROCESS,
) -> Clip:
    """Returns the ConSE model of a classifier and a sentence encoder.

    Args:
        classifier: state dict of an EfficientNet-Lite, a torch file of tensors only.
        sentence_encoder: folder with `config.json`, `model.safetensors` and `tokenizer.json`.
        classnames: one name for each output of the classifier, in its order.
        config: shape of the classifier; None is Lite0.
        preprocess: pictures to pixels.

    Raises:
        BabelclipError: a file is damaged or does not fit the shape, or the number of names is not that of the classes.
    """
    text = read_sentence_encoder(sentence_encoder)
    state, class_weight, class_bias = read_efficientnet_lite(classifier, config or EfficientNetLiteConfig())
    if len(classnames) != len(class_weight):
        raise BabelclipError(
            f"{len(classnames)} class names were given for the {len(class_weight)} classes of {classifier}; "
            f"each class needs its name. Take those of {CLASS_NAMES.package}: {CLASS_NAMES.install}"
        )
    # The shift of the head is zero here, so these are the unit vectors v_c (C, D).
    class_vectors = text.encode([PROMPT.format(name) for name in classnames])
    mean = class_vectors.mean(axis=0)
    with torch.no_grad():
        text.get_parameter("head.1.bias").copy_(torch.from_numpy(-mean))
    image = _image_tower(
        state,
        class_weight,
        class_bias,
        class_vectors - mean,
        config or EfficientNetLiteConfig(),
        preprocess,
        classifier,
    )
    return Clip(space=SPACE, text=text, image=image, languages=("en",), name=NAME, attribution=ATTRIBUTION)


def _image_tower(
    state: dict[str, torch.Tensor],
    class_weight: torch.Tensor,
    class_bias: torch.Tensor,
    class_vectors: np.ndarray,
    config: EfficientNetLiteConfig,
    preprocess: Preprocess,
    path: Path,
) -> ImageEncoder:
    """Returns backbone, classifier and the weighted mean of class vectors (C, D) as one tower."""
    classes, embed_dim = class_vectors.shape
    head: list[LayerSpec] = [
        {"kind": "linear", "out": classes},
        {"kind": "softmax"},
        {"kind": "linear", "out": embed_dim, "bias": False},
    ]
    with uninitialised():
        image = ImageEncoder(EfficientNetLite(config), head=head, preprocess=preprocess)
    tensors = {f"backbone.{name}": tensor for name, tensor in state.items()}
    tensors |= {"head.0.weight": class_weight, "head.0.bias": class_bias}
    tensors["head.2.weight"] = torch.from_numpy(np.ascontiguousarray(class_vectors.T))
    fill(image, Weights(path, tensors))
    return image.eval()


def read_sentence_encoder(folder: Path) -> TextEncoder:
    """Returns a sentence encoder in transformers' layout: masked mean, unit length, then a shift that is zero.

    The pooler is known and left out, as sentence-transformers leaves it out too.

    Raises:
        BabelclipError: a file is missing, damaged, or does not fit `config.json`.
    """
    config: dict[str, Any] = read_json(folder / "config.json")
    # Facts of the run that wrote the file, not of the model.
    dropped = {"_name_or_path", "architectures", "gradient_checkpointing", "position_embedding_type"}
    dropped |= {"transformers_version", "use_cache", "torch_dtype", "dtype"}
    backbone_config = {name: value for name, value in config.items() if name not in dropped}
    tokenizer = TextTokenizer.from_file(
        folder / "tokenizer.json", max_length=_MAX_LENGTH, pad_id=config.get("pad_token_id") or 0
    )
    path = folder / "model.safetensors"
    tensors = {
        f"backbone.{name}": tensor
        for name, tensor in read_weights(path).items()
        if name != "embeddings.position_ids" and not name.startswith("pooler.")
    }
    tensors["head.1.bias"] = torch.zeros(config.get("hidden_size", 0))
    text = text_tower(
        backbone_config,
        pooling="mean",
        head=[{"kind": "normalize"}, {"kind": "shift"}],
        tokenizer=tokenizer,
        weights=Weights(path, tensors),
    )
    return text.eval()


def read_efficientnet_lite(
    path: Path, config: EfficientNetLiteConfig
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Returns the backbone's weights with batch norms folded in, and the classifier's weight (C, H) and bias (C,).

    Raises:
        BabelclipError: the file is no state dict, or has other tensors than this network.
    """
    source = _read_state(path)
    blocks = sum(count for _expansion, _out, count, _stride, _kernel in config.stages)
    expanded = [expansion > 1 for expansion, _out, count, _stride, _kernel in config.stages for _ in range(count)]
    layers = {"stem": ("_conv_stem", "_bn0"), "last": ("_conv_head", "_bn1")}
    for index in range(blocks):
        theirs = f"_blocks.{index}."
        if expanded[index]:
            layers[f"blocks.{index}.expand"] = (f"{theirs}_expand_conv", f"{theirs}_bn0")
        layers[f"blocks.{index}.depthwise"] = (f"{theirs}_depthwise_conv", f"{theirs}_bn1")
        layers[f"blocks.{index}.project"] = (f"{theirs}_project_conv", f"{theirs}_bn2")
    state = {}
    try:
        for ours, (convolution, norm) in layers.items():
            weight, bias = _folded(source, convolution, norm)
            state[f"{ours}.conv.weight"], state[f"{ours}.conv.bias"] = weight, bias
        class_weight, class_bias = source.pop("_fc.weight"), source.pop("_fc.bias")
    except KeyError as error:
        raise BabelclipError(f"{path} lacks the tensor {error}: it is no EfficientNet-Lite of this shape.") from error
    except RuntimeError as error:
        raise BabelclipError(f"{path} holds tensors whose shapes do not fit one another ({error}).") from error
    if source:
        raise BabelclipError(
            f"{path} holds tensors that this network has no place for: {', '.join(sorted(source)[:5])}. "
            "It is no EfficientNet-Lite of this shape."
        )
    return state, class_weight.float(), class_bias.float()


def _folded(source: dict[str, torch.Tensor], convolution: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes a convolution and its batch norm out of `source`; returns the weight and bias that do the work of both."""
    weight = source.pop(f"{convolution}.weight").double()
    gamma, beta, mean, variance = (
        source.pop(f"{norm}.{name}").double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    source.pop(f"{norm}.num_batches_tracked", None)  # counts training steps, no weight
    scale = gamma / torch.sqrt(variance + _BATCH_NORM_EPS)
    return (weight * scale[:, None, None, None]).float(), (beta - mean * scale).float()


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise BabelclipError(
            f"{path} is not a torch file of tensors only ({error}). Install its package again."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise BabelclipError(f"{path} is not a state dict, that is, names with tensors. Install its package again.")
    return dict(content)
