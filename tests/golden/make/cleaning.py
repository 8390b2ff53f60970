"""Oracle environment: current. Writes cleaning.json: texts as open_clip, OpenAI CLIP and transformers clean them."""

from __future__ import annotations

import json
import sys
import unicodedata
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

# In place of this folder, whose clip.py hides OpenAI's package.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np

from tests.golden.inputs import SEED, TEXTS
from tests.golden.make.common import GOLDEN

ENVIRONMENT = "current"

CHOSEN = [
    "ＡＢＣ　１２３！",
    "ｱｲｳｴｵ ｶﾞｷﾞ ﾊﾟ",
    "ﬁne ﬂow oﬃce ﬆop",
    "“curly” ‘quotes’ «guillemets» „low“",
    "rock &amp; roll",
    "&amp;amp;lt;b&amp;amp;gt;",
    "&lt;b&gt;bold&lt;/b&gt;",
    "&nbsp;a&nbsp;&nbsp;b",
    "&eacute;t&eacute; &#233; &#x1F600; &#28;x &#0; &bogus;",
    "caf\u00e9 cafe\u0301",
    "a\u0308 \u1e9b\u0323",
    "A\u030a ngstro\u0308m",
    "tab\tand\nnew\r\nline\x0bfeed\x0c",
    "\x00null\x07bell\x1b[31mred\x1b[0m\x7f",
    "\u200bzero\u200cwidth\u200djoin\u2060\ufeff",
    "soft\u00adhyphen",
    "no\u00a0break\u2003em\u3000wide",
    "line\u2028paragraph\u2029\u0085next",
    "👩‍👩‍👧 🏳️‍🌈 👍🏽 🇸🇪 ❤️",
    "snake_case __init__ a_b",
    "C++ & C#: 100%! (ok?) [x] {y} ~`^|\\",
    "it's o'clock, isn't it?",
    "İstanbul IĞDIR ıi",
    "ΟΔΥΣΣΕΥΣ ΣΑΣ. Σ",
    "Straße STRASSE ẞ",
    "ǅ ǈ Ǌ ŉ",
    "Ǆ ͅ ΐ",
    "schÃ¶n",
    "voilÃ  le travail",
    "âœ” No problems",
    "L&AMP;AMP;ATILDE;&AMP;AMP;SUP3;PEZ",
    "¯\\_(ツ)_/¯",
    "1⁄2 ½ ² ³ № ™ ℃ Å",
    "…‥·•",
    "−–—‒―",
    "   ",
    "_",
    "!!!",
    "<a href='x'>y</a>",
    "&",
    "&amp",
    "&#128512;",
    "ÅÄÖ åäö",
    "हिन्दी में कुत्ता।",
    "中文，标点。「引号」",
    "ภาษาไทย ๑๒๓",
    "עִבְרִית",
    "العَرَبِيَّة، ؟",
    "ქართული ᲥᲐᲠᲗᲣᲚᲘ",
    "Ⴀⴀ",
    "አማርኛ።",
    "ꞛ Ꙁ Ѳ",
    "Ａ＿Ｂ",
    "\ud7a3가각 ᄀ\u1161\u11a8",
    "e\u0301\u0301\u0301",
    "a" * 60,
    "x \ufffd y \ue000 z",
]
SCRIPTS = (
    "LATIN GREEK CYRILLIC ARMENIAN HEBREW ARABIC SYRIAC THAANA DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU "
    "KANNADA MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR GEORGIAN HANGUL ETHIOPIC CHEROKEE KHMER MONGOLIAN HIRAGANA "
    "KATAKANA BOPOMOFO CJK YI FULLWIDTH HALFWIDTH"
).split()


def random_texts() -> list[str]:
    """Returns texts of each script and of all mixed; characters of Unicode 3.2 are cased alike everywhere."""
    rng = np.random.default_rng(5 + SEED)
    known = [chr(n) for n in range(0x20, 0x30000) if unicodedata.ucd_3_2_0.category(chr(n)) not in ("Cn", "Cs", "Co")]
    texts = []
    for script in SCRIPTS:
        letters = [c for c in known if unicodedata.name(c, "").startswith(script + " ")]
        for _ in range(5):
            words = ["".join(rng.choice(letters, rng.integers(1, 7))) for _ in range(4)]
            texts.append("".join(word + str(rng.choice(list("  ,.-_!\u00a0"))) for word in words))
    texts += ["".join(rng.choice(known, 25)) for _ in range(40)]
    # UTF-8 read as Latin-1 or Windows-1252 is what ftfy is there to repair.
    texts += [text.encode()[:24].decode("latin-1") for text in texts[::12]]
    texts += [text.encode()[:24].decode("cp1252", "ignore") for text in texts[5:60:12]]
    return texts


def main() -> None:
    import tests.golden.make.torchvision_shim  # noqa: F401, I001

    from clip.simple_tokenizer import basic_clean, whitespace_clean
    from open_clip.tokenizer import get_clean_fn
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer

    siglip = SimpleNamespace(
        do_lower_case=True, remove_punctuation=lambda text: SiglipTokenizer.remove_punctuation(None, text)
    )
    rules = {name: get_clean_fn(name) for name in ("whitespace", "lower", "canonicalize")}
    rules["siglip"] = lambda text: SiglipTokenizer.canonicalize_text(siglip, text)
    texts = list(dict.fromkeys([*TEXTS, *CHOSEN, *random_texts()]))
    for text in texts:
        if whitespace_clean(basic_clean(text)).lower() != rules["lower"](text):
            raise ValueError(f"OpenAI CLIP and open_clip clean {text!r} differently")
    cleaned = [{"text": text, **{name: rule(text) for name, rule in rules.items()}} for text in texts]
    packages = ("open_clip_torch", "clip-anytorch", "transformers", "ftfy")
    content = {"versions": {name: version(name) for name in packages}, "cleaned": cleaned}
    folder = Path(sys.argv[sys.argv.index("--out") + 1]) if "--out" in sys.argv else GOLDEN
    (folder / "cleaning.json").write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
