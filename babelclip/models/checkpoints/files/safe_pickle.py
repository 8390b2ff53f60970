"""Pickles read as data. A pickle is a small program; here every name that it asks for is answered by the caller.

`load` never imports, and calls only what the caller's `find` hands out. The program is looked through before it
runs, because the unpickler of CPython reserves memory on the word of a few bytes (a memo slot number, a length).
Who answers: `torch_archive` (builds tensors, everything else becomes `Inert`) and `legacy_pickle` (numpy arrays,
everything else is refused).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, shown

# What a hostile pickle raises is up to its author: wrong opcodes, wrong types, numbers out of range.
FAULTS = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
_PUT = ("PUT", "BINPUT", "LONG_BINPUT")


class Inert:
    """Stands for an object of a class that is not ours to build: it keeps the state it is given and does nothing."""

    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Drops the arguments, so that a pickle cannot keep large ones alive."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes whatever the pickle passes."""

    def __call__(self, *_: Any, **__: Any) -> Inert:
        """Returns itself: some pickles call what a first call gave them."""
        return self

    def __setstate__(self, state: Any) -> None:
        """Keeps the state; the default would write any attribute name that the pickle chooses."""
        self.state = state

    def append(self, _: Any) -> None:
        """Takes the place of `list.append` for classes that derive from list."""

    def extend(self, _: Any) -> None:
        """Takes the place of `list.extend`."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Takes the place of `dict.__setitem__` for classes that derive from dict."""

    def add(self, _: Any) -> None:
        """Takes the place of `set.add`."""


class Builder:
    """A function that a pickle may call, closed against being changed by it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        """`function` is called with the arguments from the pickle: it has to check them."""
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Returns what the function makes of the arguments."""
        return self._function(*args)

    def __setstate__(self, _: Any) -> None:
        """Refuses: without this, a pickle could set attributes of the function."""
        raise pickle.UnpicklingError("it tries to change a function")


def inert_class(module: str, name: str) -> type[Inert]:
    """Returns a new class of its own for `module.name`: a pickle can spoil its own classes and no others."""
    made: type[Inert] = type("Inert", (Inert,), {"origin": f"{module}.{name}"})
    return made


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, find: Callable[[str, str], Any], persistent: Callable[[Any], Any] | None) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._find = find
        self._persistent = persistent
        self._found: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._found:
            self._found[module, name] = self._find(module, name)
        return self._found[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise pickle.UnpicklingError("it refers to objects outside of itself")
        return self._persistent(pid)


def load(
    data: bytes,
    path: Path,
    find: Callable[[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Returns the object that the pickle `data` describes; `path` is the file it came from, for messages.

    Args:
        data: the pickle.
        path: named in messages.
        find: `(module, name)` -> what stands for this global. It raises BabelclipError to refuse one.
        persistent: answers the persistent ids (storages of a torch archive).

    Raises:
        BabelclipError: the pickle is damaged, or hostile.
    """
    try:
        # A memo has at most one slot for each byte of the program; the unpickler would reserve any number named.
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _PUT and isinstance(argument, int) and argument > len(data):
                raise pickle.UnpicklingError(f"memo slot {argument} in a pickle of {len(data)} bytes")
        return _Unpickler(data, find, persistent).load()
    except BabelclipError:
        raise
    except FAULTS as error:
        reason = f"{type(error).__name__}: {shown(error)}"
        raise BabelclipError(
            f"{path} is not a whole pickle of weights ({reason}). It must hold tensors or arrays by name. "
            "Copy the file again from its origin, or ask there for safetensors."
        ) from error
