"""The steps that both classes share: tokens as given, masked mean, and a cache folder that the caller names."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from babelclip import registry
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.hub.repository import open_repository
from babelclip.models.checkpoints.text_body import room


def mean_of_states(transformer: nn.Module, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the masked mean (N, H) of the last hidden states, special tokens included, in the backbone's dtype.

    Args:
        transformer: a BERT-type backbone of transformers.
        tokens: what its tokenizer returned: `input_ids` and `attention_mask` (N, T) int64, perhaps token types. They
            are moved to the backbone's device; the original leaves them on the CPU.

    Raises:
        BabelclipError: the texts have more tokens than the backbone has positions, where the original ends with an
            index error.
    """
    config: Any = transformer.config
    most = room(config.to_dict())
    given = tokens["input_ids"].shape[1]
    if given > most:
        raise BabelclipError(
            f"The texts came as {given} tokens; this model reads at most {most}. Cut them: pass a tokenizer that "
            f"truncates, or use babelclip.load(...).encode_text, which cuts at {most} tokens."
        )
    device = next(transformer.parameters()).device
    accepted = inspect.signature(transformer.forward).parameters
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in tokens and name in accepted]
    inputs = {name: tokens[name].to(device) for name in names}
    states = transformer(**inputs)[0]
    mask = inputs["attention_mask"]
    mean: torch.Tensor = (states * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1)[:, None]
    return mean


@contextlib.contextmanager
def hub_cache_in(cache_dir: str | Path | None) -> Iterator[None]:
    """Runs the block with `cache_dir` as the hub's cache, as the old packages' argument of that name does.

    It sets the environment variable that every tool of the hub reads, so two threads should not name two folders.
    """
    before = os.environ.get("HF_HUB_CACHE")
    if cache_dir is not None:
        os.environ["HF_HUB_CACHE"] = str(cache_dir)
    try:
        yield
    finally:
        if cache_dir is not None:
            os.environ.pop("HF_HUB_CACHE")
            if before is not None:
                os.environ["HF_HUB_CACHE"] = before


def folder_of(
    name: str | Path, wanted: Callable[[list[str], str], list[str]], cache_dir: str | Path | None = None
) -> Path:
    """Returns the folder of a text model: `name` itself, or what a reader wants of the hub repository of that name.

    A published model comes at the revision that its card states, as in `babelclip.load`.

    Raises:
        BabelclipError: it is no folder, and the hub does not have it or does not answer.
    """
    if Path(name).is_dir():
        return Path(name)
    card = registry.find(str(name))
    pinned = f"{card.repo}@{card.revision}".rstrip("@") if card is not None else str(name)
    with hub_cache_in(cache_dir):
        repository = open_repository(pinned)
        return repository.download(wanted(repository.names, "text"))
