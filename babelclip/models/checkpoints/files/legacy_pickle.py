"""The pickled linear heads of the 2021 M-CLIP models, read without running them, and converted once.

Such a file is a pickle of `[kernel (768, D), bias (D,)]`, what Keras' `Dense.get_weights()` returns; the torch weight
is the transposed kernel. The unpickler here knows how numpy pickles an array and nothing else, and even numpy's own
functions are not called: the bytes are taken out and read with the shape and the number type beside them.
"""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from babelclip.errors import BabelclipError, shown
from babelclip.files import atomic_path
from babelclip.models.checkpoints.files import safe_pickle

# The largest published head is (768, 640) float32, 2 MB.
MAX_BYTES = 16 << 20
FLOATS = ("f2", "f4", "f8")
ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
CONVERTED = ".safetensors"

_log = logging.getLogger(__name__)


class _Dtype:
    """A number type as a pickle describes it: a code such as "f4", and the byte order that follows as state."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code
        self.order: Any = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        """Returns the numpy dtype: floats only, because an object array is a door to any class."""
        if self.code not in FLOATS or self.order not in ("<", ">", "=", "|"):
            raise TypeError("an array of other numbers than float16, float32 or float64")
        dtype: np.dtype[Any] = np.dtype(("<" if self.order in "=|" else self.order) + self.code)
        return dtype


class _Array:
    """An array as a pickle describes it; `state` is (version, shape, dtype, is_fortran, bytes)."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def numpy(self) -> np.ndarray:
        """Returns the array as float32, in its own memory."""
        _, shape, dtype, fortran, data = self.state
        return _array(data, dtype, shape, "F" if fortran else "C")


def read_linear_head(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (weight (D, H), bias (D,)) of a pickled linear head, both float32, in the order of `nn.Linear`.

    Raises:
        BabelclipError: the file is missing, larger than any head, asks for something other than numpy arrays, or holds
            arrays that are no kernel with its bias.
    """
    path = Path(path)
    content = safe_pickle.load(_read(path), path, _finder(path))
    try:
        kernel, bias = (item.numpy() for item in content)
    except (*safe_pickle.FAULTS,) as error:
        raise BabelclipError(
            f"{path} does not hold a linear head ({type(error).__name__}: {shown(error)}). It must be a "
            "list [kernel (H, D), bias (D,)] of float arrays. Copy the file again from its origin."
        ) from error
    _check_shapes(path, kernel.shape, bias.shape)
    return np.ascontiguousarray(kernel.T), bias


def converted_head(path: Path | str) -> Path:
    """Returns a safetensors file with `weight` (D, H) and `bias` (D,) of a pickled head, written beside it once.

    A file converted before is taken when it is newer than the pickle and whole. Where the folder cannot be written,
    the path of the pickle itself comes back: `head_arrays` reads either.

    Args:
        path: the pickle, or a folder that holds exactly one.

    Raises:
        BabelclipError: there is no pickle, or it is refused (see `read_linear_head`).
    """
    path = _only_pickle(Path(path))
    target = path.with_suffix(CONVERTED)
    if path.suffix == CONVERTED or _is_current(target, path):
        return target
    weight, bias = read_linear_head(path)
    try:
        with atomic_path(target) as temporary:
            save_file({"weight": weight, "bias": bias}, temporary)
            # safetensors creates files that only their owner may read; a model folder is made to be shared.
            temporary.chmod(0o644)
    except (OSError, SafetensorError) as error:
        _log.info("%s: not converted to safetensors (%s); read from the pickle each time", path, error)
        return path
    return target


def head_arrays(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (weight (D, H), bias (D,)) float32 of a head, from the file converted once where that can be written.

    Raises:
        BabelclipError: there is no head, or it is damaged or refused.
    """
    found = converted_head(path)
    if found.suffix != CONVERTED:
        return read_linear_head(found)
    try:
        arrays = load_file(found)
        weight, bias = arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32)
    except (SafetensorError, OSError, KeyError) as error:
        raise BabelclipError(
            f"{found} is no converted head ({error}). It must hold `weight` and `bias`. Delete it, and it is made "
            "again from the pickle beside it."
        ) from error
    _check_shapes(found, weight.shape[::-1], bias.shape)
    return weight, bias


def _check_shapes(path: Path, kernel: tuple[int, ...], bias: tuple[int, ...]) -> None:
    if len(kernel) != 2 or bias != kernel[1:]:
        raise BabelclipError(
            f"{path} holds arrays {kernel} and {bias}; a linear head is a kernel (H, D) and a bias (D,). "
            "Copy the file again from its origin."
        )


def _only_pickle(path: Path) -> Path:
    if not path.is_dir():
        return path
    pickles = sorted(path.glob("*.pkl"))
    if len(pickles) != 1:
        raise BabelclipError(
            f"{path} holds {len(pickles)} .pkl files ({', '.join(item.name for item in pickles) or 'none'}); one head "
            "is read. Give the path of the head file itself."
        )
    return pickles[0]


def _is_current(target: Path, path: Path) -> bool:
    with contextlib.suppress(OSError, SafetensorError):
        return target.stat().st_mtime_ns >= path.stat().st_mtime_ns and {"weight", "bias"} == load_file(target).keys()
    return False


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BabelclipError(
                f"{path} has {size} bytes; a pickled head has at most {MAX_BYTES}. Give the small file with the "
                "linear weights (for example 'M-BERT Distil 40 Linear Weights.pkl')."
            )
        return path.read_bytes()
    except OSError as error:
        raise BabelclipError(
            f"{path} cannot be read ({error}). The 2021 M-CLIP models need their linear head as a file. Check the path."
        ) from error


def _finder(path: Path) -> Any:
    """Returns the answers to the names in the pickle `path`."""
    encoded = 0

    def encode(text: Any, encoding: Any) -> bytes:
        # Protocol 2 writes bytes as latin-1 text. What is made is counted: a pickle can encode one text often.
        nonlocal encoded
        if not isinstance(text, str) or encoding != "latin1":
            raise TypeError("text in another encoding than latin1")
        encoded += len(text)
        if encoded > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return text.encode("latin1")

    def find(module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return safe_pickle.inert_class(module, name)
        if (module, name) == ("numpy", "dtype"):
            return safe_pickle.Builder(_Dtype)
        if module in ARRAY_MODULES and name == "_reconstruct":
            return safe_pickle.Builder(lambda *_: _Array())
        if module in BUFFER_MODULES and name == "_frombuffer":
            return safe_pickle.Builder(_from_buffer)
        if (module, name) == ("_codecs", "encode"):
            return safe_pickle.Builder(encode)
        raise BabelclipError(
            f"{path} asks for {shown(f'{module}.{name}')}, which a head has no use for; only numpy "
            "arrays are read, and nothing was run. Do not trust this file: get the head from the model's origin."
        )

    return find


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Returns the array of a pickle of protocol 5."""
    array = _Array()
    array.state = (1, shape, dtype, order == "F", data)
    return array


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
        raise TypeError("an array without bytes or number type")
    kind = dtype.numpy()
    if len(shape) > 2 or not all(isinstance(length, int) and 0 <= length <= MAX_BYTES for length in shape):
        raise ValueError("an array of an impossible shape")
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array {tuple(shape)} of {kind.itemsize} bytes a number in {len(data)} bytes")
    array: np.ndarray = np.frombuffer(data, kind).reshape(shape, order=order).astype(np.float32)
    return array
