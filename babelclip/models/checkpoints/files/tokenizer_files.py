"""The tokenizer of a published folder: `tokenizer.json` as it stands, or built from the older vocabulary files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from babelclip.errors import BabelclipError, of_rust, require
from babelclip.files import read_json
from babelclip.models.checkpoints.files.sentencepiece_file import siglip_tokenizer, xlmr_tokenizer
from babelclip.models.tokenization import TextTokenizer

FAST = "tokenizer.json"
SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
VOCABULARIES = ("vocab.txt", "vocab.json", *SENTENCEPIECE)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
# Models with XLM-R's tokenizer; old folders of theirs do not name it.
_XLMR_TYPES = ("xlm-roberta", "M-CLIP", "altclip", "metaclip_2")
# A tokenizer_config.json without a limit says 10^30 tokens.
_NO_LIMIT = 1_000_000


def read_tokenizer(
    folder: Path,
    *,
    max_length: int,
    cleaning: str = "none",
    pad_to: int | None = None,
    language: str | None = None,
    eos_id: int | None = None,
    pad_id: int | None = None,
    model_type: str | None = None,
) -> TextTokenizer:
    """Returns the tokenizer of a model folder.

    Args:
        folder: holds tokenizer.json, vocab.txt, vocab.json with merges.txt, or a sentencepiece model.
        max_length: most tokens of a text; the folder's own `model_max_length` where that is less.
        cleaning: what is done to texts first (see `cleaning.py`).
        pad_to: see `TextTokenizer`.
        language: see `TextTokenizer`.
        eos_id: see `TextTokenizer`.
        pad_id: the id for padding; None takes it from the folder's files.
        model_type: of the body, which decides how vocabulary files are read; None takes the config's. Layouts with a
            type of their own (M-CLIP) must say it.

    Raises:
        BabelclipError: there is no tokenizer, or it is damaged.
        MissingExtraError: a sentencepiece model of another family than XLM-R's and SigLIP's without tokenizer.json, and
            sentencepiece is not installed.
    """
    tokenizer = _fast(folder / FAST) if (folder / FAST).is_file() else _converted(folder, model_type)
    if language is not None:
        # NLLB's files of 2022 put the language behind the text. `TextTokenizer` sets the first token of every text.
        end, end_id = "</s>", tokenizer.token_to_id("</s>")
        if end_id is None:
            raise BabelclipError(
                f"{folder} has a tokenizer without the token {end}, so it is none of NLLB's, which the text tower "
                "needs. Copy tokenizer.json of the model's text encoder there."
            )
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{end} $A {end}", special_tokens=[(end, end_id)]
        )
    limit = _setting(folder, "model_max_length")
    if isinstance(limit, (int, float)) and 0 < limit < _NO_LIMIT:
        max_length = min(max_length, int(limit))
    return TextTokenizer(
        tokenizer,
        max_length=max_length,
        pad_id=_pad_id(folder, tokenizer) if pad_id is None else pad_id,
        cleaning=cleaning,
        pad_to=pad_to,
        eos_id=eos_id,
        language=language,
    )


def wanted(names: list[str]) -> list[str]:
    """Returns which of a repository's files `read_tokenizer` reads: tokenizer.json, else the vocabulary files."""
    vocabulary = [FAST] if FAST in names else [name for name in names if name in VOCABULARIES]
    return vocabulary + [name for name in names if name in SETTINGS]


def _fast(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except BaseException as error:  # the Rust side raises a bare Exception, or panics
        if not of_rust(error):
            raise
        raise BabelclipError(f"{path} is not a tokenizer.json ({error}). Copy it again from its origin.") from error


def _converted(folder: Path, model_type: str | None) -> Tokenizer:
    found = [name for name in VOCABULARIES if (folder / name).is_file()]
    if not found:
        raise BabelclipError(
            f"{folder} has no tokenizer: none of {FAST}, {', '.join(VOCABULARIES)}. Copy the tokenizer's files of the "
            'model\'s origin there, or load the picture tower alone with towers="image".'
        )
    if found[0] in SENTENCEPIECE:
        built_here = _from_sentencepiece(folder, found[0])
        if built_here is not None:
            return built_here
        require("sentencepiece", "legacy")
        require("google.protobuf", "legacy")
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = None if model_type is None else AutoConfig.for_model(model_type)
        built = AutoTokenizer.from_pretrained(
            str(folder), config=config, local_files_only=True, trust_remote_code=False
        )
        tokenizer: Tokenizer = built.backend_tokenizer
    except Exception as error:  # transformers raises whatever its converters meet in a damaged file
        raise BabelclipError(
            f"{folder / found[0]} gives no tokenizer ({type(error).__name__}: {error}). "
            f"Copy it again from its origin, or put the model's {FAST} beside it."
        ) from error
    return tokenizer


def _from_sentencepiece(folder: Path, name: str) -> Tokenizer | None:
    """Returns the tokenizer of a sentencepiece model whose family is known; None leaves it to transformers."""
    kind = str(_setting(folder, "tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    if not kind and (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        known = isinstance(config, dict) and config.get("model_type") in _XLMR_TYPES
        kind = "XLMRoberta" if known else ""
    if (name, kind) == ("sentencepiece.bpe.model", "XLMRoberta"):
        return xlmr_tokenizer(folder / name)
    if (name, kind) == ("spiece.model", "Siglip"):
        return siglip_tokenizer(folder / name)
    return None


def _pad_id(folder: Path, tokenizer: Tokenizer) -> int:
    """Returns the id for padding by the folder's settings, its config, or the usual names; 0 where none is known."""
    token = _setting(folder, "pad_token")
    named = token.get("content") if isinstance(token, dict) else token
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    stated = config.get("pad_token_id") if isinstance(config, dict) else None
    ids = [tokenizer.token_to_id(named) if isinstance(named, str) else None, stated]
    ids += [tokenizer.token_to_id(name) for name in ("<pad>", "[PAD]")]
    return next((found for found in ids if isinstance(found, int)), 0)


def _setting(folder: Path, name: str) -> Any:
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        content = read_json(folder / file) if (folder / file).is_file() else {}
        if isinstance(content, dict) and content.get(name) is not None:
            return content[name]
    return None
