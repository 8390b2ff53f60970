"""How a model's texts are encoded in a language, and what a result says of that language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip import languages
from babelclip.models.clip import Clip

# Texts to vectors (N, D).
Encode = Callable[[Sequence[str]], npt.NDArray[np.floating[Any]]]


def encoder_in(model: Any, lang: str) -> Encode:
    """Returns what encodes texts of one language to vectors (N, D) float32, rows L2-normalised.

    Models whose first token names the language (NLLB-CLIP) are told it. A language that the model does not declare
    brings no warning here: its results carry a note instead.

    Args:
        model: a `Clip`, or anything with `encode_text(texts)`.
        lang: BCP-47 code.
    """
    if isinstance(model, Clip) and model.text is not None:
        tower = model.text
        return lambda texts: tower.encode(list(texts), lang=lang)
    return lambda texts: np.asarray(model.encode_text(list(texts)))


def declares(model: object, lang: str) -> bool | None:
    """Returns whether the model was made for a language; None where it does not say for which it was."""
    declared = tuple(getattr(model, "languages", ()))
    return languages.covers(declared, lang) if declared else None


def language_notes(lang: str, covered: bool | None) -> list[str]:
    """Returns the note that results carry where the model does not declare the language, else none."""
    if covered is not False:
        return []
    return [f"the model does not declare {lang} ({languages.name(lang)}): what it reaches is transfer"]
