"""Vocabulary trimming: a text tower that keeps the pieces some languages need, and gives the same vectors for them.

The table of token embeddings is 46 % of XLM-R-large and 82 % of LaBSE, most of it for languages that a given user has
not. What stays of it:

* for a language without captions, every piece written in its script: text in these scripts, whatever it says, keeps
  its tokens and its vectors bit for bit;
* for a language with captions, the pieces that these captions are cut into: the captions keep theirs, other text keeps
  its where it needs no other piece;
* always: digits, punctuation, every single character of the scripts and of ASCII, bytes, special and added tokens.
  So a new word is cut into smaller pieces instead of becoming unknown.

Why covered text keeps its segmentation is said in `vocabulary.py`. Source of the idea: Abdaoui, Pradel and Sigel, "Load
What You Need: Smaller Versions of Multilingual BERT", 2020, who count pieces in text of each language.

Entry points: `tokens_to_keep`, `trim`; `trim_report.py` measures what came of it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from babelclip import languages
from babelclip.errors import BabelclipError
from babelclip.models.cleaning import cleaning_rule
from babelclip.models.clip import Clip
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer
from babelclip.models.vocabulary import Vocabulary, read_vocabulary, without
from babelclip.scripts import COMMON, in_scripts, scripts_of

TRIMMED = "Vocabulary trimmed by babelclip"
_ASCII = frozenset(chr(code) for code in range(33, 127))
_TEXTS_AT_ONCE = 65536
_NO_LIMIT = 1 << 20
# Letters of captions that must be of their language's script; below it the file or the code is wrong.
_OWN_LETTERS = 0.1
_LETTERS_OF = 5000


def tokens_to_keep(
    text: TextEncoder,
    langs: Sequence[str],
    captions: Mapping[str, Sequence[str]] | None = None,
    *,
    min_count: int = 1,
) -> np.ndarray:
    """Returns the ids (K,) int64, ascending, of the tokens that stay for some languages; see the module's first lines.

    Args:
        text: the whole text tower.
        langs: languages that the trimmed tower is for (BCP-47).
        captions: by language, texts that decide in place of the language's script.
        min_count: how often a piece must occur in all captions together; above 1 they are not covered as a whole.

    Raises:
        UnknownLanguageError: a code is not known.
        BabelclipError: no language; captions that are empty, of no language of `langs`, or in another script than their
            language; a language whose script the tokenizer has no piece of; or a tokenizer of an unknown kind.
    """
    codes = list(dict.fromkeys(languages.normalize(code) for code in langs))
    texts = {languages.normalize(code): list(given) for code, given in (captions or {}).items()}
    _check(codes, texts, min_count)
    vocabulary = read_vocabulary(text.tokenizer)
    for code in codes:
        _check_script(vocabulary, code)
    common = vocabulary.characters(COMMON)
    keep = vocabulary.required() | _ids_of_settings(text, vocabulary)
    keep |= vocabulary.single(common | _ASCII | vocabulary.characters(s for code in codes for s in scripts_of(code)))
    keep |= _used(text.tokenizer, vocabulary, [one for given in texts.values() for one in given], min_count)
    keep = vocabulary.with_parts(keep)
    by_script = [script for code in codes if code not in texts for script in scripts_of(code)]
    if by_script:
        # Parts of these pieces have no other characters, so they are among them.
        keep |= vocabulary.written_in(common | vocabulary.characters(by_script))
    return np.array(sorted(keep), dtype=np.int64)


def trim(clip: Clip, keep: Sequence[int] | np.ndarray, langs: Sequence[str] = ()) -> Clip:
    """Returns a model whose text tower has only the tokens `keep`; the space and the picture tower stay.

    All other weights are shared with `clip`, not copied.

    Args:
        clip: a model with a text tower, not quantised.
        keep: ids of tokens, as `tokens_to_keep` gives them; those that the tower needs in any case are added.
        langs: languages that the tower is now for. Of those that the model declares, these stay, and others in scripts
            that stay whole; with none given all stay.

    Example:
        >>> clip = babelclip.load("demo/student", dtype="float32")  # doctest: +SKIP
        >>> small = trim(clip, tokens_to_keep(clip.text, ["sv", "en"]), ["sv", "en"])  # doctest: +SKIP
        >>> bool((small.encode_text("två hundar") == clip.encode_text("två hundar")).all())  # doctest: +SKIP
        True

    Raises:
        BabelclipError: there is no text tower, its table of embeddings is no plain one, an id is none of its tokens, or
            its tokenizer is of an unknown kind.
    """
    text = text_tower_of(clip)
    trimmed = trim_text(text, keep)
    before, after = text.tokenizer.vocabulary_size, trimmed.tokenizer.vocabulary_size
    codes = [languages.normalize(code) for code in langs]
    still = _still_served(clip, trimmed, codes) if codes else clip.languages
    note = f"{TRIMMED} to {after:,} of {before:,} pieces" + (f", for {', '.join(codes)}" if codes else "")
    name = clip.name if not clip.name or clip.name.endswith("-trimmed") else f"{clip.name}-trimmed"
    return dataclasses.replace(clip, text=trimmed, languages=still, name=name, attribution=(*clip.attribution, note))


def trim_text(text: TextEncoder, keep: Sequence[int] | np.ndarray) -> TextEncoder:
    """Returns the text tower with only the tokens `keep` (K,), ids of its vocabulary; see `trim`.

    Raises:
        BabelclipError: an id is no token.
    """
    vocabulary = read_vocabulary(text.tokenizer)
    table = embedding_table(text)
    wanted = {int(index) for index in keep}
    unknown = sorted(wanted - vocabulary.pieces.keys() - set(range(table.num_embeddings)))
    if unknown:
        raise BabelclipError(
            f"{len(unknown)} of the ids to keep are no tokens, the first is {unknown[0]}; the model has "
            f"{len(vocabulary.pieces)}. Take them from tokens_to_keep with the same model."
        )
    numbers = _new_numbers(text, vocabulary, wanted)
    rows = torch.tensor([index for index in numbers if index < table.num_embeddings], device=table.weight.device)
    trimmed = _shared_copy(text)
    weight = nn.Parameter(table.weight.detach()[rows].clone(), table.weight.requires_grad)
    for module in trimmed.backbone.modules():  # T5 has its table under two names
        if isinstance(module, nn.Embedding) and module.weight is table.weight:
            padding = None if module.padding_idx is None else numbers.get(module.padding_idx)
            module.weight, module.num_embeddings, module.padding_idx = weight, len(rows), padding
    config: Any = trimmed.backbone.config
    config.vocab_size = len(rows)
    for key, value in _config_ids(text, table.num_embeddings).items():
        setattr(config, key, [numbers[index] for index in value] if isinstance(value, list) else numbers[value])
    trimmed.tokenizer = _renumbered(text.tokenizer, vocabulary, numbers)
    return trimmed


def trim_tokenizer(text: TextEncoder, keep: Sequence[int] | np.ndarray) -> TextTokenizer:
    """Returns the tokenizer that `trim` would give the tower, without making the tower."""
    vocabulary = read_vocabulary(text.tokenizer)
    return _renumbered(text.tokenizer, vocabulary, _new_numbers(text, vocabulary, {int(index) for index in keep}))


def tokenizer_like(tokenizer: TextTokenizer, inner: Tokenizer | None = None, **changes: Any) -> TextTokenizer:
    """Returns a tokenizer with the settings of another, some changed; `inner` None takes a copy of its pieces."""
    names = ("max_length", "pad_id", "prefix", "cleaning", "pad_to", "eos_id", "language")
    settings = {name: getattr(tokenizer, name) for name in names} | changes
    return TextTokenizer(Tokenizer.from_str(tokenizer.to_json()) if inner is None else inner, **settings)


def text_tower_of(clip: Clip) -> TextEncoder:
    """Returns the text tower.

    Raises:
        BabelclipError: there is none.
    """
    if clip.text is None:
        raise BabelclipError(
            f"{clip.name or 'This model'} has no text tower, so it has no vocabulary to trim. Give a model with one, "
            'loaded with towers="both" or "text".'
        )
    return clip.text


def embedding_table(text: TextEncoder) -> nn.Embedding:
    """Returns the table of token embeddings (V, H).

    Raises:
        BabelclipError: it is no plain one, as in a quantised tower.
    """
    table: Any = text.backbone.get_input_embeddings()  # type: ignore[operator]
    if not isinstance(table, nn.Embedding) or not table.weight.is_floating_point():
        raise BabelclipError(
            f"The table of token embeddings is a {type(table).__name__}; rows are taken from a plain one only. Load "
            'the model with dtype="float32" and trim before quantising.'
        )
    return table


def _still_served(clip: Clip, trimmed: TextEncoder, codes: Sequence[str]) -> tuple[str, ...]:
    """Returns the declared languages that were asked for, or whose script has lost no piece."""
    old, new = read_vocabulary(text_tower_of(clip).tokenizer), read_vocabulary(trimmed.tokenizer)
    common, kept = old.characters(COMMON), set(new.pieces.values())
    whole = {
        scripts: kept.issuperset(old.pieces[i] for i in old.written_in(common | old.characters(scripts)))
        for scripts in {scripts_of(code) for code in clip.languages}
    }
    return tuple(code for code in clip.languages if languages.covers(codes, code) or whole[scripts_of(code)])


def _check(codes: Sequence[str], texts: Mapping[str, Sequence[str]], min_count: int) -> None:
    if not codes:
        raise BabelclipError("No language was given to trim for. Give at least one, for example --lang sv,en.")
    if min_count < 1:
        raise BabelclipError(f"min_count is {min_count}; it must be at least 1, which keeps all that occurs.")
    for code, given in texts.items():
        if code not in codes:
            raise BabelclipError(
                f"Captions in {code} were given, and the languages are {', '.join(codes)}. Name {code} among the "
                "languages, or leave its captions out."
            )
        if not any(text.strip() for text in given):
            raise BabelclipError(f"The captions in {code} are empty. Give some, or none, so that its script decides.")
        letters = Counter(c for text in given[:_LETTERS_OF] for c in text if c.isalpha())
        own = in_scripts(letters, scripts_of(code))
        share = sum(letters[c] for c in own) / max(sum(letters.values()), 1)
        if letters and share < _OWN_LETTERS:
            raise BabelclipError(
                f"The captions in {code} are written in another script: {share:.0%} of their letters are "
                f"{' or '.join(scripts_of(code))}. Check the file, or name the script, as in 'sr-Latn'."
            )


def _check_script(vocabulary: Vocabulary, code: str) -> None:
    if not vocabulary.spells_bytes and not vocabulary.characters(scripts_of(code)):
        raise BabelclipError(
            f"The tokenizer has no piece in the script of {languages.name(code)} ({code}: "
            f"{', '.join(scripts_of(code))}), so its texts are unknown to this model. Leave the language out, or take "
            "the original model if this one was trimmed before."
        )


def _used(tokenizer: TextTokenizer, vocabulary: Vocabulary, texts: Sequence[str], min_count: int) -> set[int]:
    """Returns the ids that the texts are cut into at any length, those of the prefix, and dead ends of WordPiece."""
    plain = Tokenizer.from_str(tokenizer.to_json())
    uncut = tokenizer_like(tokenizer, plain, max_length=_NO_LIMIT, pad_to=None, language=None)
    counts = np.zeros(max(vocabulary.pieces) + 1, dtype=np.int64)
    clean, dead = cleaning_rule(tokenizer.cleaning), set()
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        chunk = texts[start : start + _TEXTS_AT_ONCE]
        rows = uncut(chunk)
        counts += np.bincount([index for row in rows for index in row], minlength=len(counts))
        if vocabulary.kind == "WordPiece":
            lost = (text for text, row in zip(chunk, rows, strict=True) if vocabulary.unknown in row)
            dead |= vocabulary.dead_ends((tokenizer.prefix + clean(text) for text in lost), plain)
    return {int(index) for index in np.flatnonzero(counts >= min_count)} | dead | set(uncut([""])[0])


def _ids_of_settings(text: TextEncoder, vocabulary: Vocabulary) -> set[int]:
    """Returns the ids with a role that tokenizer and config give them, and those that must keep their number.

    The first three stay where they are because transformers takes an `eos_token_id` of 2 for a sign of old CLIP files.
    Where a module counts positions from the id of padding (XLM-R, NLLB), that id and all below it stay.
    """
    rows = embedding_table(text).num_embeddings
    ids = {text.tokenizer.pad_id, *range(min(3, rows))}
    if text.tokenizer.eos_id is not None:
        ids.add(text.tokenizer.eos_id)
    for value in _config_ids(text, rows).values():
        ids |= set(value) if isinstance(value, list) else {value}
    for module in text.backbone.modules():
        counted_from = getattr(module, "padding_idx", None)
        if not isinstance(module, nn.Embedding) and isinstance(counted_from, int):
            ids |= set(range(counted_from + 1))
    return {index for index in ids if index < rows or index in vocabulary.pieces}


def _config_ids(text: TextEncoder, rows: int) -> dict[str, Any]:
    """Returns the entries of the backbone's config that name tokens it has: an id, or a list of ids."""
    config: Any = text.backbone.config
    found = {}
    for key, value in config.to_dict().items():
        listed = value if isinstance(value, list) else [value]
        # bool is an int to Python; defaults can lie beyond a small vocabulary.
        if key.endswith("_token_id") and listed and all(type(index) is int and 0 <= index < rows for index in listed):
            found[key] = value
    return found


def _new_numbers(text: TextEncoder, vocabulary: Vocabulary, ids: Collection[int]) -> dict[int, int]:
    """Returns the new id of each old one, those that must stay added.

    The order stays: old CLIP models find the end of a text by its highest id.
    """
    every = set(ids) | vocabulary.required() | _ids_of_settings(text, vocabulary)
    return {old: new for new, old in enumerate(sorted(every))}


def _renumbered(tokenizer: TextTokenizer, vocabulary: Vocabulary, numbers: Mapping[int, int]) -> TextTokenizer:
    eos_id = None if tokenizer.eos_id is None else numbers[tokenizer.eos_id]
    return tokenizer_like(tokenizer, without(vocabulary, numbers), pad_id=numbers[tokenizer.pad_id], eos_id=eos_id)


def _shared_copy(text: TextEncoder) -> TextEncoder:
    """Returns a tower of new modules that hold the very tensors of `text`, so that nothing large is copied."""
    held = [*text.parameters(), *text.buffers(), text.tokenizer]
    return copy.deepcopy(text, {id(item): item for item in held})
