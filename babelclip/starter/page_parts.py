"""Building blocks of the demo's page: elements that escape by construction, languages, numbers, wide tables.

Captions and names come from packages that nobody here wrote, so nothing reaches the page as bare text: `el` escapes
every child and attribute, and only what `el` made (`Markup`) passes unescaped. Entry points: `el`, `join`,
`language_of`, `percent`, `wide_table`, `section`, `absent`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from babelclip import languages

_VOID = frozenset({"img", "meta", "br"})
_NO_VALUE = "–"
_PRINTABLE_COLUMNS = 12


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


class LanguageFacts(NamedTuple):
    """What the page says of a language; `direction` is the value of `dir`, `taught` None where nobody knows."""

    code: str
    name: str
    native: str
    direction: str
    taught: bool | None


def language_of(report: Mapping[str, Any], code: str) -> LanguageFacts:
    """Returns the facts that the report gives of a language, filled up from `babelclip.languages`."""
    given: Mapping[str, Any] = (report.get("languages") or {}).get(code) or {}
    try:
        known = (languages.name(code), languages.native_name(code), languages.is_rtl(code))
    except languages.UnknownLanguageError:
        known = (code, code, False)  # a page about results never fails for a name
    rtl = given.get("rtl", known[2])
    taught = given.get("taught")
    return LanguageFacts(
        code=code,
        name=str(given.get("name") or known[0]),
        native=str(given.get("native") or known[1]),
        direction="rtl" if rtl else "ltr",
        taught=None if taught is None else bool(taught),
    )


def is_english(code: str) -> bool:
    """Returns whether a code is English of any region: the teacher's own language enters no mean."""
    return code.split("-")[0] == "en"


def percent(value: float | None, digits: int = 0) -> str:
    """Returns a share such as 0.417 as `42 %`, or a dash where there is none."""
    return _NO_VALUE if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def points(value: float | None) -> str:
    """Returns a share such as 0.417 as `41.7`, for tables in percent, or a dash where there is none."""
    return _NO_VALUE if value is None else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """Returns seconds as people say them: `8.2 s`, `44 s`, `7 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest}\N{NO-BREAK SPACE}s"


def mean(values: Iterable[float | None]) -> float | None:
    """Returns the mean, or None where a value is missing: means over other sets of languages do not compare."""
    numbers = list(values)
    if not numbers or any(value is None for value in numbers):
        return None
    return sum(value for value in numbers if value is not None) / len(numbers)


def section(name: str, title: str, *children: Child) -> Markup:
    """Returns one section of the page with its heading; `name` is the target of links inside the page."""
    return el("section", el("h2", title, id=name), *children, aria_labelledby=name)


def absent(what: str) -> Markup:
    """Returns the one line that stands where a part of the report is missing."""
    return el("p", what, class_="absent")


def taught_dot(taught: bool | None) -> Markup | None:
    """Returns the mark of a taught language, readable by screen readers, or None."""
    return el("span", "●", class_="dot", role="img", aria_label="taught") if taught else None


def language_heads(report: Mapping[str, Any], codes: Sequence[str]) -> list[Markup]:
    """Returns one column head per language: its code, the dot of a taught one, and its English name."""
    heads = []
    for code in codes:
        facts = language_of(report, code)
        top = el("span", code, " ", taught_dot(facts.taught), class_="code")
        heads.append(el("th", top, el("span", facts.name, class_="long"), scope="col"))
    return heads


def wide_table(
    title: Child, heads: Sequence[Markup], rows: Sequence[tuple[str, Sequence[Child], str]], corner: str, label: str
) -> Markup:
    """Returns a table that scrolls inside its own box, its first column in place.

    Args:
        title: the caption above the table.
        heads: the column heads as `th`, without the first.
        rows: name of the row, its `td` cells in the order of `heads`, class of the row (or an empty string).
        corner: head of the first column.
        label: what a screen reader calls the box; it can be reached by keyboard because it scrolls.
    """
    first = el("tr", el("th", corner, scope="col", class_="corner"), heads)
    body = [el("tr", el("th", name, scope="row"), cells, class_=kind or None) for name, cells, kind in rows]
    # On paper nothing scrolls: the style sheet turns a table with many columns on its side, for which it needs --n.
    turned = {"class_": "turned", "style": f"--n:{len(heads) + 1}"} if len(heads) > _PRINTABLE_COLUMNS else {}
    table = el("table", el("thead", first), el("tbody", body), **turned)
    box = el("div", table, class_="scroll", role="region", tabindex="0", aria_label=label)
    return el("figure", el("figcaption", title), box, class_="table")
