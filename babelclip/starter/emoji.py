"""Emoji as captioned pictures: Twemoji drawings with their human names in 14 languages.

The names come from the JSON files of the PyPI package `emoji`, read as data. A *concept* is an emoji that is fully
qualified (the form that keyboards send), has no skin-tone modifier and has a picture. Three flags share one drawing,
and so do two others: `label` names the group, and any picture of a group answers the captions of all its concepts.
Entry points: `emoji_captions`, `split_concepts`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from babelclip import languages
from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.files import read_json, sha256
from babelclip.starter.parts import EMOJI_NAMES, TWEMOJI, locate

ATTRIBUTION = (EMOJI_NAMES.attribution, TWEMOJI.attribution)
_FULLY_QUALIFIED = 2
_SKIN_TONES = frozenset(chr(code) for code in range(0x1F3FB, 0x1F400))
_VARIATION_SELECTOR = "\ufe0f"


def emoji_captions() -> Captions:
    """Returns one row for each concept and language (1,914 x 14), English first within a concept.

    `id` is code points and language (`1f415:sv`), `source_id` the English row of the concept (null in that row itself),
    `image` the picture's path, `label` the concept's group. Emoji without a picture are counted in `skipped`.

    Raises:
        PartError: a package is absent, of another version or damaged; the message holds the command to install it.
    """
    return read_emoji(locate(EMOJI_NAMES), locate(TWEMOJI))


def read_emoji(names: Path, pictures: Path) -> Captions:
    """Returns the captions of a folder with `emoji.json`, `emoji_xx.json` and of one with `<code points>.png`.

    Raises:
        BabelclipError: a file is missing or damaged, or its name holds an unknown language.
    """
    facts: dict[str, dict[str, Any]] = read_json(names / "emoji.json")
    concepts = [
        emoji for emoji, fact in facts.items() if fact["status"] == _FULLY_QUALIFIED and _SKIN_TONES.isdisjoint(emoji)
    ]
    translations = {
        languages.normalize(path.stem.partition("_")[2]): read_json(path) for path in sorted(names.glob("emoji_*.json"))
    }
    groups: dict[str, str] = {}  # checksum of a picture -> key of the first concept that has it
    rows: list[tuple[str, str, str, str | None, str, str]] = []
    skipped: dict[str, int] = {}
    for emoji in concepts:
        picture = picture_of(emoji, pictures)
        if picture is None:
            skipped["emoji without a picture"] = skipped.get("emoji without a picture", 0) + 1
            continue
        key = "-".join(f"{ord(character):x}" for character in emoji)
        group = groups.setdefault(sha256(picture), key)
        rows.append((f"{key}:en", _spelled(facts[emoji]["en"]), "en", None, str(picture), group))
        for lang, translation in translations.items():
            if emoji in translation:
                text = _spelled(translation[emoji])
                rows.append((f"{key}:{lang}", text, lang, f"{key}:en", str(picture), group))
    if not rows:
        raise BabelclipError(
            f"No emoji of {names} has a picture in {pictures}. The packages do not belong together: "
            f"{EMOJI_NAMES.install} and {TWEMOJI.install}"
        )
    ids, texts, langs, sources, images, labels = (list(column) for column in zip(*rows, strict=True))
    captions = Captions.from_columns(text=texts, lang=langs, id=ids, source_id=sources, image=images, label=labels)
    return dataclasses.replace(captions, skipped={**captions.skipped, **skipped})


def picture_of(emoji: str, pictures: Path) -> Path | None:
    """Returns the picture of an emoji, or None; file names leave out U+FE0F in some emoji and keep it in others."""
    for form in (emoji, emoji.replace(_VARIATION_SELECTOR, "")):
        path = pictures / ("-".join(f"{ord(character):x}" for character in form) + ".png")
        if path.is_file():
            return path
    return None


def split_concepts(captions: Captions, share: float = 0.2, seed: int = 0) -> tuple[Captions, Captions]:
    """Returns the rows to teach and the rows held out, split by `label`: no held-out concept is taught in any language.

    Args:
        captions: rows with `label`, in any order.
        share: part of the labels that is held out, between 0 and 1.
        seed: another seed holds out other labels; the order of the rows changes nothing.

    Raises:
        BabelclipError: the share leaves one side empty, or a row has no label.
    """
    labels = captions.table.column("label").to_pylist()
    if any(label is None for label in labels):
        raise BabelclipError("Some captions have no label, so they cannot be split by it. Give every row a label.")
    distinct = sorted(set(labels))
    count = round(share * len(distinct))
    if not 0 < count < len(distinct):
        raise BabelclipError(
            f"A share of {share} holds out {count} of {len(distinct)} labels; both sides need at least one. "
            "Give a share between 0 and 1, for example 0.2."
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    held_out = {distinct[position] for position in order[:count]}
    mask = np.asarray([label in held_out for label in labels])
    return (
        dataclasses.replace(captions, table=captions.table.filter(pa.array(~mask))),
        dataclasses.replace(captions, table=captions.table.filter(pa.array(mask))),
    )


def _spelled(name: str) -> str:
    """Returns `:red_apple:` as "red apple"."""
    return name.removeprefix(":").removesuffix(":").replace("_", " ")
