"""MetaCLIP 2 in transformers layout (`metaclip_2`, transformers 4.56 and later).

The architecture of CLIP (see `clip` and `two_tower`) with the XLM-V tokenizer. Its end-of-text id really is 2: texts
are pooled at the first 2, which comes with no exception for old configs. Pictures are squashed to the square, as the
published processor says; gelu or quick_gelu as the config says.
"""

from __future__ import annotations

from pathlib import Path

from babelclip.models.checkpoints import clip, two_tower
from babelclip.models.clip import Clip

NAME = "metaclip2"
_FAMILY = "metaclip_2"


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a MetaCLIP 2, or one tower of it, as its config says."""
    return two_tower.model_type(folder) in (_FAMILY, f"{_FAMILY}_text_model", f"{_FAMILY}_vision_model")


wanted = two_tower.wanted


def load(folder: Path, towers: str) -> Clip:
    """Returns the towers of a MetaCLIP 2 folder, on the CPU; a tower not asked for is neither read nor built.

    Raises:
        BabelclipError: a file is missing or damaged, or config and tensors do not fit; it names file and tensors.
    """
    config = two_tower.read_towers(folder, _FAMILY, towers)
    return clip.load_towers(folder, config, towers, pooled_id=clip.end_of_text(config))
