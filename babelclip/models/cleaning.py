"""What is done to a text before it is tokenised: a rule of the checkpoint, named in its config.

A rule belongs to the model and not to the caller, so a query is cleaned as the training text was, and two users of one
model cannot get different vectors for one text.
"""

from __future__ import annotations

import html
import string
import unicodedata
from collections.abc import Callable

from babelclip.errors import BabelclipError, did_you_mean

# Full stops of the scripts in use. Question and exclamation marks stay: they carry meaning.
_STOPS = ".。．।॥።։۔။"
_MARKS = frozenset(("Mn", "Lm"))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def keep(text: str) -> str:
    """Returns the text as it is."""
    return text


def plain_phrase(text: str) -> str:
    """Returns the text as a phrase: outer white space and a final full stop are gone, a capital first letter is small.

    "En hund." and "en hund" then get one vector. Captions come as sentences, names and queries as phrases, and a cased
    tokenizer such as XLM-R's splits a rare capitalised word into other pieces than its usual form. The first letter
    stays where the second is a capital or no letter, as in "NASA" or "F-22".
    """
    text = text.strip().rstrip(_STOPS).rstrip()
    if len(text) > 1 and text[0].isupper():
        follower = next((c for c in text[1:] if unicodedata.category(c) not in _MARKS), "")
        if follower.islower() or follower.isspace():
            return text[0].lower() + text[1:]
    return text


def whitespace(text: str) -> str:
    """Returns the text repaired by ftfy, HTML entities resolved, white space collapsed (open_clip's "whitespace").

    Source: open_clip 3.3, `tokenizer.py`; the default of its `HFTokenizer`. ftfy also turns full-width Latin into
    ASCII, half-width Katakana into full-width, ligatures into letters and curly quotes into straight ones.
    """
    # ftfy is needed by such models alone, and `import babelclip` stays light.
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def lower(text: str) -> str:
    """Returns the text as `whitespace` does, in lower case: OpenAI CLIP and open_clip's own tokenizer."""
    return whitespace(text).lower()


def canonicalize(text: str) -> str:
    """Returns the text repaired by ftfy, without ASCII punctuation, in lower case (open_clip's SigLIP models)."""
    return " ".join(whitespace(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def siglip(text: str) -> str:
    """Returns the text in lower case without ASCII punctuation: transformers' `SiglipTokenizer.canonicalize_text`.

    Unlike `canonicalize` it repairs nothing, and an underscore joins words.
    """
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def lowercase(text: str) -> str:
    """Returns the text in lower case and otherwise as it is: what the published scores of SigLIP 2 need."""
    return text.lower()


CLEANINGS: dict[str, Callable[[str], str]] = {
    "none": keep,
    "plain_phrase": plain_phrase,
    "whitespace": whitespace,
    "lower": lower,
    "canonicalize": canonicalize,
    "siglip": siglip,
    "lowercase": lowercase,
}


def cleaning_rule(name: str) -> Callable[[str], str]:
    """Returns the rule of that name.

    Raises:
        BabelclipError: there is no such rule.
    """
    if name not in CLEANINGS:
        raise BabelclipError(f"Text cleaning {name!r} is not known. {did_you_mean(name, CLEANINGS)}")
    return CLEANINGS[name]
