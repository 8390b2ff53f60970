"""CIFAR-10 and CIFAR-100 as their author published them: binary files, or pickles that are read as data.

A binary record is one byte of label (CIFAR-100: coarse, then fine) and 3072 bytes of pixels, three planes of 32 x 32.
The pickles hold a dictionary with `data`, an array (N, 3072) of bytes, and `labels` or `fine_labels`; the unpickler
here hands out arrays of bytes and nothing else. Pictures in folders of classes are read by `class-folders`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.data import tables
from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.class_folders import read_class_folders
from babelclip.evaluate.benchmarks.class_names import names_of
from babelclip.evaluate.benchmarks.classified import LabelledPictures
from babelclip.evaluate.benchmarks.request import Request
from babelclip.evaluate.benchmarks.sets import ClassificationSet, PixelPicture

_PIXELS = 3 * 32 * 32
_LARGEST_PICKLE = 256 << 20
_BINARY = {
    "cifar10": {"test": ["test_batch.bin"], "train": [f"data_batch_{n}.bin" for n in range(1, 6)]},
    "cifar100": {"test": ["test.bin"], "train": ["train.bin"]},
}
_PICKLED = {
    "cifar10": {"test": ["test_batch"], "train": [f"data_batch_{n}" for n in range(1, 6)]},
    "cifar100": {"test": ["test"], "train": ["train"]},
}
_NAME_FILES = {"cifar10": "batches.meta.txt", "cifar100": "fine_label_names.txt"}
_META = {"cifar10": ("batches.meta", "label_names"), "cifar100": ("meta", "fine_label_names")}


def read_cifar(request: Request) -> ClassificationSet:
    """Returns CIFAR-10 or CIFAR-100, of whichever form lies there.

    Raises:
        BabelclipError: files are missing, cut off, or ask for something other than arrays.
    """
    name, split = request.entry.name, request.choose_split(request.entry.splits)
    binary = [path for file in _BINARY[name][split] for path in request.find(file)[:1]]
    pickled = [path for file in _PICKLED[name][split] for path in request.find(file)[:1] if path.is_file()]
    if binary:
        parts = [(path, *_binary(path, labels=1 if name == "cifar10" else 2)) for path in binary]
        missing = len(_BINARY[name][split]) - len(binary)
        own_names = _names_of_binary(request, binary[0].with_name(_NAME_FILES[name]))
    elif pickled:
        parts = [(path, *_pickled(path)) for path in pickled]
        missing = len(_PICKLED[name][split]) - len(pickled)
        own_names = _names_of_pickle(pickled[0].with_name(_META[name][0]), _META[name][1])
    elif request.root.is_dir() and any(item.is_dir() for item in request.root.iterdir()):
        return read_class_folders(request)
    else:
        raise request.missing(_BINARY[name][split][0])
    if missing:
        raise request.missing(f"{missing} of the files of {split}")
    pictures = LabelledPictures(request)
    for path, pixels, labels in parts:
        for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
            pictures.add(f"{path.stem}/{number:05d}", PixelPicture(32, 32, picture.tobytes()), int(label))
    return pictures.build(split, names=names_of(request, own=own_names), classes=tuple(own_names))


def _binary(path: Path, labels: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    size, record = path.stat().st_size, labels + _PIXELS
    if size % record or not size:
        raise BabelclipError(
            f"{path} has {size} bytes, which is no multiple of {record}, the size of a record. It breaks off, or is a "
            "file of another kind: copy it again."
        )
    rows = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, record)
    return _upright(rows[:, labels:]), rows[:, labels - 1].astype(np.int64)


def _upright(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns pictures (N, 32, 32, 3) of planes (N, 3072), without a copy."""
    pictures: npt.NDArray[np.uint8] = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return pictures


def _names_of_binary(request: Request, path: Path) -> list[str]:
    if not path.is_file():
        raise request.missing(path.name)
    return [line.strip() for line in tables.read_plain_lines(path) if line.strip()]


def _names_of_pickle(path: Path, key: str) -> list[str]:
    names = _load(path).get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _no_cifar(path, f"no list of names under {key!r}")
    return names


def _pickled(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    content = _load(path)
    data, labels = content.get("data"), content.get("labels", content.get("fine_labels"))
    pixels = data.pixels() if isinstance(data, _Bytes) else None
    if pixels is None or not isinstance(labels, list) or len(labels) != len(pixels):
        raise _no_cifar(path, "no `data` with as many `labels`")
    if not all(isinstance(label, int) and label >= 0 for label in labels):
        raise _no_cifar(path, "labels that are no numbers")
    return _upright(pixels), np.array(labels, dtype=np.int64)


class _Bytes:
    """An array of bytes as a pickle describes it; `state` is (version, shape, dtype, is_fortran, bytes)."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> npt.NDArray[np.uint8] | None:
        """Returns the array (N, 3072), None where it is another."""
        try:
            _, shape, _, fortran, data = self.state
            raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
            rows = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")
        except (TypeError, ValueError):
            return None
        return rows if rows.ndim == 2 and rows.shape[1] == _PIXELS else None


def _load(path: Path) -> dict[str, Any]:
    from babelclip.models.checkpoints.files import safe_pickle
    from babelclip.models.checkpoints.files.legacy_pickle import ARRAY_MODULES

    def find(module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return safe_pickle.inert_class(module, name)
        if module in ARRAY_MODULES and name == "_reconstruct":
            return safe_pickle.Builder(lambda *_: _Bytes())
        if (module, name) == ("_codecs", "encode"):
            return safe_pickle.Builder(lambda text, encoding: str(text).encode("latin1"))
        raise _no_cifar(path, f"{module}.{name}, which is not read")

    if path.stat().st_size > _LARGEST_PICKLE if path.is_file() else True:
        raise _no_cifar(path, "no file of the size of CIFAR's")
    content = safe_pickle.load(path.read_bytes(), path, find)
    if not isinstance(content, dict):
        raise _no_cifar(path, "no dictionary")
    # Python 3 gave the keys as bytes, Python 2 as text.
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def _no_cifar(path: Path, found: str) -> BabelclipError:
    return BabelclipError(
        f"{path} holds {found}. A pickle of CIFAR is a dictionary with `data` (N, 3072) and `labels`: copy the file "
        "again, or take the binary version."
    )
