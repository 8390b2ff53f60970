"""Building blocks of the demo's page: languages, numbers, wide tables.

Captions and names come from packages that nobody here wrote, so nothing reaches the page as bare text: see
`babelclip.evaluate.markup`, whose elements escape by construction. Entry points: `language_of`, `percent`,
`wide_table`, `section`, `absent`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from babelclip import languages
from babelclip.evaluate.markup import Child as Child
from babelclip.evaluate.markup import Markup as Markup
from babelclip.evaluate.markup import el as el
from babelclip.evaluate.markup import escape as escape
from babelclip.evaluate.markup import join as join

_NO_VALUE = "–"
_PRINTABLE_COLUMNS = 12


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
