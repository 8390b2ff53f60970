"""`MultilingualClip`, `AVAILABLE_MODELS` and `load_model`, as the original module of this name has them: 2021's models.

The linear heads lie outside the hub: upstream's `legacy_get-weights.sh` puts them into `data/weights/`. They are
pickles; here they are read without running them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from babelclip.compat.multilingual_clip.steps import folder_of, mean_of_states
from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.checkpoints import mclip_legacy
from babelclip.models.checkpoints.files import tokenizer_files

# Upstream name -> (hub repository, file of the head). Two repositories go by another name than their model.
_PARTS = {
    "M-BERT-Distil-40": ("M-CLIP/M-BERT-Distil-40", "M-BERT Distil 40 Linear Weights.pkl"),
    "M-BERT-Base-69": ("M-CLIP/M-BERT-Base-69", "M-BERT-Base-69 Linear Weights.pkl"),
    "Swe-CLIP-500k": ("M-CLIP/Swedish-500k", "Swedish-500k Linear Weights.pkl"),
    "Swe-CLIP-2M": ("M-CLIP/Swedish-2M", "Swedish-2M Linear Weights.pkl"),
    "M-BERT-Base-ViT-B": ("M-CLIP/M-BERT-Base-ViT-B", "M-BERT-Base-69-ViT Linear Weights.pkl"),
}
AVAILABLE_MODELS = {
    name: {"model_name": repository, "tokenizer_name": repository, "head_name": head}
    for name, (repository, head) in _PARTS.items()
}


class MultilingualClip(nn.Module):
    """A backbone `transformer`, a linear layer `clip_head` and its own `tokenizer`.

    Upstream facts: the layer is declared with 640 outputs and then gets the head's weights, so M-BERT-Base-ViT-B gives
    512 while `out_features` says 640; here `out_features` is what the head has. Vectors are not normalised. Texts of
    more tokens than the backbone has positions end in an index error upstream; here they are cut.
    """

    def __init__(
        self,
        model_name: str,
        tokenizer_name: str,
        head_name: str,
        weights_dir: str = "data/weights/",
        cache_dir: str | Path | None = None,
    ) -> None:
        """Loads the parts, in eval mode, on the CPU.

        Args:
            model_name: a transformers folder, or a hub repository.
            tokenizer_name: where the tokenizer lies, likewise.
            head_name: the head's file name in `weights_dir`; the model's own folder is looked into as well.
            weights_dir: where upstream's script puts the heads.
            cache_dir: the hub's cache; its ordinary place by default.

        Raises:
            BabelclipError: a part is missing, damaged or does not fit the others.
        """
        super().__init__()
        from transformers import AutoTokenizer

        self.model_name, self.tokenizer_name = model_name, tokenizer_name
        folder = folder_of(model_name, mclip_legacy.wanted, cache_dir)
        same = tokenizer_name == model_name
        tokenizer_folder = folder if same else folder_of(tokenizer_name, _tokenizer_files, cache_dir)
        self.head_path = str(_head_file(Path(weights_dir) / head_name, folder))
        text = mclip_legacy.load(folder, "text", head=Path(self.head_path)).text
        assert text is not None  # the reader has no other tower
        self.tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder), local_files_only=True)
        self.transformer, self.clip_head = text.backbone, text.head[0]
        self.max_length = text.tokenizer.max_length
        self.float().eval()

    def forward(self, txt: str | Sequence[str]) -> torch.Tensor:
        """Returns text features (N, D) float32, not normalised, with gradients; one string gives (1, D)."""
        texts = [txt] if isinstance(txt, str) else list(txt)
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        features: torch.Tensor = self.clip_head(mean_of_states(self.transformer, tokens))
        return features


def load_model(name: str, cache_dir: str | Path | None = None) -> MultilingualClip:
    """Returns one of `AVAILABLE_MODELS`.

    Raises:
        BabelclipError: the name is none of them, or a part cannot be had.
    """
    if name not in AVAILABLE_MODELS:
        raise BabelclipError(f"{name!r} is no M-CLIP of 2021. {did_you_mean(name, AVAILABLE_MODELS)}")
    return MultilingualClip(**AVAILABLE_MODELS[name], cache_dir=cache_dir)


def _tokenizer_files(names: list[str], _towers: str) -> list[str]:
    return [name for name in names if name == "config.json"] + tokenizer_files.wanted(names)


def _head_file(path: Path, folder: Path) -> Path:
    """Returns where the head lies: at `path`, or under the same name in the model's folder."""
    for candidate in (path, folder / path.name):
        if candidate.is_file():
            return candidate
    raise BabelclipError(
        f"{path} does not exist, and {folder} has no such file. The heads of M-CLIP 2021 lie outside the hub: the "
        "script legacy_get-weights.sh of github FreddeFrallan/Multilingual-CLIP fetches them. Put the file there, or "
        "name its folder as weights_dir."
    )
