"""The tokenizer of an open_clip folder, set up as `open_clip.get_tokenizer` does it for the config.

Without `hf_tokenizer_name` it is CLIP's English one. With it, open_clip takes a local folder's own files, and for a hub
repository those of the repository so named. The two can differ: NLLB-CLIP's repositories carry the files of the
English CLIP. The folder's files are read here if they fit the text tower; otherwise `TokenizerNeededError` says whose
are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.checkpoints.files.tokenizer_files import FAST, VOCABULARIES, read_tokenizer
from babelclip.models.checkpoints.openclip_bpe import read_english
from babelclip.models.checkpoints.openclip_native import not_readable
from babelclip.models.tokenization import TextTokenizer

CONTEXT_LENGTH = 77
# A sub-folder for the tokenizer where the folder's own files are another model's.
SUBFOLDER = "tokenizer"
_CLEANINGS = ("whitespace", "lower", "canonicalize")
# Tables of embeddings are rounded up, and tokenizers list added tokens that no table has: NLLB has 2 rows more, T5's
# vocabulary 100 tokens more. Another model's tokenizer is further off.
_SPARE_ROWS, _SPARE_TOKENS = 0.1, 256


class TokenizerNeededError(BabelclipError):
    """A folder lacks the tokenizer of its text tower; `repository` is the hub repository that has it."""

    def __init__(self, folder: Path, repository: str, reason: str) -> None:
        """Takes the model's folder, the name in its config, and what is wrong with the folder's own files."""
        super().__init__(
            f"{folder}: {reason}. The text tower needs the tokenizer of {repository}: "
            f"hf download {repository} tokenizer.json tokenizer_config.json --local-dir {folder / SUBFOLDER}. "
            'The picture tower loads without: towers="image".'
        )
        self.repository = repository


def tokenizer_place(folder: Path) -> Path:
    """Returns where in a model's folder its tokenizer lies: the sub-folder `tokenizer` where there is one."""
    return folder / SUBFOLDER if (folder / SUBFOLDER).is_dir() else folder


def read_clip_tokenizer(
    folder: Path,
    text: Mapping[str, Any],
    path: Path,
    *,
    vocab_size: int,
    max_length: int | None = None,
    **settings: Any,
) -> TextTokenizer:
    """Returns the tokenizer in `folder` with the cleaning and the length that the config asks for.

    Args:
        folder: holds the tokenizer's files.
        text: the config's `text_cfg`.
        path: the config's file, for messages.
        vocab_size: rows of the tower's table of tokens.
        max_length: most tokens of a text; None takes the config's context length.
        settings: those of `TextTokenizer`.

    Raises:
        TokenizerNeededError: the files are missing or another model's, and the config names the right ones.
        BabelclipError: the config asks for something else than these tokenizers do, or a file is damaged.
    """
    options = dict(text.get("tokenizer_kwargs") or {})
    repository = str(text.get("hf_tokenizer_name") or "")
    cleaning = options.pop("clean", "whitespace" if repository else "lower")
    options = {key: value for key, value in options.items() if value not in (None, False, "")}
    if options:
        raise not_readable(path, f"tokenizer_kwargs = {options}", '"clean" alone')
    if cleaning not in _CLEANINGS:
        raise BabelclipError(f"{path}: cleaning {cleaning!r} is not known. {did_you_mean(str(cleaning), _CLEANINGS)}")
    length = int(max_length or text.get("context_length", CONTEXT_LENGTH))
    if not repository:
        return read_english(folder, max_length=length, cleaning=cleaning, vocab_size=vocab_size)
    if not any((folder / name).is_file() for name in (FAST, *VOCABULARIES)):
        raise TokenizerNeededError(path.parent, repository, "it holds no tokenizer")
    # The fit is checked before the language, whose token another model's tokenizer lacks.
    plain = {key: value for key, value in settings.items() if key != "language"}
    tokenizer = read_tokenizer(folder, max_length=length, cleaning=cleaning, **plain)
    size = tokenizer.vocabulary_size
    if not (1 - _SPARE_ROWS) * vocab_size <= size <= vocab_size + _SPARE_TOKENS:
        reason = f"its tokenizer has {size} tokens where the text tower has {vocab_size}, so it is another model's"
        raise TokenizerNeededError(path.parent, repository, reason)
    if settings.get("language") is not None:
        return read_tokenizer(folder, max_length=length, cleaning=cleaning, **settings)
    return tokenizer
