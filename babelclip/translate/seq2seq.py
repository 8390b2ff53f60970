"""What OPUS-MT and NLLB share: texts to tokens, generation by CTranslate2 or by transformers, tokens to texts.

A model reads a few hundred tokens at most, and does worse on long texts than on sentences. A longer text is split, at
the ends of sentences where it has them, translated in pieces and joined: nothing is cut off.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from babelclip import languages
from babelclip.models.batching import token_batches
from babelclip.translate.checkpoint import Checkpoint, load_model
from babelclip.translate.ctranslate import CTranslateModel, UnsupportedError, place_of

_log = logging.getLogger(__name__)

# Tokens of a piece. Captions have about 15; models were trained on sentences.
_LONGEST = 200
# A translation may have this many times the tokens of its source, and some more: scripts differ in how they are cut.
_GROWTH, _EXTRA = 3, 20
_TORCH_TOKENS = 2048
_WITHOUT_SPACES = ("Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")
# A source with more unknown pieces than this was not written in what the vocabulary spells.
_MOSTLY_UNKNOWN = 0.3


class Settings(NamedTuple):
    """How neural models run. See `babelclip.translate.engine.open_engine`."""

    compute: str
    device: str
    beam_size: int
    threads: int


class Generator(Protocol):
    """A loaded model.

    Attributes:
        runtime: "ctranslate2" or "transformers".
    """

    runtime: str

    def generate(self, batch: Sequence[Sequence[int]], prefix: int | None, max_length: int) -> list[list[int]]:
        """Returns the token ids of the best hypothesis of each of N sources, without start, prefix and end.

        Args:
            batch: N sources of T token ids, special tokens included.
            prefix: the token that every hypothesis begins with, the target language of a many-language model.
            max_length: most tokens of a hypothesis.
        """
        ...


def open_generator(checkpoint: Checkpoint, tokenizer: Any, settings: Settings) -> Generator:
    """Returns the model, by CTranslate2 where that can take it, else by transformers, with a warning."""
    try:
        return CTranslateModel(checkpoint, tokenizer, **settings._asdict())
    except UnsupportedError as error:
        _log.warning("%s runs through transformers, which is slower: %s", checkpoint.name, error)
    return TransformersModel(checkpoint, **settings._asdict())


class TransformersModel:
    """A model as transformers runs it; int8 becomes float32."""

    runtime = "transformers"

    def __init__(self, checkpoint: Checkpoint, *, compute: str, device: str, beam_size: int, threads: int) -> None:
        """Loads the model. `threads` is not looked at: torch has its own setting for the whole process."""
        import torch
        from transformers import AutoModelForSeq2SeqLM

        del threads
        kind, index = place_of(device, torch.cuda.device_count())
        self._place = torch.device(f"cuda:{index}" if kind == "cuda" else "cpu")
        dtype = getattr(torch, compute, torch.float32)
        model = load_model(AutoModelForSeq2SeqLM, checkpoint.folder, dtype=dtype if dtype.is_floating_point else None)
        self._model = model.to(self._place, dtype if dtype.is_floating_point else torch.float32)
        self._beam_size = beam_size

    def generate(self, batch: Sequence[Sequence[int]], prefix: int | None, max_length: int) -> list[list[int]]:
        """Returns the best hypothesis of each of N sources. See `Generator`."""
        import torch

        config = self._model.config
        found: list[list[int]] = [[] for _ in batch]
        for rows in token_batches([len(ids) for ids in batch], _TORCH_TOKENS):
            width = len(batch[rows[0]])
            input_ids = torch.full((len(rows), width), config.pad_token_id)
            mask = torch.zeros_like(input_ids)
            for place, row in enumerate(rows):
                input_ids[place, : len(batch[row])] = torch.tensor(batch[row])
                mask[place, : len(batch[row])] = 1
            with torch.inference_mode():
                generated = self._model.generate(
                    input_ids=input_ids.to(self._place),
                    attention_mask=mask.to(self._place),
                    num_beams=self._beam_size,
                    do_sample=False,
                    max_new_tokens=max_length,
                    forced_bos_token_id=prefix,
                    forced_eos_token_id=None,  # of the checkpoint: it would cost the last token of a cut hypothesis
                )
            skipped = 1 if prefix is None else 2  # the decoder's start, and the prefix
            for row, ids in zip(rows, generated[:, skipped:].tolist(), strict=True):
                end = ids.index(config.eos_token_id) if config.eos_token_id in ids else len(ids)
                found[row] = [token for token in ids[:end] if token != config.pad_token_id]
        return found


def translate_texts(
    texts: Sequence[str],
    *,
    encode: Callable[[list[str]], list[list[int]]],
    generate: Callable[[Sequence[Sequence[int]], int], list[list[int]]],
    decode: Callable[[list[list[int]]], list[str]],
    positions: int,
    target: str,
) -> list[str]:
    """Returns the translations of N texts; one of blanks alone becomes "".

    Args:
        texts: N texts of any length.
        encode: texts to token ids with special tokens.
        generate: sources and the most tokens of a hypothesis to hypotheses.
        decode: token ids to texts.
        positions: the most tokens that the model can read or write.
        target: BCP-47, for how pieces are joined.
    """
    longest = max(1, min(_LONGEST, positions // 2))
    pieces = [_split(text, encode, longest) for text in texts]
    tokens = [ids for of_text in pieces for ids in of_text]
    if not tokens:
        return ["" for _ in texts]
    room = min(positions - 2, _GROWTH * max(map(len, tokens)) + _EXTRA)
    decoded = iter(text.strip() for text in decode(generate(tokens, max(1, room))))
    joint = "" if languages.script(target) in _WITHOUT_SPACES else " "
    return [joint.join(text for text in [next(decoded) for _ in of_text] if text) for of_text in pieces]


def warn_if_unknown(name: str, tokens: Sequence[Sequence[int]], unknown: int | None) -> bool:
    """Logs that a model cannot spell its sources, and returns whether it did.

    Published checkpoints with a vocabulary that does not belong to their tokenizer exist (opus-mt-tc-big-en-ko): they
    translate fluently, but not what they were given.
    """
    total = sum(map(len, tokens))
    share = sum(ids.count(unknown) for ids in map(list, tokens)) / total if total and unknown is not None else 0.0
    if share <= _MOSTLY_UNKNOWN:
        return False
    _log.warning(
        "%s has no entry for %.0f %% of the pieces of these texts: they are not in its source language, or its "
        "vocabulary is broken. Look at the translations before you use them.",
        name,
        100 * share,
    )
    return True


def _split(text: str, encode: Callable[[list[str]], list[list[int]]], longest: int) -> list[list[int]]:
    """Returns the token ids of a text in pieces of at most `longest` tokens; none for a blank text."""
    if not text.strip():
        return []
    ids = encode([text])[0]
    if len(ids) <= longest or len(text.strip()) < 2:
        return [ids]
    middle = len(text) // 2
    for pattern in (r"(?<=[.!?…。！？])\s*(?=\S)", r"\s+"):
        breaks = [match.end() for match in re.finditer(pattern, text) if text[: match.end()].strip()]
        near = min((end for end in breaks if end < len(text)), key=lambda end: abs(end - middle), default=0)
        if near and abs(near - middle) <= len(text) * 3 // 8:
            middle = near
            break
    return _split(text[:middle], encode, longest) + _split(text[middle:], encode, longest)
