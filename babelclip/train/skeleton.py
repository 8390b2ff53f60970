"""Models without weights: what a name stands for, built to be counted where the model itself is not on this machine.

Tensors are torch's fake ones: they have shapes and types, and no memory. Sizes come from
`models/checkpoints/backbones`, from the registry's cards, and from the names of CLIP's picture towers. Entry points:
`Fake`, `text_skeleton`, `image_skeleton`.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import nn

from babelclip import registry
from babelclip.models.checkpoints.build import uninitialised
from babelclip.models.checkpoints.text_body import MOST_TOKENS, published_backbones, room
from babelclip.models.image import ImageEncoder, build_image_backbone
from babelclip.models.preprocess import Preprocess
from babelclip.models.text import TextEncoder, build_text_backbone
from babelclip.models.tokenization import TextTokenizer

Module = TypeVar("Module", bound=nn.Module)

# What cards call a backbone in words, and its name among the published ones.
_IN_WORDS = {
    "bert base, english": "bert-base-uncased",
    "bert large, english": "bert-large-uncased",
    "distilbert, english": "distilbert-base-uncased",
    "roberta large, english": "roberta-large",
    "bert base, swedish": "KB/bert-base-swedish-cased",
}
# Vision transformers of CLIP (Radford et al., arXiv 2103.00020, table 20; OpenCLIP's model configs): width, layers,
# heads, patch, pixels. The longer name comes first.
_VISION = {
    "vit-b-16-plus": (896, 12, 14, 16, 240),
    "vit-b-32": (768, 12, 12, 32, 224),
    "vit-b-16": (768, 12, 12, 16, 224),
    "vit-l-14-336": (1024, 24, 16, 14, 336),
    "vit-l-14": (1024, 24, 16, 14, 224),
    "vit-h-14": (1280, 32, 16, 14, 224),
}


class Fake:
    """`with Fake() as fake:` tensors and modules are made without memory, and computed without numbers.

    The same object may be entered again; what was made in it goes on living in it.
    """

    def __init__(self) -> None:
        """Makes the mode; nothing is changed until it is entered."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        self._mode, self._open = FakeTensorMode(), contextlib.ExitStack()

    def __enter__(self) -> Fake:
        """Begins to make tensors without memory."""
        self._open.enter_context(self._mode)
        self._open.enter_context(uninitialised())
        return self

    def __exit__(self, *reason: object) -> None:
        """Makes tensors as usual again."""
        self._open.close()

    def copied(self, module: Module) -> Module:
        """Returns a copy of a module without memory; to be called while the mode is not entered."""
        from torch._subclasses.fake_tensor import FakeCopyMode

        with FakeCopyMode(self._mode):
            return copy.deepcopy(module)


def text_skeleton(name: str) -> TextEncoder | None:
    """Returns the text encoder that a name stands for, masked mean, without a head; None where nothing is known of it.

    Within `Fake` it costs no memory.
    """
    config = body_of(name)
    if config is None:
        return None
    positions = min(MOST_TOKENS, room({"max_position_embeddings": MOST_TOKENS, **config}))
    backbone = build_text_backbone(config)
    return TextEncoder(backbone, pooling="mean", head=[], tokenizer=_no_tokenizer(positions))


def body_of(name: str) -> dict[str, Any] | None:
    """Returns the config of the backbone that a name, or the folder of a copy of it, stands for; None if unknown."""
    known = {key.lower(): config for key, config in published_backbones().items()}
    for candidate in _names(name):
        if candidate in known:
            return dict(known[candidate])
        card = registry.find(candidate)
        if card is not None and card.text_backbone:
            words = card.text_backbone.lower()
            of_card = _IN_WORDS.get(words, words.removesuffix(", encoder only")).lower()
            if of_card in known:
                return dict(known[of_card])
    return None


def image_skeleton(name: str) -> ImageEncoder | None:
    """Returns the picture tower that a name stands for, with the linear head of CLIP; None if unknown."""
    sizes, embed_dim = vision_of(name), dim_of(name)
    if sizes is None or embed_dim is None:
        return None
    width, layers, heads, patch, pixels = sizes
    config = {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "patch_size": patch,
        "image_size": pixels,
    }
    head = [{"kind": "linear", "out": embed_dim, "bias": False}]
    return ImageEncoder(
        build_image_backbone(config), head=head, preprocess=Preprocess(resize=pixels, crop=pixels)
    ).eval()


def vision_of(name: str) -> tuple[int, int, int, int, int] | None:
    """Returns width, layers, heads, patch and pixels of the vision transformer in a name or on its card."""
    words = [*_names(name)]
    for candidate in _names(name):
        card = registry.find(candidate)
        if card is not None:
            words += [card.image_backbone, card.space, *card.aliases]
    text = " ".join(re.sub(r"[/_ ]", "-", word.lower()) for word in words)
    return next((sizes for key, sizes in _VISION.items() if key in text), None)


def dim_of(name: str) -> int | None:
    """Returns the dimensions of a published model, or of a space, by its name; None if unknown."""
    for candidate in _names(name):
        card = registry.find(candidate)
        if card is not None:
            return card.embed_dim
    return next((card.embed_dim for card in registry.cards() if card.space == name), None)


def _names(name: str) -> Iterator[str]:
    """Yields what a name or the path of a copy may be called, whole first, in lower case."""
    parts = [part for part in name.lower().replace("\\", "/").split("/") if part]
    whole = dict.fromkeys(["/".join(parts), "/".join(parts[-2:]), *parts[-1:]])
    yield from whole
    for card in registry.cards():
        if parts and card.repo.lower().endswith("/" + parts[-1]):
            yield card.name.lower()


def _no_tokenizer(max_length: int) -> TextTokenizer:
    from tokenizers import Tokenizer, models

    return TextTokenizer(Tokenizer(models.WordLevel({"": 0}, unk_token="")), max_length=max_length, pad_id=0)
