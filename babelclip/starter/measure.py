"""What the demo measures: retrieval on pictures with human captions, for models that share one picture tower.

The pictures are encoded once. The texts of all sets are encoded once a model, each distinct text once, and every figure
is computed from these vectors. Entry points: `PictureSet`, `TextVectors`, `measure`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from babelclip import languages
from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.evaluate.metrics import chance_recall
from babelclip.evaluate.retrieval import evaluate_retrieval
from babelclip.models.clip import Clip

KS = (1, 5, 10)
# A language needs this many captions for its column; below, one caption moves R@10 by more than half a point.
LEAST_CAPTIONS = 200


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Pictures with captions in many languages, as one table of the report.

    Attributes:
        key: short name, which is the `dataset` of its results.
        title: what a reader calls it.
        note: what it consists of, in a sentence.
        captions: rows with `image` (the picture's path) and `label` (equal labels are equally relevant).
    """

    key: str
    title: str
    note: str
    captions: Captions

    @property
    def images(self) -> list[str]:
        """The pictures' paths, each once, in order of appearance."""
        return list(dict.fromkeys(self.captions.table.column("image").to_pylist()))

    @property
    def groups(self) -> list[str]:
        """The label of each of `images`."""
        columns = (self.captions.table.column(name).to_pylist() for name in ("image", "label"))
        label_of = dict(zip(*columns, strict=True))
        return [label_of[image] for image in self.images]

    def languages(self, least: int = LEAST_CAPTIONS) -> list[str]:
        """Returns the languages with at least `least` captions, English first, then by code."""
        counts = Counter(self.captions.langs)
        return sorted((lang for lang, count in counts.items() if count >= least), key=lambda lang: (lang != "en", lang))


@dataclasses.dataclass
class TextVectors:
    """A model as its vectors of known texts; it answers `encode_text` by looking up.

    Attributes:
        name: of the model, in results.
        space: of the vectors.
        languages: that the model was taught, () where unknown.
        features: text -> vector (D,).
    """

    name: str
    space: str
    languages: tuple[str, ...]
    features: dict[str, np.ndarray]

    @classmethod
    def of(cls, name: str, space: str, taught: Sequence[str], texts: Sequence[str], rows: np.ndarray) -> TextVectors:
        """Returns the vectors `rows` (N, D) keyed by `texts` (N,)."""
        return cls(name, space, tuple(taught), dict(zip(texts, rows, strict=True)))

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the vectors (N, D) of known texts."""
        return np.stack([self.features[text] for text in texts])

    def encode_image(self, pictures: Sequence[Any]) -> np.ndarray:
        """Raises BabelclipError: there is no picture tower here; give `image_features`."""
        raise BabelclipError(
            f"{self.name} holds text vectors only; pass image_features for the {len(pictures)} pictures."
        )


def texts_of(sets: Sequence[PictureSet], least: int = LEAST_CAPTIONS) -> list[str]:
    """Returns the distinct captions of all sets, in the languages that get a column."""
    texts: dict[str, None] = {}
    for picture_set in sets:
        wanted = set(picture_set.languages(least))
        rows = zip(picture_set.captions.texts, picture_set.captions.langs, strict=True)
        texts.update((text, None) for text, lang in rows if lang in wanted)
    return list(texts)


def picture_vectors(clip: Clip, sets: Sequence[PictureSet], *, progress: bool = False) -> dict[str, np.ndarray]:
    """Returns the vectors (C, D) of the pictures of each set, by its key; a picture of two sets is encoded once."""
    places = {image: place for place, image in enumerate(dict.fromkeys(i for one in sets for i in one.images))}
    features = clip.encode_image(list(places), progress=progress)
    return {one.key: features[[places[image] for image in one.images]] for one in sets}


def measure(
    model: TextVectors,
    picture_set: PictureSet,
    image_features: np.ndarray,
    *,
    least: int = LEAST_CAPTIONS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Returns one result a language and direction (DESIGN section 8).

    Args:
        model: vectors of the captions.
        picture_set: pictures and captions.
        image_features: (C, D), in the order of `picture_set.images`.
        least: captions that a language needs.
        seed: of the confidence intervals.
    """
    return evaluate_retrieval(
        model,
        picture_set.captions,
        image_features=image_features,
        image_ids=picture_set.images,
        image_space=model.space,
        groups=picture_set.groups,
        dataset=picture_set.key,
        languages=picture_set.languages(least),
        ks=KS,
        name=model.name,
        seed=seed,
    )


def table_of(
    picture_set: PictureSet, rows: Sequence[tuple[str, str, list[dict[str, Any]]]], least: int = LEAST_CAPTIONS
) -> dict[str, Any]:
    """Returns a table of the report: `rows` are (name, kind, results); see `page.render_page` for its keys."""
    groups = picture_set.groups
    sizes = Counter(groups)
    chance = chance_recall(len(groups), [sizes[group] for group in groups], KS).mean(axis=0)
    return {
        "id": picture_set.key,
        "title": picture_set.title,
        "note": picture_set.note,
        "n_images": len(groups),
        "languages": picture_set.languages(least),
        "chance": {f"R@{k}": float(value) for k, value in zip(KS, chance, strict=True)},
        "rows": [
            {"name": name, "kind": kind, **{d: _by_language(results, d) for d in ("t2i", "i2t")}}
            for name, kind, results in rows
        ],
    }


def _by_language(results: list[dict[str, Any]], direction: str) -> dict[str, dict[str, float]]:
    return {
        result["language"]: {f"R@{k}": result["metrics"][f"R@{k}"] for k in KS}
        for result in results
        if result["direction"] == direction
    }


def mean_over(row: dict[str, Any], codes: Sequence[str], metric: str = "R@10", direction: str = "t2i") -> float:
    """Returns the mean of a metric over those of `codes` that the row has; nan where it has none."""
    values = [row[direction][code][metric] for code in codes if code in row[direction]]
    return float(np.mean(values)) if values else float("nan")


def language_facts(codes: Sequence[str], taught: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns names and direction of each language, and whether it was taught, for the report."""
    return {
        code: {
            "name": languages.name(code),
            "native": languages.native_name(code),
            "rtl": languages.is_rtl(code),
            "taught": languages.covers(taught, code),
        }
        for code in codes
    }
