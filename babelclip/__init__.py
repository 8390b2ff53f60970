"""babelclip: one embedding space for pictures and for text in every language.

The public names load on first use, so `import babelclip` stays fast and needs neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babelclip.data.captions import Captions as Captions
    from babelclip.data.captions import read_captions as read_captions
    from babelclip.models.checkpoints import load as load
    from babelclip.models.clip import Clip as Clip
    from babelclip.models.clip import pair as pair
    from babelclip.models.image import ImageEncoder as ImageEncoder
    from babelclip.models.text import TextEncoder as TextEncoder
    from babelclip.registry import list_models as list_models
    from babelclip.store import EmbeddingStore as EmbeddingStore

__version__ = "0.1.0"

_HOMES = {
    "Captions": "babelclip.data.captions",
    "Clip": "babelclip.models.clip",
    "EmbeddingStore": "babelclip.store",
    "ImageEncoder": "babelclip.models.image",
    "TextEncoder": "babelclip.models.text",
    "list_models": "babelclip.registry",
    "load": "babelclip.models.checkpoints",
    "pair": "babelclip.models.clip",
    "read_captions": "babelclip.data.captions",
}
__all__ = [
    "Captions",
    "Clip",
    "EmbeddingStore",
    "ImageEncoder",
    "TextEncoder",
    "list_models",
    "load",
    "pair",
    "read_captions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'babelclip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
