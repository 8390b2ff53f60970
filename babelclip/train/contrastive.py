"""Contrastive training of a `Clip` on captioned pictures, with either tower locked in part or whole.

CLIP (Radford et al., arXiv 2103.00020) and locked-image tuning (LiT, Zhai et al., arXiv 2111.07991). A locked picture
tower runs once a picture, not once a step, and its vectors may come from a store. Entry point: `train_contrastive`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from babelclip.data.captions import Captions, text_key
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import open_picture
from babelclip.models.text import TextEncoder
from babelclip.store import EmbeddingStore
from babelclip.train import loop
from babelclip.train.batches import even_batches
from babelclip.train.device import training_device, versions
from babelclip.train.losses import clip_loss
from babelclip.train.recipe import Recipe, Train, recipe_to_dict, to_toml
from babelclip.train.texts import TokenTable
from babelclip.train.trainable import count_weights, lock_still, select_parameters, set_dropout

# The start of CLIP, 1 / 0.07, for a model that has no scale yet.
_FIRST_LOGIT_SCALE = 1 / 0.07
# Decoded pictures kept in memory, in bytes; above it they are decoded again each epoch.
_PIXELS_IN_MEMORY = 1 << 30
_DEFAULT_BATCH = 64


@dataclass(frozen=True)
class ContrastiveResult:
    """What a contrastive run did; the Clip was trained in place, its `logit_scale` included."""

    run: loop.RunResult
    captions: int
    pictures: int
    trained_weights: int
    logit_scale: float


class _Pair(nn.Module):
    """Both towers and the logarithm of the logit scale; a locked picture tower is absent, its vectors are given."""

    def __init__(self, text: TextEncoder, image: ImageEncoder | None, logit_scale: float) -> None:
        super().__init__()
        self.text = text
        self.image = image
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        pictures = batch["pictures"] if self.image is None else self.image(batch["pictures"])
        texts = self.text(batch["input_ids"], batch["attention_mask"])
        return pictures.float(), texts.float(), self.log_scale.exp()


def train_contrastive(
    clip: Clip,
    captions: Captions,
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    image_features: EmbeddingStore | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
    progress: bool = True,
) -> ContrastiveResult:
    """Trains the free parts of `clip` in place, sets `clip.logit_scale`, and returns how it went.

    Args:
        clip: both towers; the picture tower may be absent where `image_features` are given.
        captions: rows with a picture path in `image`; several rows may share a picture or a text, and count as
            positives of each other.
        recipe: sections train, loss, student (dropout) and towers count. `train.batch_size` captions a batch (64
            where it is 0); accumulated batches do not see each other's negatives.
        out: folder for log, checkpoints and the resolved `recipe.toml`.
        resume: go on from the last checkpoint in `out`.
        image_features: raw vectors of the pictures, ids = values of `image`; needs `towers.image = "locked"`.
        validate: figures such as {"R@10": …}, measured with the towers as they are.
        progress: show bars on stderr.

    Raises:
        BabelclipError: a tower is missing, a caption has no picture, or fewer than two texts differ.
        LossError: the loss is not finite.
    """
    out = Path(out)
    text = _check(clip, captions, recipe, image_features)
    image_locked = recipe.towers.image.strip().lower() == "locked"
    device = training_device(recipe.train)
    for tower in (clip.text, clip.image):
        if tower is not None:
            tower.float().to(device)
    names, picture_of = _distinct(captions.table.column("image").to_pylist())
    pictures: _Features | _Pixels
    if image_locked:
        pictures = _locked_features(clip, names, image_features, progress)
    else:
        assert clip.image is not None  # _check refuses it
        pictures = _Pixels(clip.image, names)
    scale = clip.logit_scale if clip.logit_scale is not None else _FIRST_LOGIT_SCALE
    model = _Pair(text, None if image_locked else clip.image, scale)
    parameters = _parameters(model, clip, recipe)
    tokens = TokenTable.from_texts(text, captions.texts)
    data = _Data(tokens, pictures, picture_of, text_groups(captions.texts), recipe.train)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "recipe.toml") as temporary:
        temporary.write_text(to_toml(recipe), encoding="utf-8")
    result = _run(clip, model, data, parameters, recipe, out, validate, resume, progress)
    return ContrastiveResult(
        result, len(captions), len(names), count_weights(parameters), clip.logit_scale or float("nan")
    )


def _run(
    clip: Clip,
    model: _Pair,
    data: _Data,
    parameters: Mapping[str, nn.Parameter],
    recipe: Recipe,
    out: Path,
    validate: Callable[[], Mapping[str, float]] | None,
    resume: bool,
    progress: bool,
) -> loop.RunResult:
    highest = math.log(recipe.towers.max_logit_scale)
    content = recipe_to_dict(recipe)

    def clamp() -> None:
        with torch.no_grad():
            model.log_scale.clamp_(max=highest)

    result = loop.run(
        model,
        _step_loss,
        data,
        parameters,
        recipe.train,
        out,
        validate=validate,
        after_step=clamp,
        resume=resume,
        facts={"towers": content["towers"], "dropout": recipe.student.dropout, "captions": data.fingerprint},
        about={"versions": versions()},
        progress=progress,
    )
    model.eval()
    clip.logit_scale = float(model.log_scale.detach().double().exp())
    return result


def _step_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    pictures, texts, scale = model(batch)
    text_ids, picture_ids = batch["text_ids"], batch["picture_ids"]
    if bool((text_ids == text_ids[0]).all()):
        raise BabelclipError(
            f"A batch of {len(text_ids)} captions holds 1 distinct text, so there is nothing to tell apart. "
            "Raise train.batch_size, or give captions that differ."
        )
    same = (text_ids[:, None] == text_ids[None, :]) | (picture_ids[:, None] == picture_ids[None, :])
    with torch.autocast(pictures.device.type, enabled=False):
        loss = clip_loss(pictures, texts, scale, same)
    return loss, {"logit_scale": scale.detach()}


class _Features:
    """Vectors of locked pictures (M, D), all in memory or read from a store batch by batch."""

    def __init__(self, vectors: np.ndarray | None, store: EmbeddingStore | None, rows: np.ndarray | None) -> None:
        self.vectors, self.store, self.rows = vectors, store, rows

    def load(self, pictures: np.ndarray) -> np.ndarray:
        if self.store is not None and self.rows is not None:
            return self.store.gather(self.rows[pictures])
        assert self.vectors is not None  # one of the two is given
        return np.asarray(self.vectors[pictures])


class _Pixels:
    """Pictures of a free tower: decoded when first met, kept while they fit in memory."""

    def __init__(self, image: ImageEncoder, paths: list[str]) -> None:
        self.image, self.paths = image, paths
        self.kept: dict[int, np.ndarray] = {}
        self.room = _PIXELS_IN_MEMORY

    def load(self, pictures: np.ndarray) -> np.ndarray:
        return np.stack([self._pixels(int(picture)) for picture in pictures])

    def _pixels(self, picture: int) -> np.ndarray:
        if picture in self.kept:
            return self.kept[picture]
        pixels = self.image.preprocess(open_picture(self.paths[picture]))
        if pixels.nbytes <= self.room:
            self.room -= pixels.nbytes
            self.kept[picture] = pixels
        return pixels


class _Data:
    """Batches of captions with their pictures, and who belongs to whom."""

    def __init__(
        self,
        tokens: TokenTable,
        pictures: _Features | _Pixels,
        picture_of: np.ndarray,
        text_of: np.ndarray,
        settings: Train,
    ) -> None:
        self.text, self.pictures, self.picture_of, self.text_of = tokens, pictures, picture_of, text_of
        self.settings = settings
        self.fingerprint: dict[str, Any] = {
            "tokens": tokens.fingerprint,
            "pictures": int(np.dot(picture_of, np.arange(1, len(picture_of) + 1))),
        }

    def plan(self, epoch: int) -> list[np.ndarray]:
        size = self.settings.batch_size or _DEFAULT_BATCH
        return even_batches(len(self.text_of), size, epoch=epoch, seed=self.settings.seed)

    def load(self, rows: np.ndarray) -> dict[str, Tensor]:
        input_ids, attention_mask = self.text.load(rows)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "pictures": torch.from_numpy(self.pictures.load(self.picture_of[rows])),
            "text_ids": torch.from_numpy(self.text_of[rows]),
            "picture_ids": torch.from_numpy(self.picture_of[rows]),
        }

    def tokens(self, rows: np.ndarray) -> int:
        return int(self.text.lengths[rows].sum())


def text_groups(texts: Sequence[str]) -> np.ndarray:
    """Returns a number for each text (N,) int64, the same for texts that differ in case or spacing only."""
    return _distinct([text_key(text) for text in texts])[1]


def _distinct(values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Returns the distinct values in order of appearance, and the number of each value among them (N,) int64."""
    numbers: dict[str, int] = {}
    of_value = np.fromiter((numbers.setdefault(v, len(numbers)) for v in values), dtype=np.int64, count=len(values))
    return list(numbers), of_value


def _parameters(model: _Pair, clip: Clip, recipe: Recipe) -> dict[str, nn.Parameter]:
    """Returns what trains, by its name in the pair, and sets gradients and modes of both towers."""
    chosen: dict[str, nn.Parameter] = {}
    for name, tower, trainable in (("text", clip.text, recipe.towers.text), ("image", clip.image, recipe.towers.image)):
        if tower is None:
            continue
        selected = select_parameters(tower, trainable, setting=f"towers.{name}")
        chosen |= {f"{name}.{key}": parameter for key, parameter in selected.items()}
        if name == "text":
            set_dropout(tower, recipe.student.dropout)
        else:
            # Batch norms of a free tower gather statistics; those of locked layers stand still.
            tower.train()
            lock_still(tower)
    if recipe.towers.logit_scale == "free":
        chosen["log_scale"] = model.log_scale
    else:
        model.log_scale.requires_grad_(False)
    if not set(chosen) - {"log_scale"}:
        raise BabelclipError('Both towers are locked, so nothing trains: set text or image to "free" in [towers].')
    return chosen


def _locked_features(clip: Clip, names: list[str], store: EmbeddingStore | None, progress: bool) -> _Features:
    if store is not None:
        return _Features(None, store, np.asarray(store.positions(names), dtype=np.int64))
    assert clip.image is not None  # _check refuses it
    return _Features(clip.image.encode(names, normalize=False, progress=progress), None, None)


def _check(clip: Clip, captions: Captions, recipe: Recipe, store: EmbeddingStore | None) -> TextEncoder:
    locked = recipe.towers.image.strip().lower() == "locked"
    if recipe.train.kind != "contrastive" or list(recipe.loss_terms()) != ["clip"]:
        raise BabelclipError(
            f'Contrastive training was given train.kind = "{recipe.train.kind}" and the loss {recipe.loss.name!r}: '
            'set kind = "contrastive" in [train] and name = "clip", or nothing, in [loss].'
        )
    if clip.text is None or (clip.image is None and store is None):
        raise BabelclipError("Contrastive training needs both towers: load the model with towers='both'.")
    if store is not None:
        if not locked:
            raise BabelclipError(
                f'Stored picture vectors do not move, but towers.image = {recipe.towers.image!r}: set it to "locked", '
                "or train without image_features."
            )
        clip.check_space(store.space, f"store {store.path} and the model {clip.name or clip.space}")
        if store.dim != clip.embed_dim:
            raise BabelclipError(
                f"Picture vectors have {store.dim} dimensions, the model {clip.embed_dim}: encode again."
            )
    pictures = captions.table.column("image").to_pylist()
    missing = [caption_id for caption_id, picture in zip(captions.ids, pictures, strict=True) if not picture]
    if missing:
        raise BabelclipError(
            f"{len(missing)} of {len(captions)} captions name no picture, for example {', '.join(missing[:3])}: "
            "fill their column image, or leave them out."
        )
    counts = Counter(text_groups(captions.texts).tolist())
    if len(counts) < 2:
        raise BabelclipError(
            f"{len(captions)} captions hold {len(counts)} distinct text; contrastive training needs at least 2. "
            "Give captions that differ."
        )
    return clip.text
