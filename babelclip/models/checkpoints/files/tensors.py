"""The tensors of a checkpoint by name, read lazily, whatever file form they lie in.

    tensors = open_tensors(Path("XLM-Roberta-Large-Vit-B-32"))
    tensors["LinearTransformation.weight"]      # (D, H), a view of the memory-mapped file, as stored

Forms: safetensors and torch archives (.bin, .pt), single or in shards with an index; OpenAI's TorchScript archives;
torch files from before the zip form; Keras .h5. Names come without what training wrapped around them: an outer
`{"module": ...}`, `{"state_dict": ...}` or `{"model": ...}`, and a prefix `module.` (DDP) or `_orig_mod.`
(torch.compile) that all names share.
Files are the data of strangers: no code in them runs, and opening one reads its headers only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from babelclip.errors import BabelclipError, shown
from babelclip.files import read_json
from babelclip.models.checkpoints.files import torch_archive

INDEX = ".index.json"
# One model often lies in a folder in several forms. The first of these is read: safe and fast ones before others.
WEIGHT_NAMES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "model.safetensors" + INDEX,
    "open_clip_model.safetensors" + INDEX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.bin" + INDEX,
    "model.pt",
    "tf_model.h5",
)
WRAPPERS = ("state_dict", "module", "model")
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Entry:
    """One tensor: the file it lies in, its name there, its shape, and how to read it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


class Tensors(Mapping[str, torch.Tensor]):
    """The tensors of one checkpoint by name. Values are read when asked for, in their stored dtype, on the CPU."""

    def __init__(self, path: Path, entries: Mapping[str, Entry]) -> None:
        """`path` is the file or folder, for messages; `entries` are named as the file names them."""
        self.path = path
        self._entries = dict(entries)
        # Again and again: which of the two stands outside depends on what was wrapped first.
        while self._entries and (shared := [p for p in PREFIXES if all(name.startswith(p) for name in self._entries)]):
            self._entries = {name.removeprefix(shared[0]): entry for name, entry in self._entries.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        """Returns the tensor `name`; where the form allows it, a view of the memory-mapped file."""
        return self._entries[name].read()

    def __contains__(self, name: object) -> bool:
        """Returns whether the checkpoint has `name`, without reading the tensor."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names, in the order of the file."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Returns how many tensors there are."""
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of the tensor `name` without reading it."""
        return self._entries[name].shape

    def where(self, name: str) -> str:
        """Returns "FILE, tensor NAME" with the name as the file has it, for messages."""
        entry = self._entries[name]
        return f"{entry.path}, tensor {shown(entry.name)}"


def open_tensors(folder: Path, names: Sequence[str] = WEIGHT_NAMES) -> Tensors:
    """Returns the tensors of the checkpoint in `folder`, or of one weight file given instead of a folder.

    Args:
        folder: where the weights lie. A file is read in the form that its content shows.
        names: file names in order of preference; the first one present is read.

    Raises:
        BabelclipError: no such file, or it is damaged, hostile, or a shard of it is missing.
    """
    folder = Path(folder)
    if folder.is_dir():
        present = [name for name in names if (folder / name).is_file()]
        if not present:
            raise BabelclipError(
                f"{folder} holds none of the weight files {', '.join(names)}. Copy the whole model folder from its "
                "origin, or give the folder in which the weights lie."
            )
        path = folder / present[0]
    else:
        path = folder
    if not path.is_file():
        raise BabelclipError(f"{path} does not exist. Give a weight file or a model folder.")
    tensors = Tensors(path, _shards(path) if path.name.endswith(INDEX) else _entries(path))
    if not tensors:
        raise BabelclipError(
            f"{path} holds no tensors by name. It must hold the weights of a model. Copy it again from its origin."
        )
    return tensors


def weight_files(names: Collection[str], preferred: Sequence[str] = WEIGHT_NAMES) -> list[str]:
    """Returns which of a folder's file `names` to read or download: one form only, an index with all its shards.

    Names are relative to the folder; those in sub-folders are not looked at. Empty where there are no weights.
    """
    for name in preferred:
        if name not in names:
            continue
        if not name.endswith(INDEX):
            return [name]
        stem, _, suffix = name.removesuffix(INDEX).rpartition(".")
        shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{re.escape(suffix)}")
        return [name, *sorted(other for other in names if shard.fullmatch(other))]
    return []


def _entries(path: Path) -> dict[str, Entry]:
    """Returns the tensors of one file, in the form that its name and its first bytes show."""
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".h5":
        from babelclip.models.checkpoints.files.keras_h5 import read_entries

        return read_entries(path)
    if torch_archive.is_archive(path):
        archive = torch_archive.read_archive(path)
        if archive.scripted:
            from babelclip.models.checkpoints.files.openai_jit import state_dict

            return _views(path, state_dict(archive.content, path))
        return _views(path, _unwrap(archive.content, path))
    return _views(path, _unwrap(_before_zip(path), path))


def _views(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Entry]:
    """Returns entries of tensors that are views of a mapped file already."""
    return {
        name: Entry(path, name, tuple(tensor.shape), functools.partial(_same, tensor))
        for name, tensor in tensors.items()
    }


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _safetensors(path: Path) -> dict[str, Entry]:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError, RuntimeError, ValueError, MemoryError) as error:
        raise BabelclipError(
            f"{path} is not a whole safetensors file ({shown(error)}). Its header must describe every byte behind it. "
            "Copy it again from its origin."
        ) from error
    return {
        name: Entry(path, name, shape, functools.partial(_read, path, file, name)) for name, shape in shapes.items()
    }


def _read(path: Path, file: Any, name: str) -> torch.Tensor:
    try:
        tensor: torch.Tensor = file.get_tensor(name)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise BabelclipError(
            f"{path}, tensor {shown(name)}: cannot be read ({shown(error)}). Copy the file again from its origin."
        ) from error
    return tensor


def _before_zip(path: Path) -> Any:
    """Returns the object in a torch file from before the zip form (torch < 1.6), read by torch's own safe unpickler."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch's reader raises depends on the bytes that lead it astray
        reason = shown(error) or type(error).__name__
        raise BabelclipError(
            f"{path} is neither a torch archive nor an older torch file of plain tensors ({reason}). Only tensors are "
            "read, never code. Copy it again from its origin, or save it there as safetensors."
        ) from error


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Returns the state dict inside what a training program saved; objects beside the tensors are left out."""
    for _ in range(3):
        inner = [key for key in WRAPPERS if isinstance(content, dict) and _has_tensors(content.get(key))]
        if not inner:
            break
        if len(inner) > 1:
            raise BabelclipError(
                f"{path} holds several sets of weights: {', '.join(inner)}. One is read. Save one of them alone."
            )
        content = content[inner[0]]
    if not isinstance(content, dict):
        raise BabelclipError(
            f"{path} holds a {type(content).__name__} and no dict of tensors by name. "
            "Save the model's state_dict() instead of the model."
        )
    return {name: value for name, value in content.items() if isinstance(name, str) and _is_tensor(value)}


def _has_tensors(value: Any, depth: int = 2) -> bool:
    """Returns whether `value` is a dict with tensors in it, or with such a dict under a wrapper's name."""
    if not isinstance(value, dict):
        return False
    return any(_is_tensor(item) for item in value.values()) or (
        depth > 0 and any(_has_tensors(value.get(key), depth - 1) for key in WRAPPERS)
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _shards(index: Path) -> dict[str, Entry]:
    """Returns the tensors of all shards that an index names. What the index says is checked against the shards."""
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise BabelclipError(
            f"{index} has no table `weight_map` of tensor names and file names. Copy it again from its origin."
        )
    suffix = Path(index.name.removesuffix(INDEX)).suffix
    shards: dict[str, dict[str, Entry]] = {}
    for file in dict.fromkeys(weight_map.values()):
        if Path(file).name != file or "\\" in file or "\0" in file or Path(file).suffix != suffix:
            raise BabelclipError(
                f"{index} names the shard {shown(repr(file))}; a shard is a {suffix} file beside the index. "
                "Copy the index again from its origin."
            )
        if not (index.parent / file).is_file():
            raise BabelclipError(
                f"{index} names the shard {shown(file)}, which is not in the folder. All shards are needed. "
                "Copy it too."
            )
        shards[file] = _entries(index.parent / file)
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise BabelclipError(
                f"{index} places the tensor {shown(name)} in {file}, which does not hold it. Index and shards "
                "must come from one model: copy them again from their origin."
            )
    merged: dict[str, Entry] = {}
    for file, entries in shards.items():
        for name, entry in entries.items():
            # A tensor that the index forgets is kept: the reader then uses it, or refuses it by name.
            if weight_map.get(name, file) != file:
                continue
            if name in merged:
                raise BabelclipError(
                    f"{index}: the tensor {shown(name)} lies in {merged[name].path.name} and in {file}, and the index "
                    "does not say which counts. Copy the files again from their origin."
                )
            merged[name] = entry
    return merged
