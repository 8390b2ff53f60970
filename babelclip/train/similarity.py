"""The validation of trainings on sentences: how well cosines follow scored pairs, measured through the model itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from babelclip.evaluate.sts import correlations, pair_cosines
from babelclip.models.batching import token_batches
from babelclip.models.encoding import inference
from babelclip.models.text import TextEncoder
from babelclip.train.pairs import ScoredPairs
from babelclip.train.recipe import Recipe
from babelclip.train.sentences import distinct_sentences

# Ids and mask (N, T) to the vectors (N, D) of one or several encoders.
Vectors = Callable[[Tensor, Tensor], Sequence[Tensor]]


class Similarity:
    """Scored pairs, tokenised once; calling it measures the encoders as they are."""

    def __init__(
        self, model: nn.Module, vectors: Vectors, encoder: TextEncoder, pairs: ScoredPairs, recipe: Recipe
    ) -> None:
        """Takes what computes vectors.

        Args:
            model: is put into eval mode meanwhile.
            vectors: must call `model` itself and not its parts, because weights of several processes gather there.
            encoder: tokenises; its dimension is that of the vectors.
            pairs: are read whole, whatever `student.max_length` says of the training.
            recipe: `train.tokens_per_batch` is the most padded tokens of a pass.
        """
        self.model, self.vectors, self.scores = model, vectors, pairs.scores
        self.dim, self.budget = encoder.embed_dim, recipe.train.tokens_per_batch
        whole = dataclasses.replace(recipe.student, max_length=0, long="truncate")
        self.sentences = distinct_sentences(encoder, [*pairs.first, *pairs.second], whole)

    def __call__(self) -> list[dict[str, float]]:
        """Returns `spearman` and `pearson` of each encoder."""
        first, second = np.split(self.sentences.of_text, 2)
        found = []
        for features in self._features():
            figures = correlations(pair_cosines(features[first], features[second]), self.scores)
            found.append({key: figures[key] for key in ("spearman", "pearson")})
        return found

    def _features(self) -> list[np.ndarray]:
        """Returns the vectors (M, D) float32 of the distinct sentences by each encoder."""
        features: list[np.ndarray] = []
        tokens = self.sentences.tokens
        device = next(self.model.parameters()).device
        with inference(self.model):
            for rows in token_batches(tokens.lengths.tolist(), self.budget):
                ids, mask = (tensor.to(device) for tensor in tokens.load(rows))
                for place, made in enumerate(self.vectors(ids, mask)):
                    if place == len(features):
                        features.append(np.empty((len(tokens.lengths), self.dim), dtype=np.float32))
                    features[place][rows] = made.to(torch.float32).cpu().numpy()
        return features
