"""Which languages have much text in the world and which have little, so that a mean does not hide the second kind.

The classes are those of Joshi et al. 2020; they lie with their source in `resource_groups.tsv`, and `GROUPS` says which
of them count as high, mid and low. Entry points: `resource_group`, `by_resource`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from importlib import resources
from types import MappingProxyType

from babelclip import languages

GROUPS: Mapping[str, tuple[int, ...]] = MappingProxyType({"high": (4, 5), "mid": (3,), "low": (0, 1, 2)})
SOURCE = "Joshi et al. 2020 (arXiv 2004.09095): high = classes 4 and 5, mid = 3, low = 0 to 2"


@functools.cache
def _classes() -> Mapping[str, int]:
    text = resources.files("babelclip.evaluate").joinpath("resource_groups.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
    return MappingProxyType({code: int(number) for code, number in rows})


def resource_group(code: str) -> str | None:
    """Returns `high`, `mid` or `low`, or None for a language that the source does not list.

    A variety that is not listed counts as its language: `de-AT` as `de`.

    >>> resource_group("de_AT"), resource_group("sw"), resource_group("bn")
    ('high', 'low', 'mid')

    Raises:
        UnknownLanguageError: the code is no language.
    """
    canonical = languages.normalize(code)
    number = _classes().get(canonical, _classes().get(canonical.split("-")[0]))
    return None if number is None else next(name for name, numbers in GROUPS.items() if number in numbers)


def by_resource(codes: Iterable[str]) -> dict[str, list[str]]:
    """Returns group -> its languages, in the order high, mid, low; groups without a language are left out."""
    found: dict[str, list[str]] = {name: [] for name in GROUPS}
    for code in codes:
        group = resource_group(code)
        if group is not None:
            found[group].append(code)
    return {name: members for name, members in found.items() if members}
