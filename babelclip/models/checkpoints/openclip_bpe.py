"""The English byte pair tokenizer of OpenAI's CLIP, token for token as open_clip's `SimpleTokenizer` has it.

Its merges lie in a folder in one of three forms: `tokenizer.json`, `merges.txt` (with `vocab.json`), or the original's
`bpe_simple_vocab_16e6.txt.gz`. Everything else follows from them: 256 bytes, the same at the end of a word, one token
for each merge, start and end of text. The tokenizer is therefore built from the merges in every case. transformers'
form differs in two details: it knows the special tokens by other spellings, and composes characters (NFC) after
entities such as `&eacute;` are resolved, where the original does so before.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from babelclip.errors import BabelclipError
from babelclip.files import read_json
from babelclip.models.tokenization import TextTokenizer

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
# The original's file goes on behind the merges that it uses.
MERGES = 48894
_END = "</w>"
_START_OF_TEXT, _END_OF_TEXT = "<start_of_text>", "<end_of_text>"
_WORDS = r"<start_of_text>|<end_of_text>|'[sſ]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Merges = list[tuple[str, str]]


def read_english(folder: Path, *, max_length: int, cleaning: str, vocab_size: int) -> TextTokenizer:
    """Returns the tokenizer from the merges in `folder`.

    Args:
        folder: the model's folder.
        max_length: most tokens of a text; the last one is the end of text, for truncated texts too.
        cleaning: what is done to texts first; the original lower-cases ("lower").
        vocab_size: tokens that the model knows, for a check.

    Raises:
        BabelclipError: none of the files is there, or one is damaged or of another tokenizer.
    """
    path, merges = _merges(folder)
    tokenizer = build_english(merges)
    if tokenizer.get_vocab_size() != vocab_size:
        raise BabelclipError(
            f"{path} gives {tokenizer.get_vocab_size()} tokens, and the model knows {vocab_size}. "
            "The tokenizer must be the model's own: copy it from the model's origin."
        )
    end = vocab_size - 1
    return TextTokenizer(tokenizer, max_length=max_length, pad_id=0, cleaning=cleaning, eos_id=end)


def build_english(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Returns the tokenizer for cleaned text: `<start_of_text> text <end_of_text>`."""
    letters = _letters()
    tokens = [*letters, *(letter + _END for letter in letters), *("".join(pair) for pair in merges)]
    tokens += [_START_OF_TEXT, _END_OF_TEXT]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), end_of_word_suffix=_END))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ends = [(token, vocabulary[token]) for token in (_START_OF_TEXT, _END_OF_TEXT)]
    tokenizer.add_special_tokens([token for token, _index in ends])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START_OF_TEXT} $A {_END_OF_TEXT}", special_tokens=ends
    )
    return tokenizer


def _letters() -> list[str]:
    """Returns the characters that stand for the 256 bytes, in the order of their ids.

    Printable bytes of Latin-1 come first and stand for themselves, the others follow as U+0100 and on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def _merges(folder: Path) -> tuple[Path, Merges]:
    """Returns the file that states the merges, and these."""
    readers = {"tokenizer.json": _from_json, "merges.txt": _from_text, MERGES_FILE: _from_gzip}
    for name, reader in readers.items():
        path = folder / name
        if path.is_file():
            try:
                merges = reader(path)
                build_english(merges)
            except BabelclipError:
                raise
            except Exception as error:  # the Rust side raises a bare one for merges of unknown tokens
                raise _foreign(path, error) from error
            return path, merges
    raise BabelclipError(
        f"{folder} has no tokenizer, which the text tower needs: none of {', '.join(readers)}. Put one of them there, "
        "for example tokenizer.json of any CLIP with the English vocabulary, or open_clip's file "
        f'{MERGES_FILE}. The picture tower loads without: towers="image".'
    )


def _from_json(path: Path) -> Merges:
    model = read_json(path)["model"]
    if model["type"] != "BPE" or model["end_of_word_suffix"] != _END:
        raise ValueError(f"a {model['type']} model")
    return [_pair(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]


def _from_text(path: Path) -> Merges:
    return _lines(path.read_text(encoding="utf-8"))


def _from_gzip(path: Path) -> Merges:
    with gzip.open(path) as file:
        # Bounded: the original unpacks to 3.4 MB, and a few bytes of gzip can stand for gigabytes.
        return _lines(file.read(16 << 20).decode("utf-8"))[:MERGES]


def _lines(text: str) -> Merges:
    lines = text.split("\n")[1:]
    return [_pair(line.split()) for line in lines if line]


def _pair(parts: Sequence[str]) -> tuple[str, str]:
    left, right = parts
    return str(left), str(right)


def _foreign(path: Path, error: Exception) -> BabelclipError:
    return BabelclipError(
        f"{path} does not hold the merges of CLIP's English tokenizer ({type(error).__name__}: {error}). "
        f"Copy it again from the model's origin, or put {MERGES_FILE} there in its place."
    )
