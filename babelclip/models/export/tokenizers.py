"""A tokenizer with its cleaning rule, as the two files that transformers reads.

Cleaning goes into the normalizer of `tokenizer.json` as far as the `tokenizers` library can say it, so that every
program which reads the file cleans texts too. What it cannot say comes back as sentences for the README.
"""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, processors

from babelclip import languages
from babelclip.errors import BabelclipError
from babelclip.files import write_json
from babelclip.models.checkpoints.openclip_bpe import MERGES
from babelclip.models.cleaning import cleaning_rule
from babelclip.models.tokenization import TextTokenizer

# What `str.split` and `str.strip` take for white space; the pattern language of the normalizers lacks four of them.
_SPACE = r"[\s\x1c-\x1f]"
_FTFY = (
    "babelclip first repairs texts with ftfy and resolves HTML entities (`&amp;`), which these files cannot say: "
    "full-width Latin, half-width Katakana, ligatures and curly quotes get other tokens there. "
)
_FTFY_CURE = "Clean such texts before with `ftfy.fix_text` and `html.unescape`."
_PHRASE = (
    "A capital first letter is written small (`plain_phrase`) where it is Latin, Greek, Cyrillic or Armenian, in "
    "babelclip in every script that has capitals."
)
# Rules that would also act on a prefix.
_CHANGING = ("lowercase", "lower", "siglip", "canonicalize")
_STOPS = ".。．।॥።։۔။"
_ROLES = {
    "bos_token": ("<s>", "<|startoftext|>", "<start_of_text>", "<bos>"),
    "eos_token": ("</s>", "<|endoftext|>", "<end_of_text>", "<eos>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "unk_token": ("<unk>", "[UNK]"),
    "mask_token": ("<mask>", "[MASK]"),
    "pad_token": ("<pad>", "[PAD]"),
}
_LOOKS_SPECIAL = re.compile(r"<[^>]+>|\[[^\]]+\]")


def write_tokenizer(
    tokenizer: TextTokenizer,
    folder: Path,
    *,
    cleans: bool = True,
    prefixes: bool = False,
) -> list[str]:
    """Writes tokenizer.json and tokenizer_config.json into an existing folder; returns what they cannot say.

    Args:
        tokenizer: the tower's tokenizer.
        folder: the folder.
        cleans: put the cleaning rule into the normalizer; False where the program itself cleans.
        prefixes: the caller writes the prefix elsewhere.

    Raises:
        BabelclipError: texts get a prefix that has no place, or the padding is read by the model and has no token.
    """
    if tokenizer.prefix and not prefixes:
        raise BabelclipError(
            f"This text tower puts {tokenizer.prefix!r} before every text, and the layout has no place for a prefix. "
            "Export to sentence-transformers, or save the model in babelclip's own format."
        )
    content = json.loads(tokenizer.to_json())
    # Who loads the files sets these by tokenizer_config.json; frozen here texts would be cut twice.
    content["truncation"] = content["padding"] = None
    built = Tokenizer.from_str(json.dumps(content))
    if tokenizer.language is not None:
        built.post_processor = _language_first(built, tokenizer.language)
    steps, notes = cleaning_steps(tokenizer.cleaning, tokenizer.prefix) if cleans else ([], [])
    if steps:
        built.normalizer = normalizers.Sequence([*steps, *([built.normalizer] if built.normalizer else [])])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **_special_tokens(built, tokenizer),
    }
    (folder / "tokenizer.json").write_text(built.to_str(), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)
    return notes


def cleaning_steps(rule: str, prefix: str = "") -> tuple[list[Any], list[str]]:
    """Returns the normalizers that clean as `rule` does, and sentences on what they leave undone.

    Args:
        rule: name of a cleaning rule.
        prefix: what stands before the text when the normalizers see it; they leave it as it is.

    """
    start, kept = (
        (rf"(?<=\A|\A{re.escape(prefix)})", rf"(?<!\A{re.escape(prefix.rstrip())})") if prefix else (r"\A", "")
    )
    lower = [normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"), normalizers.Lowercase()]
    ends = [normalizers.Replace(Regex(rf"{start}{_SPACE}+"), ""), normalizers.Replace(Regex(rf"{kept}{_SPACE}+\z"), "")]
    if rule == "plain_phrase":
        return _phrase(start, ends), [_PHRASE]
    trim = [normalizers.Replace(Regex(rf"{_SPACE}+"), " "), *ends]
    no_punctuation = normalizers.Replace(Regex("[" + re.escape(string.punctuation) + "]"), "")
    known: dict[str, tuple[list[Any], list[str]]] = {
        "none": ([], []),
        "lowercase": (lower, []),
        "whitespace": (trim, [_FTFY + _FTFY_CURE]),
        "lower": ([*lower, *trim], [_FTFY + _FTFY_CURE]),
        "siglip": ([*lower, no_punctuation, *trim], []),
        "canonicalize": ([normalizers.Replace("_", " "), no_punctuation, *lower, *trim], [_FTFY + _FTFY_CURE]),
    }
    if prefix and rule in _CHANGING and cleaning_rule(rule)(prefix).strip() != prefix.strip():
        notes = [f"The cleaning rule {rule!r} also changes the prefix {prefix!r} there."]
        return known[rule][0], [*known[rule][1], *notes]
    return known[rule]


def _phrase(start: str, ends: list[Any]) -> list[Any]:
    """Returns `plain_phrase`: ends and final stops off, then one replacement for each letter that can be capital.

    A normalizer puts constants in place of patterns, so it takes one for each letter; together they cost a text half
    a millisecond. Only letters of scripts in daily use are listed.
    """
    stops = normalizers.Replace(Regex(rf"[{_STOPS}]+\z"), "")
    small = []
    for code in (*range(0x590), *range(0x1E00, 0x1F00), *range(0xFF21, 0xFF3B)):
        letter = chr(code)
        if letter.isupper() and letter.lower() != letter:
            followed = r"(?=[\p{Mn}\p{Lm}]*[\p{Ll}\s\x1c-\x1f])"
            small.append(normalizers.Replace(Regex(f"{start}{letter}{followed}"), letter.lower()))
    return [*ends, stops, ends[1], *small]


def _special_tokens(built: Tokenizer, tokenizer: TextTokenizer) -> dict[str, str]:
    found = {
        role: next((name for name in names if built.token_to_id(name) is not None), None)
        for role, names in _ROLES.items()
    }
    padding = built.id_to_token(tokenizer.pad_id)
    if padding is not None and _LOOKS_SPECIAL.fullmatch(padding):
        found["pad_token"] = padding
    elif tokenizer.pad_to is not None:
        raise BabelclipError(
            f"The model reads its padding, the token {padding!r}, which is no special token that transformers could "
            "pad with. Save the model in babelclip's own format."
        )
    else:
        # Padding is masked, so any token serves; "!" made special would no longer join its word.
        found["pad_token"] = found["pad_token"] or found["eos_token"] or found["unk_token"]
    return {role: name for role, name in found.items() if name is not None}


def _language_first(built: Tokenizer, code: str) -> Any:
    """Returns the post-processor that puts the language's own token first, for every text."""
    token = languages.nllb_token(str(languages.flores(code)))
    ends = [(name, built.token_to_id(name)) for name in (token, "</s>")]
    return processors.TemplateProcessing(single=f"{token} $A </s>", special_tokens=ends)


def is_english_clip(tokenizer: TextTokenizer) -> bool:
    """Returns whether this is the tokenizer of OpenAI's CLIP, which open_clip has inside."""
    model = json.loads(tokenizer.to_json())["model"]
    merges = model.get("merges") or []
    first = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges[:3]]
    return (
        model.get("end_of_word_suffix") == "</w>"
        and len(merges) == MERGES
        and first == [("i", "n"), ("t", "h"), ("a", "n")]
    )
