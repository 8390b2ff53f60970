"""The transformers folder of a translation model: a local one, or a repository of the hub at one commit."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.files.tensors import weight_files
from babelclip.models.checkpoints.hub.repository import Repository, open_repository

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Configs and tokenizers, in every form that Marian, NLLB and M2M100 are published in.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "source.spm",
    "target.spm",
    "vocab.json",
    "target_vocab.json",
    "sentencepiece.bpe.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class Checkpoint(NamedTuple):
    """A translation model on disk.

    Attributes:
        folder: holds `config.json`, a tokenizer and weights.
        name: "organisation/name@commit", or the folder.
        identity: equal for equal weights and files: what is made from this checkpoint may be kept under it.
        config: the content of `config.json`.
    """

    folder: Path
    name: str
    identity: str
    config: dict[str, Any]


def locate(name: str) -> Path | Repository:
    """Returns the local folder or the hub's repository that `name` means; nothing is fetched but the list of files.

    Raises:
        BabelclipError: it is neither, or the hub does not answer (within 5 seconds) and its cache has no copy; the
            message has the command that fetches it.
    """
    if name and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise BabelclipError(
            f"{name!r} is no folder, and no name of a hub repository. Give the folder of a translation model in the "
            "transformers layout, or 'organisation/name'."
        )
    return open_repository(name)


def stated(place: Path | Repository) -> str:
    """Returns what a manifest says about the model: "organisation/name@commit", or the folder."""
    return str(place) if isinstance(place, Path) else f"{place.name}@{place.commit}"


def open_checkpoint(place: Path | Repository, model_types: tuple[str, ...]) -> Checkpoint:
    """Returns the model at a place, fetched from the hub where files are missing.

    Args:
        place: what `locate` returned.
        model_types: values of `model_type` in `config.json` that the engine can use.

    Raises:
        BabelclipError: it cannot be fetched, lacks its weights, or is of another kind.
    """
    if isinstance(place, Path):
        folder, names = place, [path.name for path in place.iterdir() if path.is_file()]
    else:
        names = place.names
        folder = place.download([*(name for name in SMALL_FILES if name in names), *weight_files(names, WEIGHTS)])
    weights = weight_files(names, WEIGHTS)
    if "config.json" not in names or not weights:
        lacks = "config.json" if "config.json" not in names else "the weights (model.safetensors, pytorch_model.bin)"
        raise BabelclipError(
            f"{stated(place)} lacks {lacks}. A translation model is a folder in the transformers layout: copy it whole."
        )
    config = read_config(folder / "config.json")
    if config.get("model_type") not in model_types:
        raise BabelclipError(
            f"{stated(place)} is a model of type {config.get('model_type')!r}; this engine takes "
            f"{' or '.join(model_types)}. Choose another model, or the engine that fits: opus for marian, nllb for "
            "m2m_100."
        )
    if isinstance(place, Path):
        used = sorted({*weights, *SMALL_FILES} & set(names))
        facts = [(name, stat.st_size, stat.st_mtime_ns) for name in used if (stat := (folder / name).stat())]
        identity = hashlib.sha256(repr((str(folder.resolve()), facts)).encode()).hexdigest()
    else:
        identity = stated(place)
    return Checkpoint(folder, stated(place), identity, config)


def load_model(model_class: Any, folder: Path, **settings: Any) -> Any:
    """Returns a transformers model in eval mode, with every weight from the folder.

    Raises:
        BabelclipError: a tensor is missing or of another shape; transformers alone would fill it with random numbers.
    """
    with quiet():
        model, report = model_class.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, ignore_mismatched_sizes=True, **settings
        )
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise BabelclipError(
            f"{folder} lacks {len(wrong)} tensors or has them in another shape: {', '.join(wrong[:5])}. The file is "
            "damaged, or config.json is that of another model: fetch the folder again."
        )
    return model.eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' own progress bars and warnings off the screen: they would break the job's bar."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
