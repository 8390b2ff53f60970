"""Text-to-image and image-to-text retrieval in many languages, with the pictures encoded once.

What is compared, in each language:

* `t2i`: every caption of the language is a query, **all** pictures are the corpus, so chance is the same everywhere.
* `i2t`: every picture with a caption of the language is a query, its captions of that language are the corpus.

An item is relevant when it belongs to the query's group. By default every picture is a group of its own; `groups`
joins pictures that the captions cannot tell apart (equal English captions). Entry points: `evaluate_retrieval` with a
model, `evaluate_features` with vectors. Legend: N captions, C pictures, D embed_dim.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError, SpaceMismatchError, did_you_mean
from babelclip.evaluate.hits import pack_hits
from babelclip.evaluate.metrics import (
    QueryScores,
    bootstrap_interval,
    mean_recall,
    recall_at_k,
    score_both,
    score_queries,
)
from babelclip.evaluate.relevance import Relevance, same_group
from babelclip.evaluate.result import RunFacts, build_result, model_facts
from babelclip.evaluate.texts import encoder_in, language_notes
from babelclip.progress import progress_bar

if TYPE_CHECKING:
    from babelclip.data.captions import Captions

DIRECTIONS = ("t2i", "i2t")
# clip_benchmark names a metric after what is retrieved, not after the query.
_CLIP_BENCHMARK_NAMES = {"t2i": "image_retrieval_recall", "i2t": "text_retrieval_recall"}


class Encoder(Protocol):
    """What evaluation asks of a model; `Clip` is one. Both give float32 (N, D), rows L2-normalised."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Returns text features (N, D)."""

    def encode_image(self, pictures: Sequence[Any]) -> np.ndarray:
        """Returns picture features (N, D)."""


def evaluate_retrieval(
    model: Encoder,
    captions: Captions,
    *,
    pictures: Sequence[Any] | None = None,
    image_features: npt.ArrayLike | None = None,
    image_ids: Sequence[str] | None = None,
    image_space: str | None = None,
    groups: Sequence[Hashable] | None = None,
    dataset: str,
    split: str = "test",
    languages: Sequence[str] | None = None,
    directions: Sequence[str] = DIRECTIONS,
    ks: Sequence[int] = (1, 5, 10),
    captions_per_image: str = "all",
    template: str = "{}",
    name: str | None = None,
    seed: int = 0,
    strict: bool = False,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Returns one result a language and direction, each with the fields of `babelclip.evaluate.result.FIELDS`.

    Args:
        model: a `Clip`, or anything that encodes texts (and pictures, where `image_features` is not given).
        captions: rows with `text`, `lang` and `image`, the id of the picture they describe.
        pictures: C paths or pictures, encoded once whatever the number of languages.
        image_features: (C, D) instead of `pictures`; rows are normalised here.
        image_ids: (C,) ids that `captions.image` refers to; by default the paths of `pictures` as strings.
        image_space: space of `image_features`; an error where it is not the model's.
        groups: (C,) group of each picture; pictures and captions of one group are equally relevant.
        dataset: name for the results.
        split: name for the results.
        languages: which to measure, in this order; by default all of `captions`, sorted.
        directions: `t2i`, `i2t` or both.
        ks: see `score_queries`.
        captions_per_image: `all` or `first` (of each language), which changes i2t by up to ten points.
        template: text around each caption, with `{}` for the caption.
        name: name of the model in the results; by default its own.
        seed: of the confidence intervals.
        strict: a caption whose picture is absent is an error, not a counted skip.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: nothing to measure, a language without captions, ids that do not fit, or another fault of
            input; the message names it.
    """
    if (pictures is None) == (image_features is None):
        raise BabelclipError(
            f"pictures and image_features are {'both missing' if pictures is None else 'both given'}; "
            "exactly one is needed. Pass the pictures, or the vectors they were encoded to."
        )
    _check_choices(directions, captions_per_image, template)
    facts = _facts_of(model, dataset, split, template, name, seed)
    if image_space is not None and facts.space and image_space != facts.space:
        raise SpaceMismatchError(image_space, facts.space, "the image features and the model")
    ids = _picture_ids(pictures, image_ids)
    start = time.perf_counter()
    vectors = _unit_rows(model.encode_image(list(pictures)) if pictures is not None else image_features)
    image_seconds = time.perf_counter() - start
    if len(vectors) != len(ids):
        raise BabelclipError(f"There are {len(vectors)} picture vectors for {len(ids)} image_ids; give one id each.")
    rows, skipped = _rows_by_language(captions, ids, languages, captions_per_image == "first", strict)
    picture_groups = _group_numbers(groups, len(ids))
    declared = tuple(getattr(model, "languages", ()))
    results = []
    with progress_bar(f"{facts.model} on {dataset}", len(rows), shown=progress, unit="languages") as advance:
        for code, (texts, places) in rows.items():
            start = time.perf_counter()
            features = encoder_in(model, code)([template.replace("{}", text) for text in texts])
            results += evaluate_features(
                features,
                vectors,
                picture_groups[places],
                picture_groups,
                facts=facts,
                language=code,
                text_images=places,
                directions=directions,
                ks=ks,
                captions_per_image=captions_per_image,
                relevance="own picture" if groups is None else "group",
                declared=declared,
                text_seconds=time.perf_counter() - start,
                image_seconds=image_seconds,
                notes=[f"{skipped[code]} captions without a picture were skipped"] if skipped[code] else [],
            )
            advance(1)
    return results


def evaluate_features(
    text_features: npt.ArrayLike,
    image_features: npt.ArrayLike,
    text_groups: npt.ArrayLike,
    image_groups: npt.ArrayLike,
    *,
    facts: RunFacts,
    language: str,
    text_images: npt.ArrayLike | None = None,
    directions: Sequence[str] = DIRECTIONS,
    ks: Sequence[int] = (1, 5, 10),
    captions_per_image: str = "all",
    relevance: str = "group",
    declared: Sequence[str] | None = None,
    text_seconds: float = 0.0,
    image_seconds: float = 0.0,
    notes: Sequence[str] = (),
    queries: Mapping[str, Sequence[str]] | None = None,
    relevant: Mapping[str, Relevance] | None = None,
    merged: Mapping[str, Relevance] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Returns one result a direction for captions of one language and pictures that are vectors already.

    Args:
        text_features: (N, D); rows are normalised here.
        image_features: (C, D); likewise.
        text_groups: (N,) group of each caption.
        image_groups: (C,) group of each picture; a caption and a picture of one group are relevant to each other.
        facts: what the results state of model and run.
        language: code of the captions.
        text_images: (N,) position of each caption's own picture. It decides which captions are drawn together for the
            confidence intervals (captions of one picture are not independent); by default the group does.
        directions: `t2i`, `i2t` or both; with both, each result carries `MR`, the mean recall over them.
        ks: see `score_queries`.
        captions_per_image: stated in the results.
        relevance: stated in the results: what the groups mean.
        declared: languages the model was made for, () where unknown; a language beyond them gets a note.
        text_seconds: seconds that encoding the captions took.
        image_seconds: seconds that encoding all pictures took, stated apart because languages share it.
        notes: added to every result.
        queries: direction -> what tells its queries apart, (N,) captions for `t2i`, (C,) picture ids for `i2t`. With
            it a result keeps what every query reached (`per_query`), by which two models are compared.
        relevant: direction -> which item answers which query, where groups cannot say it: a text of several pictures
            that have texts of their own. By default the groups do.
        merged: direction -> relevance in which equal captions count as one. With it R@k of that relevance stands
            beside the usual one as `merged_R@k`.
        fields: further fields of every result.

    Raises:
        BabelclipError: shapes disagree, or no caption of the language has its picture here.
    """
    _check_choices(directions, captions_per_image, "{}")
    code = language_codes.normalize(language)
    texts, images = _unit_rows(text_features), _unit_rows(image_features)
    own, picture = np.asarray(text_groups), np.asarray(image_groups)
    if len(own) != len(texts) or len(picture) != len(images):
        raise BabelclipError(
            f"There are {len(own)} groups for {len(texts)} captions and {len(picture)} for {len(images)} pictures; "
            "give one group an item."
        )
    clusters = {"t2i": own if text_images is None else np.asarray(text_images), "i2t": np.arange(len(images))}
    covered = language_codes.covers(declared, code) if declared else None
    start = time.perf_counter()
    relevant = relevant or {"t2i": same_group(own, picture), "i2t": same_group(picture, own)}
    scored = _scored(texts, images, relevant, directions, ks)
    shared_seconds = (time.perf_counter() - start) / len(directions)
    results: list[dict[str, Any]] = []
    for direction in directions:
        start, scores = time.perf_counter(), scored[direction]
        figures = _figures(scores, direction, clusters[direction], facts.seed)
        if merged is not None:
            ends = (texts, images) if direction == "t2i" else (images, texts)
            found = recall_at_k(*ends, merged[direction], ks, exclude_unanswerable=True)
            figures["metrics"].update({f"merged_R@{k}": found[f"R@{k}"] for k in scores.ks})
        if queries is not None:
            figures["per_query"] = _per_query(scores, clusters[direction], queries[direction])
        results.append(
            build_result(
                "zeroshot_retrieval",
                facts,
                language=code,
                captions_per_image=captions_per_image,
                relevance=relevance,
                n_images=len(images),
                n_captions=len(texts),
                declared=covered,
                seconds=text_seconds + shared_seconds + time.perf_counter() - start,
                seconds_images=round(image_seconds, 3),
                notes=[*notes, *scores.notes, *language_notes(code, covered)],
                **figures,
                **(fields or {}),
            )
        )
    if len(results) == len(DIRECTIONS):
        both = mean_recall(*(result["metrics"] for result in results), ks=results[0]["k"])
        for result in results:
            result["metrics"]["MR"] = both
    return results


def _scored(
    texts: npt.NDArray[np.float32],
    images: npt.NDArray[np.float32],
    relevant: Mapping[str, Relevance],
    directions: Sequence[str],
    ks: Sequence[int],
) -> dict[str, QueryScores]:
    """Returns what the queries of each direction reached."""
    forth, back = relevant["t2i"], relevant["i2t"]
    if len(directions) == len(DIRECTIONS):
        return dict(zip(DIRECTIONS, score_both(texts, images, forth, back, ks, exclude_unanswerable=True), strict=True))
    if directions[0] == "t2i":
        return {"t2i": score_queries(texts, images, forth, ks)}
    return {"i2t": score_queries(images, texts, back, ks, exclude_unanswerable=True)}


def _figures(scores: QueryScores, direction: str, clusters: npt.NDArray[Any], seed: int) -> dict[str, Any]:
    """Returns the fields of a result that follow from the scores; `clusters` holds one id a query, scored or not."""
    means = scores.summary()
    names = {f"{_CLIP_BENCHMARK_NAMES[direction]}@{k}": means[f"R@{k}"] for k in scores.ks}
    low, high = bootstrap_interval(scores.hits, clusters=clusters[scores.queries], seed=seed)
    return {
        "direction": direction,
        "k": list(scores.ks),
        "n_queries": len(scores.queries),
        "n_excluded": scores.n_excluded,
        "metrics": {**means, **names},
        "intervals": {f"R@{k}": [float(low[i]), float(high[i])] for i, k in enumerate(scores.ks)},
    }


def _per_query(scores: QueryScores, clusters: npt.NDArray[Any], queries: Sequence[str]) -> dict[str, Any]:
    values = {f"R@{k}": scores.hits[:, place] for place, k in enumerate(scores.ks)}
    return pack_hits(values, clusters=clusters[scores.queries], queries=[queries[row] for row in scores.queries])


def _facts_of(model: object, dataset: str, split: str, template: str, name: str | None, seed: int) -> RunFacts:
    return RunFacts(
        model=name or getattr(model, "name", "") or type(model).__name__,
        dataset=dataset,
        split=split,
        prompt_set="none" if template == "{}" else template,
        seed=seed,
        **model_facts(model),
    )


def _check_choices(directions: Sequence[str], captions_per_image: str, template: str) -> None:
    for direction in directions:
        if direction not in DIRECTIONS:
            raise BabelclipError(f"{direction!r} is not a direction. {did_you_mean(direction, DIRECTIONS)}")
    if not directions or len(set(directions)) < len(directions):
        raise BabelclipError(f"directions is {list(directions)}; it must hold 't2i', 'i2t' or both, each once.")
    if captions_per_image not in ("all", "first"):
        raise BabelclipError(f"captions_per_image is {captions_per_image!r}; it must be 'all' or 'first'.")
    if "{}" not in template:
        raise BabelclipError(f"The template {template!r} has no place for the caption; put {{}} where it belongs.")


def _picture_ids(pictures: Sequence[Any] | None, image_ids: Sequence[str] | None) -> list[str]:
    if image_ids is None:
        if pictures is None or not all(isinstance(picture, (str, Path)) for picture in pictures):
            raise BabelclipError(
                "image_ids is missing and the pictures are not all paths; captions name their picture by an id. "
                "Pass image_ids, one string a picture."
            )
        image_ids = [str(picture) for picture in pictures]
    ids = [str(one) for one in image_ids]
    if pictures is not None and len(ids) != len(pictures):
        raise BabelclipError(f"There are {len(pictures)} pictures for {len(ids)} image_ids; give one id each.")
    if not ids:
        raise BabelclipError("There are 0 pictures; retrieval needs at least one. Check the folder or the filter.")
    if len(set(ids)) < len(ids):
        twice = next(one for i, one in enumerate(ids) if one in ids[:i])
        raise BabelclipError(f"image_ids holds {twice!r} twice; ids must be distinct. Remove one of the two pictures.")
    return ids


def _group_numbers(groups: Sequence[Hashable] | None, n: int) -> npt.NDArray[np.int64]:
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise BabelclipError(f"There are {len(groups)} groups for {n} pictures; give one group a picture.")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _rows_by_language(
    captions: Captions, ids: list[str], wanted: Sequence[str] | None, first_only: bool, strict: bool
) -> tuple[dict[str, tuple[list[str], npt.NDArray[np.int64]]], dict[str, int]]:
    """Returns texts and picture positions by language, and by language how many captions lack their picture."""
    place = {image: position for position, image in enumerate(ids)}
    texts: dict[str, list[str]] = {}
    places: dict[str, list[int]] = {}
    skipped: dict[str, int] = {}
    canonical = {lang: language_codes.normalize(lang) for lang in set(captions.langs)}
    images = captions.table.column("image").to_pylist()
    for text, lang, image in zip(captions.texts, captions.langs, images, strict=True):
        code = canonical[lang]
        position = place.get(image)
        skipped.setdefault(code, 0)
        if position is None:
            skipped[code] += 1
            continue
        texts.setdefault(code, []).append(text)
        places.setdefault(code, []).append(position)
    if strict and any(skipped.values()):
        raise BabelclipError(
            f"{sum(skipped.values())} captions name a picture that is not among the {len(ids)} given (for example "
            f"{next(image for image in images if image not in place)!r}). Add the pictures, or drop strict=True to "
            "skip and count such captions."
        )
    codes = sorted(texts) if wanted is None else [language_codes.normalize(code) for code in dict.fromkeys(wanted)]
    absent = [code for code in codes if code not in texts]
    if absent or not codes:
        raise BabelclipError(
            f"No caption with a picture is in {', '.join(absent) or 'any language'}; present are "
            f"{', '.join(sorted(texts)) or 'none'}. Ask for one of these, or compare the `image` column with image_ids."
        )
    rows = {}
    for code in codes:
        order = np.array(places[code], dtype=np.int64)
        keep = np.sort(np.unique(order, return_index=True)[1]) if first_only else np.arange(len(order))
        rows[code] = ([texts[code][i] for i in keep], order[keep])
    return rows, skipped


def _unit_rows(features: npt.ArrayLike | None) -> npt.NDArray[np.float32]:
    rows = np.asarray(features, dtype=np.float32)
    if rows.ndim != 2:
        raise BabelclipError(f"Features have shape {rows.shape}; they must be (N, D), one row an item.")
    # A zero row stays zero: it resembles nothing, and equally little everything.
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = rows / np.where(norms > 0, norms, np.float32(1))
    return unit
