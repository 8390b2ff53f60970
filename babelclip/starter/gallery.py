"""The queries that the demo shows, written down before any result was seen, and how their hits are judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from babelclip.models.clip import Clip
from babelclip.starter.measure import PictureSet


class Query(NamedTuple):
    """A query, its language and meaning, and the words of which a right picture's English caption holds one."""

    lang: str
    text: str
    english: str
    words: str


QUERIES = (
    Query("sv", "en randig sebra", "a striped zebra", "zebra"),
    Query("zh", "长颈鹿", "giraffe", "giraffe"),
    Query("ar", "فيل كبير", "a big elephant", "elephant"),
    Query("ru", "красная роза", "a red rose", "rose"),
    Query("hi", "बाघ", "tiger", "tiger"),
    Query("ja", "ペンギン", "penguin", "penguin"),
    Query("ko", "바이올린", "violin", "violin|cello"),
    Query("th", "กบสีเขียว", "a green frog", "frog"),
    Query("el", "πεταλούδα", "butterfly", "butterfly"),
    Query("he", "תות שדה", "strawberry", "strawberry"),
    Query("fa", "اسب", "horse", "horse"),
    Query("uk", "пожежна машина", "fire engine", "fire truck"),
    Query("vi", "cá heo", "dolphin", "dolphin"),
    Query("de", "ein Eichhörnchen", "a squirrel", "squirrel"),
    Query("fr", "une montgolfière", "a hot air balloon", "hot air balloon"),
    Query("tr", "trompet", "trumpet", "trumpet"),
    Query("ta", "யானை", "elephant", "elephant"),
    Query("ka", "გიტარა", "guitar", "guitar"),
    Query("fi", "kameli aavikolla", "a camel in the desert", "camel|dromedary"),
)
# Of these the demo prints a search in the terminal.
PRINTED = ("sv", "zh", "ar", "ru", "hi", "ko", "fr", "de")


def gallery(clip: Clip, picture_set: PictureSet, image_features: np.ndarray, k: int = 5) -> list[dict[str, Any]]:
    """Returns each query with its best `k` pictures, in the form that the report takes (see `page.render_page`).

    Args:
        clip: the taught model.
        picture_set: pictures with English captions.
        image_features: (C, D), in the order of `picture_set.images`.
        k: pictures a query.
    """
    english = english_captions(picture_set)
    images = picture_set.images
    scores, indices = clip.rank([query.text for query in QUERIES], image_features, k)
    return [
        {
            "lang": query.lang,
            "query": query.text,
            "english": query.english,
            "hits": [
                {
                    "image": images[place],
                    "caption": english[images[place]],
                    "score": round(float(score), 4),
                    "relevant": is_right(query, english[images[place]]),
                }
                for score, place in zip(row_scores, row, strict=True)
            ],
        }
        for query, row_scores, row in zip(QUERIES, scores, indices, strict=True)
    ]


def english_captions(picture_set: PictureSet) -> dict[str, str]:
    """Returns the English caption of each picture that has one."""
    captions = picture_set.captions
    columns = zip(captions.table.column("image").to_pylist(), captions.texts, captions.langs, strict=True)
    return {image: text for image, text, lang in columns if lang == "en"}


def is_right(query: Query, caption: str) -> bool:
    """Returns whether an English caption names what the query asks for, as a whole word, in singular or plural."""
    return re.search(rf"\b({query.words})s?\b", caption, flags=re.IGNORECASE) is not None


def printed_lines(shown: Sequence[dict[str, Any]], k: int = 3) -> list[str]:
    """Returns the search of eight queries in eight languages as lines for the terminal."""
    lines = []
    for entry in (entry for lang in PRINTED for entry in shown if entry["lang"] == lang):
        lines.append(f"  {entry['query']}   [{entry['lang']}: {entry['english']}]")
        lines += [
            f"    {hit['score']:5.2f}  {'*' if hit['relevant'] else ' '} {hit['caption']}" for hit in entry["hits"][:k]
        ]
    return lines
