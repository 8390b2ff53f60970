"""Reads the heading "Example:" of docstrings as griffe's "Examples:", so that it is shown as code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class SingularExamples(griffe.Extension):
    """Changes docstrings after they are read, before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_others: Any) -> None:
        """Is called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
