"""Which model a verb takes when none is named."""

from __future__ import annotations

from pathlib import Path

from babelclip.errors import BabelclipError
from babelclip.files import cache_folder


def starter_folder() -> Path:
    """Returns where `babelclip starter` puts its model when no folder is named."""
    return cache_folder() / "student"


def default_model() -> Path:
    """Returns the model of the demo in this folder, else the one that `babelclip starter` made.

    Raises:
        BabelclipError: neither exists.
    """
    candidates = (Path("demo") / "student", starter_folder())
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return candidate
    raise BabelclipError(
        f"No model was named, and there is none in {candidates[0]} or {candidates[1]}. "
        "Give --model a folder or a name that `babelclip models` lists, or make one: babelclip starter"
    )
