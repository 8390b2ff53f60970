"""Zero-shot accuracy of a pair as it is, in one language or several: what `classify` measures and chooses by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from babelclip.evaluate.classification import class_hits, mean_per_class
from babelclip.models.text import inference, normalize_rows
from babelclip.train.class_batches import PromptTexts
from babelclip.train.pictures import PictureInputs
from babelclip.train.towers import Pair

_PICTURES_AT_ONCE, _TEXTS_AT_ONCE = 64, 256

IntArray = npt.NDArray[np.int64]


def zero_shot_scores(image_features: np.ndarray, class_features: np.ndarray, labels: IntArray) -> dict[str, float]:
    """Returns `acc1`, `mean_per_class_recall` and `classes_predicted`, the number of classes that are ever answered.

    A model that answers one class to everything has `classes_predicted` = 1, which its accuracy alone does not say.

    Args:
        image_features: (N, D), rows of unit length.
        class_features: (C, D), rows of unit length.
        labels: (N,) int64 below C; classes without a picture do not count in the mean.
    """
    hits, _ = class_hits(image_features, class_features, labels)
    answers = (image_features @ class_features.T).argmax(axis=1)
    return {
        "acc1": float(hits["acc1"].mean()),
        "mean_per_class_recall": mean_per_class(hits["acc1"], labels),
        "classes_predicted": float(len(np.unique(answers))),
    }


class Scorer:
    """Measures a pair on named sets of pictures; those that cannot be read are left out of a set."""

    def __init__(
        self,
        pair: Pair,
        images: PictureInputs,
        texts: Sequence[PromptTexts],
        sets: Mapping[str, tuple[IntArray, IntArray]],
    ) -> None:
        """Takes what is measured.

        Args:
            pair: as the run trains it.
            images: how it reads pictures.
            texts: prompts of each language.
            sets: name -> what its pictures are called in `images`, and their labels, (N,) both.
        """
        self.pair, self.images, self.texts, self.sets = pair, images, texts, sets

    def __call__(self, name: str) -> dict[str, float]:
        """Returns `acc1`, `mean_per_class_recall` (means over languages), then `acc1/sv` and so on."""
        places, labels = self.sets[name]
        with inference(self.pair):
            features, kept = self._pictures(places)
            by_lang = {
                texts.prompts.lang: zero_shot_scores(features, self._classes(texts), labels[kept])
                for texts in self.texts
            }
        means = {
            key: float(np.mean([found[key] for found in by_lang.values()])) for key in ("acc1", "mean_per_class_recall")
        }
        return means | {f"{key}/{lang}": value for lang, found in by_lang.items() for key, value in found.items()}

    def _pictures(self, places: IntArray) -> tuple[np.ndarray, IntArray]:
        features, kept = [], []
        for start in range(0, len(places), _PICTURES_AT_ONCE):
            batch, stands = self.images.load(places[start : start + _PICTURES_AT_ONCE])
            readable = np.flatnonzero(stands == np.arange(len(stands)))
            vectors = self.pair(self._placed(batch))[0].cpu().numpy()
            features.append(vectors[readable])
            kept.append(start + readable)
        return normalize_rows(np.concatenate(features)), np.concatenate(kept)

    def _classes(self, texts: PromptTexts) -> np.ndarray:
        count = len(texts.prompts.texts)
        blocks = [np.arange(start, min(start + _TEXTS_AT_ONCE, count)) for start in range(0, count, _TEXTS_AT_ONCE)]
        # Through the pair as a whole: sharded weights are gathered there.
        features = [self.pair(self._placed(texts.load(block)))[1].cpu().numpy() for block in blocks]
        return texts.of_classes(np.concatenate(features))

    def _placed(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        device = self.pair.log_scale.device
        return {name: tensor.to(device) for name, tensor in batch.items()}
