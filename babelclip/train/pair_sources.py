"""What a contrastive recipe names, opened: both towers, captions with their pictures, stores, the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import babelclip
from babelclip.data.captions import Captions
from babelclip.data.sources import image_root, read_all
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.store import EmbeddingStore
from babelclip.train.pair_inputs import LIVE
from babelclip.train.recall import Benchmark
from babelclip.train.recipe import Recipe
from babelclip.train.students import fit_student, load_student
from babelclip.train.towers import is_locked


def open_towers(recipe: Recipe) -> Clip:
    """Returns the clip to train, with the pooling, head and longest text of [student].

    That is `student.model`; where `towers.image_model` is named, it is the picture tower of that, in its space, with a
    text tower that may be any text encoder (`students.load_student`).

    Raises:
        BabelclipError: no model is named, or the towers do not fit.
    """
    model, other, seed = recipe.student.model, recipe.towers.image_model, recipe.train.seed
    if not model:
        raise BabelclipError(
            'The recipe does not say student.model, which contrastive training needs. Write model = "…" under '
            "[student], or give --set student.model=…"
        )
    if not other:
        # A locked picture tower whose vectors are stored may lack.
        stored = recipe.towers.image_features not in ("", LIVE) and is_locked(recipe.towers.image)
        towers = "text" if stored and not recipe.data.benchmark else "both"
        # A lower precision would round the weights that training starts from.
        clip = babelclip.load(model, towers=towers, dtype="float32")
        if clip.text is not None:
            clip.text = fit_student(clip.text, recipe.student, embed_dim=clip.embed_dim, seed=seed)
        return clip
    image = babelclip.load(other, towers="image", dtype="float32")
    text = load_student(recipe.student, embed_dim=image.embed_dim, seed=seed)
    return Clip(
        space=image.space,
        text=text.text,
        image=image.image,
        logit_scale=image.logit_scale,
        logit_bias=image.logit_bias,
        languages=text.languages,
        name=text.name,
        attribution=tuple(dict.fromkeys((*text.attribution, *image.attribution))),
    )


def open_pairs(sources: Sequence[str], setting: str, lang: str = "") -> tuple[Captions, dict[str, Path]]:
    """Returns the captions of some sources, and where each picture lies, by its name; `lang` is of those without one.

    Raises:
        BabelclipError: no source is named, or two of them call different pictures by one name.
    """
    if not sources:
        raise BabelclipError(
            f'The recipe does not say {setting}, which this training needs. Write captions = ["…"] under [data], or '
            f"give --set {setting}=…"
        )
    parts, paths = [], dict[str, Path]()
    for source in sources:
        part = read_all(source, lang=lang or None)
        parts.append(part)
        root = image_root(source)
        for name in dict.fromkeys(name for name in part.table["image"].to_pylist() if name):
            path = root / name
            if paths.setdefault(name, path) != path:
                raise BabelclipError(
                    f"{setting} names two pictures {name!r}: {paths[name]} and {path}. A name is the id of a picture: "
                    "rename one, or put both sources into one folder."
                )
    return Captions.concat(parts), paths


def open_benchmark(recipe: Recipe) -> Benchmark | None:
    """Returns the captions of `data.benchmark` with their pictures, None where none is named."""
    if not recipe.data.benchmark:
        return None
    captions, paths = open_pairs(recipe.data.benchmark, "data.benchmark", recipe.data.lang)
    return Benchmark(captions.require_images(), paths)


def store_of(path: str) -> EmbeddingStore | None:
    """Returns the store of a setting of [towers]; None for vectors that are to be computed."""
    return None if path in ("", LIVE) else EmbeddingStore.open(path)
