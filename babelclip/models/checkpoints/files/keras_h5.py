"""TensorFlow weights of transformers models (`tf_model.h5`) under their torch names, without TensorFlow.

Keras writes HDF5: one group for each layer, and below it every weight at the path that is its name, as a plain block of
floats. The attributes `layer_names` and `weight_names` list the same names again; they are not read, because their
texts lie in a heap where a damaged file can keep the HDF5 library busy for ever. h5py tells where the blocks lie, and
they are then memory-mapped.

    tf_bert_model/bert/encoder/layer_._0/attention/self/query/kernel:0  ->  encoder.layer.0.attention.self.query.weight
    tf_xlm_roberta_model/roberta/embeddings/LayerNorm/gamma:0           ->  embeddings.LayerNorm.weight

Kernels are transposed, since Keras multiplies from the right. A body with heads beside it keeps its own name in front
(`bert.`), as torch files do. M-CLIP's class has the body at `transformer.` and the head at `LinearTransformation.`.
"""

from __future__ import annotations

import functools
import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError, require, shown
from babelclip.models.checkpoints.files.tensors import Entry

BODIES = ("bert", "roberta", "distilbert")
MCLIP_HEAD = "LinearTransformation"
LAST_NAMES = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias"}
DTYPES = {"<f2": torch.float16, "<f4": torch.float32, "<f8": torch.float64}
MAX_NAMES = 100_000
MAX_DEPTH = 32
FAULTS = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


def read_entries(path: Path) -> dict[str, Entry]:
    """Returns the weights of a Keras file by torch name; tensors are views of the memory-mapped file.

    Raises:
        MissingExtraError: h5py is not installed.
        BabelclipError: the file is damaged, is no Keras file of a transformers model, or points out of itself.
    """
    h5py = require("h5py", "legacy")
    try:
        with h5py.File(path, "r") as file:
            blocks = dict(_blocks(h5py, file, path))
            if file.userblock_size:
                raise _refused(path, "it has a block of other data in front")
    except BabelclipError:
        raise
    except FAULTS as error:
        reason = f"{type(error).__name__}: {shown(error)}"
        raise BabelclipError(
            f"{path} is not a whole Keras weights file ({reason}). It must be a tf_model.h5 that transformers wrote. "
            "Copy it again from its origin."
        ) from error
    return _entries(path, blocks)


def torch_names(names: list[str]) -> list[str]:
    """Returns the torch names of a model's Keras weight `names`, in the same order.

    Raises:
        BabelclipError: an M-CLIP file in which a weight belongs neither to the body nor to the head.
    """
    parts = [_levels(name) for name in names]
    bodies = [next((i for i, level in enumerate(levels) if level in BODIES), None) for levels in parts]
    if any(MCLIP_HEAD in levels for levels in parts):
        return [_mclip_name(levels, body) for levels, body in zip(parts, bodies, strict=True)]
    if all(body is not None for body in bodies):
        return [".".join(levels[(body or 0) + 1 :]) for levels, body in zip(parts, bodies, strict=True)]
    # The outermost level is the name of the whole model, chosen by Keras.
    return [".".join(levels[1:] if len(levels) > 1 else levels) for levels in parts]


def _mclip_name(levels: list[str], body: int | None) -> str:
    if body is not None:
        return ".".join(["transformer", *levels[body + 1 :]])
    if MCLIP_HEAD not in levels:
        raise BabelclipError(
            f"the Keras weight {shown('/'.join(levels))} belongs neither to the transformer nor to the head of an "
            "M-CLIP model. Those two parts are read. Copy the file again from its origin."
        )
    return ".".join(levels[levels.index(MCLIP_HEAD) :])


def _levels(name: str) -> list[str]:
    """Returns the levels of a Keras name with the marks that transformers puts into TensorFlow names resolved.

    `_._` separates a list from a position in it, `a___b` stands for `b`, `:0` counts outputs.
    """
    levels = [
        inner
        for level in re.sub(r":\d+$", "", name).split("/")
        for inner in level.rpartition("___")[2].split("_._")
        if inner
    ]
    if levels:
        levels[-1] = LAST_NAMES.get(levels[-1], levels[-1])
    return levels


def _blocks(h5py: Any, file: Any, path: Path) -> Iterator[tuple[str, tuple[int, tuple[int, ...], str]]]:
    """Yields the full name of each weight with (offset in the file, shape, number type).

    Only direct links are followed: others can lead into any file of the disk, and several ways to one group can make
    more names than there is memory for.
    """
    waiting = [("", file)]
    seen = 0
    while waiting:
        prefix, group = waiting.pop()
        for level in group:
            name = f"{prefix}{level}"
            seen += 1
            if seen > MAX_NAMES or name.count("/") > MAX_DEPTH:
                raise _refused(path, f"it has more than {MAX_NAMES} names, or names deeper than {MAX_DEPTH} levels")
            if not isinstance(group.get(level, getlink=True), h5py.HardLink):
                raise _refused(path, f"{name!r} is a link to another place")
            found = group[level]
            if isinstance(found, h5py.Group):
                waiting.append((f"{name}/", found))
            else:
                yield name, _block(h5py, found, name, path)


def _block(h5py: Any, dataset: Any, name: str, path: Path) -> tuple[int, tuple[int, ...], str]:
    """Returns (offset, shape, number type) of a data set stored as one plain block inside the file."""
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise _refused(path, f"{name!r} is no array")
    if dataset.dtype.str not in DTYPES:
        raise _refused(path, f"{name!r} has numbers of type {dataset.dtype.str}; weights are float16, 32 or 64")
    properties = dataset.id.get_create_plist()
    plain = properties.get_layout() == h5py.h5d.CONTIGUOUS and properties.get_external_count() == 0
    offset = dataset.id.get_offset()
    if not plain or (offset is None and dataset.size):
        raise _refused(path, f"{name!r} is compressed, in pieces or outside of the file; Keras writes plain arrays")
    return offset or 0, tuple(int(length) for length in dataset.shape), dataset.dtype.str


def _entries(path: Path, blocks: dict[str, tuple[int, tuple[int, ...], str]]) -> dict[str, Entry]:
    size = path.stat().st_size
    wanted = 0
    for name, (offset, shape, kind) in blocks.items():
        length = math.prod(shape) * DTYPES[kind].itemsize
        wanted += length
        if offset + length > size or wanted > size:
            raise _refused(path, f"{name!r} {shape} does not fit into a file of {size} bytes")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    entries: dict[str, Entry] = {}
    # Keras lists a weight that two layers share under both; their names below the layer are the same.
    unique: dict[str, str] = {}
    for name in blocks:
        if "/" not in name:
            raise _refused(path, f"{name!r} lies in no layer")
        unique.setdefault(name.partition("/")[2], name)
    for own, target in zip(unique, torch_names(list(unique)), strict=True):
        if target in entries:
            raise _refused(path, f"{own!r} and {entries[target].name!r} are both {target} in torch")
        offset, shape, kind = blocks[unique[own]]
        transposed = own.rpartition("/")[2].partition(":")[0] == "kernel"
        if transposed and len(shape) != 2:
            raise _refused(path, f"{own!r} is a kernel {shape}; only kernels (in, out) are read")
        read = functools.partial(_read, mapped, offset, shape, DTYPES[kind], transposed)
        entries[target] = Entry(path, unique[own], shape[::-1] if transposed else shape, read)
    return entries


def _read(mapped: mmap.mmap, offset: int, shape: tuple[int, ...], dtype: torch.dtype, transposed: bool) -> torch.Tensor:
    count = math.prod(shape)
    if not count:
        tensor = torch.empty(shape, dtype=dtype)
    elif offset % dtype.itemsize:
        # HDF5 may place a block at any byte; kernels expect aligned numbers, so this one is copied.
        tensor = torch.frombuffer(bytearray(mapped[offset : offset + count * dtype.itemsize]), dtype=dtype)
    else:
        tensor = torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset)
    tensor = tensor.reshape(shape)
    return tensor.T if transposed else tensor


def _refused(path: Path, reason: str) -> BabelclipError:
    return BabelclipError(
        f"{path} cannot be read: {shown(reason)}. Weights must be plain arrays inside the file. "
        "Copy it again from its origin."
    )
