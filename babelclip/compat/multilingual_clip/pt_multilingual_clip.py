"""`MultilingualCLIP`, as the original module of this name has it: the M-CLIP models of 2022.

from babelclip.compat.multilingual_clip import pt_multilingual_clip
import transformers

model = pt_multilingual_clip.MultilingualCLIP.from_pretrained("M-CLIP/XLM-Roberta-Large-Vit-L-14")
tokenizer = transformers.AutoTokenizer.from_pretrained("M-CLIP/XLM-Roberta-Large-Vit-L-14")
vectors = model.forward(["två hundar i snön", "两只狗"], tokenizer)      # torch float32 (2, 768), not normalised
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from babelclip.compat.multilingual_clip.Config_MCLIP import MCLIPConfig
from babelclip.compat.multilingual_clip.steps import folder_of, mean_of_states
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import mclip, transformer
from babelclip.models.text import TextEncoder

Text = str | Sequence[str]


class MultilingualCLIP(nn.Module):
    """A backbone `transformer` and a linear layer `LinearTransformation`, named as in the checkpoints.

    Upstream facts: texts are neither cut nor cleaned, the mean is over all tokens with the special ones, the vectors
    are not normalised and keep their gradient graph. The original is a `transformers.PreTrainedModel`; this is a plain
    module, so `.eval()`, `.to(device)`, `.state_dict()` work and `push_to_hub` does not.
    """

    config_class = MCLIPConfig

    def __init__(
        self, config: MCLIPConfig, *, cache_dir: str | Path | None = None, text: TextEncoder | None = None
    ) -> None:
        """Builds the model from its parts, or as the original does: `modelBase` with weights, and a new linear layer.

        Args:
            config: names the backbone (a transformers folder or hub repository, read with its weights) and the sizes.
            cache_dir: the hub's cache.
            text: a loaded text tower to take instead; `from_pretrained` passes it.

        Raises:
            BabelclipError: `modelBase` cannot be read, or its width is not `transformerDimensions`.
        """
        super().__init__()
        self.config = config
        if text is not None:
            self.transformer, self.LinearTransformation = text.backbone, text.head[0]
            return
        folder = folder_of(config.modelBase, transformer.wanted, cache_dir)
        base = transformer.load(folder, "text").text
        if base is None or base.width != config.transformerDimensions:
            raise BabelclipError(
                f"modelBase {config.modelBase!r} has width {base and base.width}, not {config.transformerDimensions}. "
                "Give its width as transformerDimSize."
            )
        self.transformer = base.backbone
        self.LinearTransformation = nn.Linear(config.transformerDimensions, config.numDims)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        cache_dir: str | Path | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> MultilingualCLIP:
        """Returns an M-CLIP of 2022 in eval mode, on the CPU, in float32 unless `torch_dtype` says otherwise.

        Args:
            pretrained_model_name_or_path: a folder, which never needs the network, or a hub repository.
            cache_dir: the hub's cache; its ordinary place by default.
            torch_dtype: for example torch.float16.

        Raises:
            BabelclipError: it cannot be had or read (see `babelclip.load`), or is no M-CLIP of 2022.
        """
        folder = folder_of(pretrained_model_name_or_path, mclip.wanted, cache_dir)
        if not mclip.recognises(folder):
            raise BabelclipError(
                f"{pretrained_model_name_or_path} is no M-CLIP of 2022: its config.json must say model_type M-CLIP. "
                "babelclip.load reads models of other layouts."
            )
        config = MCLIPConfig.from_pretrained(folder)
        text = mclip.load(folder, "text").text
        model = cls(config, text=text).float().eval()
        return model if torch_dtype is None else model.to(torch_dtype)

    def forward(self, txt: Text, tokenizer: Callable[..., Any]) -> torch.Tensor:
        """Returns text features (N, D), not normalised, with gradients, in the model's dtype and on its device.

        Args:
            txt: one string, which gives (1, D), or a list of N.
            tokenizer: a transformers tokenizer, used as it is: `tokenizer(txt, padding=True, return_tensors="pt")`.

        Raises:
            BabelclipError: a text has more tokens than the backbone has positions.
        """
        tokens = tokenizer(txt, padding=True, return_tensors="pt")
        features: torch.Tensor = self.LinearTransformation(mean_of_states(self.transformer, tokens))
        return features
