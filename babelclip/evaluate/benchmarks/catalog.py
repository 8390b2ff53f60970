"""What is known of each benchmark, as data: `catalog.toml` in this folder, read on the first question.

Entry points: `Entry`, `entries`, `find_entry`, `benchmark_names`.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TASKS = ("retrieval", "classification", "selection", "sts", "translation")
FILE = Path(__file__).with_name("catalog.toml")


@dataclasses.dataclass(frozen=True)
class Entry:
    """Facts of one benchmark.

    Attributes:
        name: what results call it, and what stands before `=` in `--dataset NAME=DIR`.
        task: one of `TASKS`; the reader of a webdataset folder decides by what lies there.
        title: what its authors call it.
        languages: a phrase for people: codes, or what decides them.
        published: where to get it: project and paper, in words.
        licence: of texts and pictures.
        tree: the files that its reader expects.
        aliases: other names that mean it.
        splits: those that its authors publish; the first is read where none is asked for.
        counts: pictures (or pairs, or texts) of a split, where published.
        protocols: ways to read it beside the usual one.
        notes: leaks and traps; each result carries them.
    """

    name: str
    task: str
    title: str
    languages: str
    published: str
    licence: str
    tree: str
    aliases: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("test",)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    protocols: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Returns all entries in the order of the file.

    Raises:
        BabelclipError: the file is damaged.
    """
    try:
        content = tomllib.loads(FILE.read_text(encoding="utf-8"))
        return tuple(_entry(name, facts) for name, facts in content.items())
    except (OSError, TypeError, ValueError) as error:
        raise BabelclipError(
            f"{FILE} is not the list of benchmarks ({error}). It is part of babelclip: install it again."
        ) from error


def benchmark_names() -> tuple[str, ...]:
    """Returns the names of all benchmarks, in the order of the list."""
    return tuple(entry.name for entry in entries())


def find_entry(name: str) -> Entry:
    """Returns the entry of a benchmark, by its name or another of its names in any case.

    Raises:
        BabelclipError: there is none; names the closest.
    """
    known = _by_name()
    found = known.get(name.strip().lower())
    if found is None:
        raise BabelclipError(
            f"{name!r} is no benchmark that is known. {did_you_mean(name, known)} "
            "`babelclip evaluate --list-datasets` lists them; a folder of your own is folder=DIR or captions=FILE."
        )
    return found


@functools.cache
def _by_name() -> dict[str, Entry]:
    return {name: entry for entry in entries() for name in (entry.name, *entry.aliases)}


def _entry(name: str, facts: dict[str, Any]) -> Entry:
    counts: dict[str, int] = facts.pop("counts", {})
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    entry = Entry(name=name, counts=MappingProxyType(counts), **plain)
    if entry.task not in TASKS:
        raise ValueError(f"{name} has the task {entry.task!r}")
    return entry
