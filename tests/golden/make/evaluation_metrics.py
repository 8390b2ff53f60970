"""clip_benchmark's and pytrec_eval's own metrics on random vectors, in the current oracle environment.

Writes metrics/evaluation_metrics/expected.npz: vectors of captions and pictures (uneven numbers of captions a picture),
of classes, labels of one and of several classes, and of items with two pictures; and what the originals make of them.
clip_benchmark's recall is called as its `evaluate` does, per k and direction; its classification and selection through
functions of the same modules. pytrec_eval sees the same scores as runs, one query at a time as mteb gives them.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
import pytrec_eval
import torch
from clip_benchmark.metrics import image_caption_selection, zeroshot_classification, zeroshot_retrieval
from sklearn.metrics import balanced_accuracy_score

from tests.golden.inputs import SEED
from tests.golden.make.common import out_folder, save_expected

ENVIRONMENT = "current"

PICTURES, CLASSES, DIM, ITEMS = 40, 12, 16, 30
KS = (1, 5, 10)
TREC = {"nDCG@10": "ndcg_cut_10", "MAP@100": "map_cut_100", "recall@10": "recall_10"}


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(11 + SEED)
    pictures = random.standard_normal((PICTURES, DIM))
    own = np.sort(np.concatenate([np.arange(PICTURES), random.integers(PICTURES, size=90)]))
    texts = pictures[own] + 1.6 * random.standard_normal((len(own), DIM))
    classes = random.standard_normal((CLASSES, DIM))
    # The last class has no picture, as happens with partial sets.
    labels = random.integers(CLASSES - 1, size=PICTURES)
    several = random.random((PICTURES, CLASSES)) < 0.2
    several[:, -1] = False
    return {
        "texts": unit(texts),
        "pictures": unit(pictures),
        "own": own,
        "classes": unit(classes + 0.5),
        "labels": labels,
        "several": several,
        "item_pictures": unit(random.standard_normal((ITEMS, 2, DIM))),
        "item_texts": unit(random.standard_normal((ITEMS, 2, DIM))),
    }


def recalls(given: dict[str, np.ndarray]) -> dict[str, float]:
    """R@k (any) of both directions, as clip_benchmark's `evaluate` computes it from its score matrix."""
    scores = torch.from_numpy(given["texts"]) @ torch.from_numpy(given["pictures"]).t()
    positive = torch.zeros_like(scores, dtype=bool)
    positive[torch.arange(len(scores)), torch.from_numpy(given["own"])] = True
    found = {}
    for direction, matrix, pairs in (("t2i", scores, positive), ("i2t", scores.T, positive.T)):
        for k in KS:
            recall = zeroshot_retrieval.batchify(zeroshot_retrieval.recall_at_k, matrix, pairs, 16, "cpu", k=k)
            found[f"{direction}_R@{k}"] = (recall > 0).float().mean().item()
            found[f"{direction}_recall@{k}"] = recall.mean().item()
    return found


def trec(given: dict[str, np.ndarray]) -> dict[str, float]:
    """Means of pytrec_eval's figures over the queries of both directions."""
    scores = (given["texts"] @ given["pictures"].T).astype(np.float64)
    pairs = given["own"][:, None] == np.arange(PICTURES)
    found = {}
    for direction, matrix, relevant in (("t2i", scores, pairs), ("i2t", scores.T, pairs.T)):
        truth = {f"q{q}": {f"d{d}": 1 for d in np.flatnonzero(row)} for q, row in enumerate(relevant)}
        run = {f"q{q}": {f"d{d}": float(score) for d, score in enumerate(row)} for q, row in enumerate(matrix)}
        told = pytrec_eval.RelevanceEvaluator(truth, {"ndcg_cut.10", "map_cut.100", "recall.10"}).evaluate(run)
        for name, measure in TREC.items():
            found[f"{direction}_trec_{name}"] = float(np.mean([figures[measure] for figures in told.values()]))
    return found


def classification(given: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracies and mean average precision, by the functions and calls of clip_benchmark's `evaluate`."""
    logits = 100 * torch.from_numpy(given["pictures"]) @ torch.from_numpy(given["classes"]).t()
    labels = torch.from_numpy(given["labels"])
    # Its `accuracy` calls float() on an array of one number, which numpy refuses since 2.4.
    zeroshot_classification.float = lambda array: np.asarray(array).item()
    acc1, acc5 = zeroshot_classification.accuracy(logits, labels, topk=(1, 5))
    precision = zeroshot_classification.average_precision_per_class(logits, torch.from_numpy(given["several"]))
    return {
        "acc1": acc1,
        "acc5": acc5,
        "mean_per_class_recall": float(balanced_accuracy_score(labels, logits.argmax(axis=1))),
        "mean_average_precision": precision.mean().item(),
    }


class Items:
    """A model whose pictures and texts are their vectors already."""

    def encode_image(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens


def selection(given: dict[str, np.ndarray]) -> dict[str, float]:
    """Winoground's three figures by clip_benchmark's `evaluate`."""
    texts = torch.from_numpy(given["item_texts"])
    pictures = torch.from_numpy(given["item_pictures"])[:, :, None, None, :]
    names = [[f"{item} {place}" for place in range(2)] for item in range(ITEMS)]

    def tokenizer(asked: list[str]) -> torch.Tensor:
        return torch.stack([texts[tuple(map(int, name.split()))] for name in asked])

    told = image_caption_selection.evaluate(Items(), [(pictures, names)], tokenizer, "cpu", amp=False)
    return {f"selection_{name}": value for name, value in told.items()}


def main() -> None:
    given = inputs()
    figures = recalls(given) | trec(given) | classification(given) | selection(given)
    packages = {name: version(name) for name in ("clip-benchmark", "pytrec_eval-terrier", "scikit-learn", "torch")}
    save_expected(
        out_folder("metrics/evaluation_metrics"),
        "clip_benchmark.metrics, pytrec_eval",
        packages,
        "no ties: all scores differ",
        **given,
        **{name: np.float64(value) for name, value in figures.items()},
    )


if __name__ == "__main__":
    main()
