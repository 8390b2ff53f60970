"""Errors that say what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class BabelclipError(ValueError):
    """Something the user gave cannot be used; the message says what to do. The command line exits with 1."""


class SpaceMismatchError(BabelclipError):
    """Vectors of two embedding spaces were about to be mixed."""

    def __init__(self, given: str, expected: str, what: str, hint: str = "") -> None:
        """`what` names the two things that disagree, for example "store photos/ and model student/"; `hint` ends it."""
        super().__init__(
            f"{what} lie in different embedding spaces: {given!r} against {expected!r}. Vectors compare only "
            f"within one space: use a model of {given!r}, or encode again with the model of {expected!r}."
            + (f" {hint}" if hint else "")
        )
        self.given = given
        self.expected = expected


class MissingExtraError(ImportError):
    """An optional dependency is absent; the message names the extra that brings it."""


def closest(name: str, allowed: Iterable[str], n: int = 3) -> list[str]:
    """Returns up to `n` of the `allowed` names that resemble `name`, best first."""
    by_lower = {candidate.lower(): candidate for candidate in allowed}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), list(by_lower), n=n, cutoff=0.5)]


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Returns a sentence naming the closest allowed names, or all of them where none is close."""
    names = sorted(allowed)
    near = closest(name, names)
    if near:
        return f"Did you mean {' or '.join(repr(match) for match in near)}?"
    return f"Allowed: {', '.join(names)}."


def shown(text: object, limit: int = 200) -> str:
    """Returns words of a stranger, a name or an error about it, fit for a message: one short line, printable."""
    line = " ".join(str(text)[: 4 * limit].split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= limit else f"{line[:limit]}…"


def of_rust(error: BaseException) -> bool:
    """Returns whether a library in Rust may have raised it: a panic of those is no `Exception` in Python."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def require(module: str, extra: str) -> ModuleType:
    """Returns the imported `module`.

    Raises:
        MissingExtraError: the module is not installed, or cannot be imported; the message says which, and names the
            `extra` to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if f"{module}.".startswith(f"{error.name}."):
            problem = "is not installed: pip install"
        else:  # a library of its own is absent, of another version or broken
            problem = f"is installed and cannot be imported ({shown(error)}): pip install --upgrade"
        raise MissingExtraError(f"This needs {module}, which {problem} 'babelclip[{extra}]'") from error
