"""Compares babelclip with the expected outputs in a folder of golden checkpoints: one line of JSON a case.

Usage: python tests/golden/ours.py FOLDER        (with GOLDEN_SEED=N where FOLDER was made with it)

Runs in babelclip's own environment. `make test-oracles` uses it on the committed folder and on fresh ones; the tests in
tests/models check more (order, batches, damaged files), this one gives the figures.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.evaluate.classification import multi_label, single_label
from babelclip.evaluate.metrics import recall_at_k
from babelclip.evaluate.relevance import same_group
from babelclip.evaluate.selection import item_scores
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf, preprocess_from_open_clip
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer
from babelclip.models.cleaning import cleaning_rule
from babelclip.models.clip import Clip
from babelclip.train import losses
from tests.golden.inputs import TEXTS, pictures
from tests.golden.many_pictures import many_pictures

PREPROCESS = {
    "open_clip": preprocess_from_open_clip,
    "openai": lambda resolution: preprocess_from_open_clip({"size": resolution}),
    "transformers": preprocess_from_hf,
}


def checkpoint_cases(folder: Path) -> Iterator[dict]:
    """One case for each array that every model has: texts as a list and one at a time, pictures, scale and bias."""
    with np.load(folder / "expected.npz") as archive:
        expected = dict(archive)
    clip = babelclip.load(folder)
    for name, array in expected.items():
        ours = _output(clip, name, array)
        if ours is None:
            continue
        if ours.shape != array.shape:
            raise BabelclipError(f"{name}: {ours.shape} here, {array.shape} there")
        difference = float(np.abs(ours.astype(np.float64) - array).max())
        yield {"case": folder.name, "array": name, "items": len(array) if array.ndim else 1, "max_abs": difference}


def _output(clip: Clip, name: str, expected: np.ndarray) -> np.ndarray | None:
    if name == "text":
        return clip.encode_text(TEXTS, normalize=False)
    if name == "text_single":
        return np.concatenate([clip.encode_text([text], normalize=False) for text in TEXTS])
    if name == "text_sv":
        return clip.encode_text(TEXTS, normalize=False, lang="sv")
    if name == "image":
        return clip.encode_image(pictures()[: len(expected)], normalize=False)
    if name in ("logit_scale", "logit_bias"):
        return np.asarray(getattr(clip, name), dtype=np.float64)
    return None


def preprocess_cases(path: Path) -> Iterator[dict]:
    """One case for each origin and setting: how many pictures differ in any bit."""
    made = many_pictures()
    for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
        preprocess = PREPROCESS[case["origin"]](case["config"])
        if path.stem.endswith("_old"):  # transformers 4 drops transparency where 5 lays it on white
            preprocess = replace(preprocess, alpha="drop")
        differing = [
            name
            for name, picture in made
            if case["hashes"][name] is not None
            and hashlib.sha256(preprocess(picture).astype("<f4").tobytes()).hexdigest()[:20] != case["hashes"][name]
        ]
        config = json.dumps(case["config"])
        yield {"case": path.stem, "array": f"{case['origin']} {config}", "items": len(made), "differing": differing}


def cleaning_cases(path: Path) -> Iterator[dict]:
    """One case for each rule: which texts it cleans otherwise."""
    rows = json.loads(path.read_text(encoding="utf-8"))["cleaned"]
    for name in rows[0].keys() - {"text"}:
        clean = cleaning_rule(name)
        differing = [repr(row["text"]) for row in rows if clean(row["text"]) != row[name]]
        yield {"case": path.stem, "array": name, "items": len(rows), "differing": differing}


def tokenizer_cases(path: Path) -> Iterator[dict]:
    """Which texts have other ids."""
    expected = json.loads(path.read_text(encoding="utf-8"))["ids"]
    ours = read_tokenizer(path.parent, max_length=24)(TEXTS)
    differing = [repr(text) for text, a, b in zip(TEXTS, ours, expected, strict=True) if a != b]
    yield {"case": path.parent.name, "array": "ids", "items": len(expected), "differing": differing}


def loss_cases(folder: Path) -> Iterator[dict]:
    """One case for each value and gradient of the contrastive losses."""
    with np.load(folder / "expected.npz") as archive:
        expected = dict(archive)
    for name, array in contrastive_losses(expected).items():
        difference = float(np.abs(array - expected[name]).max())
        yield {"case": folder.name, "array": name, "items": array.size, "max_abs": difference}


def contrastive_losses(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values and gradients of our losses on the vectors, scale and bias in `given`, by the names that it has."""
    names = ["image_features", "text_features", "scale", "bias"]
    found = {}
    for prefix, count, loss in (("clip", 3, losses.clip_loss), ("sigmoid", 4, losses.sigmoid_loss)):
        leaves = [torch.from_numpy(given[name]).requires_grad_() for name in names[:count]]
        value = loss(*leaves)
        for name, gradient in zip(names, torch.autograd.grad(value, leaves), strict=False):
            found[f"{prefix}_d_{name}"] = gradient.numpy()
        found[prefix] = value.detach().numpy()
    return found


def metric_cases(folder: Path) -> Iterator[dict]:
    """One case for each figure of evaluation."""
    with np.load(folder / "expected.npz") as archive:
        expected = dict(archive)
    for name, figure in evaluation_metrics(expected).items():
        yield {"case": folder.name, "array": name, "items": 1, "max_abs": abs(figure - float(expected[name]))}


def evaluation_metrics(given: dict[str, np.ndarray]) -> dict[str, float]:
    """Our figures on the vectors in `given`, by the names that it has."""
    own, every = given["own"], np.arange(len(given["pictures"]))
    directions = {
        "t2i": recall_at_k(given["texts"], given["pictures"], same_group(own, every)),
        "i2t": recall_at_k(given["pictures"], given["texts"], same_group(every, own)),
    }
    found = {f"{direction}_{name}": value for direction, means in directions.items() for name, value in means.items()}
    found |= {
        f"{d}_trec_{name}": means[name]
        for d, means in directions.items()
        for name in ("nDCG@10", "MAP@100", "recall@10")
    }
    found |= single_label(given["pictures"], given["classes"], given["labels"]).metrics
    found |= multi_label(given["pictures"], given["classes"], given["several"]).metrics
    items = [item_scores(a @ b.T) for a, b in zip(given["item_pictures"], given["item_texts"], strict=True)]
    found |= {f"selection_{name}": float(np.mean([item[name] for item in items])) for name in items[0]}
    return {name: value for name, value in found.items() if name in given}


def main() -> None:
    root = Path(sys.argv[1])
    parts = [(path.parent, checkpoint_cases) for path in sorted(root.glob("*/expected.npz"))]
    parts += [(path.parent, loss_cases) for path in root.glob("losses/*/expected.npz")]
    parts += [(path.parent, metric_cases) for path in root.glob("metrics/*/expected.npz")]
    parts += [(path, preprocess_cases) for path in sorted(root.glob("preprocess*.json"))]
    parts += [(path, cleaning_cases) for path in root.glob("cleaning.json")]
    parts += [(path, tokenizer_cases) for path in sorted(root.glob("tokenizer_*/expected.json"))]
    for path, cases in parts:
        try:
            for case in cases(path):
                sys.stdout.write(json.dumps(case) + "\n")
        except Exception as error:  # one broken case must not hide the others
            sys.stdout.write(json.dumps({"case": path.name, "error": f"{type(error).__name__}: {error}"}) + "\n")


if __name__ == "__main__":
    main()
