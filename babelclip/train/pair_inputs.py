"""How texts and pictures come into the steps of a contrastive run: through their tower, or as vectors.

A locked tower runs once for each item: its vectors are in a store that the caller gives, or are computed into the
run's folder. With "live" in [towers] it runs at each step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from babelclip.data.captions import Captions
from babelclip.models.clip import Clip
from babelclip.models.decoding import decoder_pool
from babelclip.store import EmbeddingStore
from babelclip.train import pictures
from babelclip.train.pair_batches import LiveTexts
from babelclip.train.processes import Processes
from babelclip.train.recipe import Recipe
from babelclip.train.texts import TokenTable, beyond_room, langs_of
from babelclip.train.towers import is_locked

# Instead of a store in `towers.image_features` and `towers.text_features`.
LIVE = "live"
TOO_LONG = "text is too long"


class PairInputs:
    """Opens what the steps read; `skipped` counts captions that were left out, by reason, `truncated` long ones."""

    def __init__(
        self,
        clip: Clip,
        recipe: Recipe,
        out: Path,
        processes: Processes,
        stack: contextlib.ExitStack,
        progress: bool,
    ) -> None:
        """Takes the run; decoders live as long as `stack`."""
        self.clip, self.recipe, self.out, self.processes = clip, recipe, out, processes
        self.stack, self.progress = stack, progress
        self.skipped: dict[str, int] = {}
        self.truncated = 0

    def pictured(
        self, captions: Captions, paths: Mapping[str, Path] | None, store: EmbeddingStore | None
    ) -> tuple[Captions, EmbeddingStore | None]:
        """Returns the captions that have a picture, and the vectors of the pictures, None where their tower is live."""
        strict, workers = self.recipe.data.strict, self.recipe.data.workers
        places = pictures.paths_of(captions, paths)
        captions, self.skipped = pictures.usable(captions, places, store, strict=strict)
        tower = self.clip.image
        if store is not None or not is_locked(self.recipe.towers.image) or self.recipe.towers.image_features == LIVE:
            return captions, store
        assert tower is not None  # checked by the caller
        places = pictures.paths_of(captions, paths)
        with self.processes.main_first(self.out):
            store = pictures.computed_once(
                tower,
                places,
                self.out / "image_features",
                space=self.clip.space,
                model=self.clip.name or self.clip.space,
                workers=workers,
                strict=strict,
                progress=self.progress and self.processes.writes,
            )
        captions, unreadable = pictures.usable(captions, places, store, strict=strict, absent=pictures.UNREADABLE)
        self.skipped |= unreadable
        return captions, store

    def of_texts(
        self, captions: Captions, store: EmbeddingStore | None
    ) -> tuple[Captions, LiveTexts | pictures.Vectors]:
        """Returns the captions that are not too long, and their texts as tokens, or as vectors of a locked tower."""
        tower = self.clip.text
        if store is None and is_locked(self.recipe.towers.text) and self.recipe.towers.text_features != LIVE:
            assert tower is not None  # checked by the caller
            rows = zip(captions.ids, zip(captions.texts, captions.langs, strict=True), strict=True)
            text_of = dict(rows)

            def encode(ids: list[str]) -> tuple[list[str], np.ndarray]:
                texts, langs = zip(*(text_of[name] for name in ids), strict=True)
                return ids, tower.encode(texts, normalize=False, lang=langs_of(tower, langs))

            with self.processes.main_first(self.out):
                store = pictures.once(
                    self.out / "text_features",
                    captions.ids,
                    encode,
                    self.clip.space,
                    self.clip.name or self.clip.space,
                    tower.embed_dim,
                    "text",
                    self.progress and self.processes.writes,
                )
        if store is not None:
            return captions, pictures.Vectors(store, captions.ids, "texts")
        assert tower is not None
        table = TokenTable.from_texts(tower, captions.texts, captions.langs)
        long = beyond_room(tower.tokenizer, captions.texts, table.lengths)
        if self.recipe.student.long == "truncate" or not long.any():
            self.truncated = int(long.sum())
            return captions, LiveTexts(table)
        self.skipped[TOO_LONG] = int(long.sum())
        kept = Captions(captions.table.filter(pa.array(~long)), dict(captions.skipped))
        return kept, LiveTexts(table.select(~long))

    def of_pictures(
        self, captions: Captions, paths: Mapping[str, Path] | None, store: EmbeddingStore | None
    ) -> pictures.Vectors | pictures.Pixels:
        """Returns the pictures, numbered as they appear in the captions."""
        places = pictures.paths_of(captions, paths)
        if store is not None:
            return pictures.Vectors(store, list(places))
        assert self.clip.image is not None  # checked by the caller
        data = self.recipe.data
        pool = self.stack.enter_context(decoder_pool(data.workers, len(places)))
        return pictures.Pixels(self.clip.image.preprocess, list(places.values()), pool, strict=data.strict)
