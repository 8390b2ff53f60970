"""The zip archives of `torch.save` and `torch.jit.save`, read as plain data and memory-mapped.

    <root>/data.pkl     a pickle of the saved object, in which tensors refer to
    <root>/data/<key>   the bytes of one storage, not compressed

torch's own `torch.load(weights_only=True)` refuses a whole checkpoint for one object that it does not know, such as
the random-generator state in FlagAI's, and refuses TorchScript. Here only tensors are built, and every other object
becomes an inert placeholder, so all of these archives read alike and no code in them ever runs.
"""

from __future__ import annotations

import math
import mmap
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError, shown
from babelclip.models.checkpoints.files import safe_pickle

# The pickles of published models take some 100 kB; the bounds keep what a hostile one can build below a gigabyte.
MAX_PICKLE_BYTES = 4 << 20
MAX_DIMENSIONS = 16
MAX_NUMBER = 1 << 62
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (*STORAGES.values(), torch.float8_e4m3fn, torch.float8_e5m2)
}


@dataclass(frozen=True)
class _Storage:
    """One `data/<key>` of the archive: where its bytes lie in the file, and as what they were saved."""

    key: str
    dtype: torch.dtype
    start: int
    size: int


@dataclass(frozen=True)
class Archive:
    """An archive's object, with tensors in place, and whether it is TorchScript."""

    content: Any
    scripted: bool


def is_archive(path: Path) -> bool:
    """Returns whether the file begins as a zip does. The end is not asked: a pickle can carry a zip behind it.

    Raises:
        BabelclipError: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise BabelclipError(f"{path} cannot be read ({error}). Check its permissions and the disk.") from error


def read_archive(path: Path) -> Archive:
    """Returns the object saved in `path`. Tensors are views of the memory-mapped file, in their stored dtypes.

    Raises:
        BabelclipError: the archive is damaged, compressed, of the wrong byte order, or hostile; it names the file.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return _read(path, archive)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, UnicodeError, RuntimeError) as error:
        raise BabelclipError(
            f"{path} is not a whole torch archive ({shown(error)}). It must be a file that torch.save or "
            "torch.jit.save wrote. Copy it again from its origin."
        ) from error
    except ValueError as error:  # mmap of an empty file, offsets out of range
        if isinstance(error, BabelclipError):
            raise
        raise _damaged(path, str(error)) from error


def _read(path: Path, archive: zipfile.ZipFile) -> Archive:
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BabelclipError(
            f"{path} is a zip archive with {len(pickles)} files */data.pkl; torch writes exactly one. "
            "Give a file that torch.save or torch.jit.save wrote."
        )
    root = pickles[0].removesuffix("data.pkl")
    if entries[pickles[0]].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _damaged(path, "data.pkl is compressed in a way that torch does not use")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise BabelclipError(
            f"{path} has a data.pkl of {entries[pickles[0]].file_size} bytes; at most {MAX_PICKLE_BYTES} are read. "
            "Save the weights alone, without training state."
        )
    if f"{root}byteorder" in entries:
        with archive.open(entries[f"{root}byteorder"]) as order:
            if order.read(8).strip() != b"little":
                raise BabelclipError(
                    f"{path} was not written in little-endian byte order, the only one read. "
                    "Load it with torch and save it as safetensors."
                )
    data = archive.read(entries[pickles[0]])
    builder = _Builder(path, root, entries)
    content = safe_pickle.load(data, path, builder.find, builder.storage)
    return Archive(content, scripted=f"{root}constants.pkl" in entries)


class _Builder:
    """Answers a torch pickle: tensors become views of the mapped file, other objects inert placeholders."""

    def __init__(self, path: Path, root: str, entries: dict[str, zipfile.ZipInfo]) -> None:
        self._path = path
        self._root = root
        self._entries = entries
        with path.open("rb") as file:
            # A private mapping: torch asks for writable memory, and what is written never reaches the file.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def find(self, module: str, name: str) -> Any:
        if module == "collections" and name == "OrderedDict":
            # Always an empty one, as torch writes it: made from an argument it would copy, and copies multiply.
            return safe_pickle.Builder(_ordered_dict)
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module == "torch._utils":
            builders: dict[str, Callable[..., Any]] = {
                "_rebuild_tensor": self._tensor,
                "_rebuild_tensor_v2": self._tensor,
                "_rebuild_tensor_v3": self._tensor_v3,
                "_rebuild_parameter": _first,
                "_rebuild_parameter_with_state": _first,
            }
            if name in builders:
                return safe_pickle.Builder(builders[name])
        return safe_pickle.inert_class(module, name)

    def storage(self, pid: Any) -> _Storage:
        """Returns the place of the storage that a persistent id names: ("storage", type, key, device, numel)."""
        # Nothing of a refused id is shown: the text of a nest of shared lists can be longer than memory.
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError("a reference to something else than a storage")
        key = pid[2]
        if not (isinstance(pid[1], torch.dtype) and isinstance(key, str)):
            raise pickle.UnpicklingError("a storage of unknown type or without key")
        info = self._entries.get(f"{self._root}data/{key}")
        if info is None:
            raise _damaged(self._path, f"the storage data/{key} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            raise _damaged(self._path, f"the storage data/{key} is compressed; torch stores them plainly")
        return _Storage(key, pid[1], self._start(info), info.file_size)

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Returns where the entry's bytes begin: behind its own header, whose extra field differs from the list's."""
        header = self._map[info.header_offset : info.header_offset + 30]
        if len(header) != 30 or header[:4] != b"PK\x03\x04":
            raise _damaged(self._path, f"{info.filename} has no header")
        start = (
            info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
        )
        if start + info.file_size > len(self._map):
            raise _damaged(self._path, f"{info.filename} ends behind the end of the file")
        return start

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
        return self._view(storage, storage.dtype, offset, size, stride)

    def _tensor_v3(
        self, storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any
    ) -> torch.Tensor:
        return self._view(storage, dtype, offset, size, stride)

    def _view(self, storage: Any, dtype: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
        if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a tensor without storage or dtype")
        if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise pickle.UnpicklingError("a tensor whose shape and strides differ in length, or are too long")
        if not all(isinstance(number, int) and 0 <= number < MAX_NUMBER for number in (offset, *size, *stride)):
            raise pickle.UnpicklingError("a tensor of impossible size or stride")
        count = storage.size // dtype.itemsize
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        # Stride 0 lets a few bytes pose as terabytes; no checkpoint needs more elements than it stores.
        if math.prod(size) > count or (math.prod(size) and last >= count):
            raise _damaged(
                self._path, f"a tensor {tuple(size)} does not fit the {storage.size} bytes of data/{storage.key}"
            )
        if math.prod(size) == 0:
            return torch.empty(tuple(size), dtype=dtype)
        if storage.start % dtype.itemsize:
            raise _damaged(self._path, f"a tensor in data/{storage.key} is not aligned; torch aligns to 64 bytes")
        flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=storage.start)
        return flat.as_strided(tuple(size), tuple(stride), offset)


def _ordered_dict() -> OrderedDict[Any, Any]:
    """Returns an empty dict that can carry the `_metadata` of a state dict."""
    return OrderedDict()


def _first(tensor: Any, *_: Any) -> Any:
    """Returns the tensor of a parameter."""
    return tensor


def _damaged(path: Path, reason: str) -> BabelclipError:
    return BabelclipError(
        f"{path} is damaged: {shown(reason)}. Every tensor must lie whole in the file. Copy it again from its origin."
    )
