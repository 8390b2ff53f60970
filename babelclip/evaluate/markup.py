"""HTML whose elements escape by construction.

Names, captions and notes come from files that nobody here wrote, so nothing reaches a page as bare text: `el` escapes
every child and attribute, and only what `el` made (`Markup`) passes unescaped. Entry points: `el`, `join`, `Markup`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = frozenset({"img", "meta", "br"})


class Markup(str):
    """HTML that is escaped already. Only `el`, `join` and the plots make it."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def el(tag: str, *children: Child, **attributes: str | bool | None) -> Markup:
    """Returns one element; children and attribute values are escaped unless they are `Markup`.

    A child may be a list of children. Attributes are named as in Python: `class_`, `aria_label`. One that is None or
    False is left out, and True stands without a value.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items() if value not in (None, False))
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: Child, separator: str = "") -> Markup:
    """Returns the children in one piece of HTML, each escaped unless it is `Markup`."""
    return Markup(escape(separator).join(_flat(children)))


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str):
            yield escape(child)
        elif child is not None:
            yield join(*child)


def _attribute(name: str, value: str | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def escape(text: str) -> Markup:
    """Returns `text` with its special characters escaped, and half surrogates, which no file can hold, as `?`."""
    return Markup(html.escape(text.encode("utf-8", "replace").decode("utf-8")))
