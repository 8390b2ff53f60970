"""`Mix`: the settings of a `Mixer` as a table of TOML, and `open_mix`, which reads its sources.

    [mix]
    temperature = 2.0
    english_share = 0.1
    seed = 0
    languages = { sv = 2.0 }

    [[mix.sources]]
    name = "cc3m"
    captions = "cc3m-translated/"
    weight = 1.0

The fields have the metadata of a recipe's (`about`, `least`, `above`), so that a recipe can hold a mix.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from babelclip import storage
from babelclip.data.mixer import Mixer, Source
from babelclip.data.row_source import RowSource, origin_of, write_row_source
from babelclip.data.sources import count_captions, open_captions, read_all
from babelclip.errors import BabelclipError, did_you_mean


def _setting(default: Any, about: str, *, least: float | None = None, above: float | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"about": about, "least": least, "above": above})


@dataclasses.dataclass(frozen=True)
class MixSource:
    """`[[mix.sources]]`: one source."""

    captions: str = _setting("", "captions: a file, a folder, or words such as moses:corpus.en,corpus.sv")
    name: str = _setting("", "what reports call it, and what the order of its rows hangs on; empty = captions")
    weight: float = _setting(1.0, "how many times its rows count; 0 = left out", least=0.0)


@dataclasses.dataclass(frozen=True)
class Mix:
    """`[mix]`: which rows a run sees; the formulae are in `babelclip.data.shares`."""

    sources: tuple[MixSource, ...] = _setting((), "the sources")
    temperature: float = _setting(1.0, "of languages: 1 = as many as there are, larger = more equal", above=0.0)
    english_share: float = _setting(0.1, "share of English texts that meet their own vectors; 0 = none", least=0.0)
    max_repeats: float | None = _setting(None, "most times that a row is given in an epoch; absent = no cap", least=1.0)
    languages: Mapping[str, float] = dataclasses.field(
        default_factory=dict,
        metadata={"about": "language = factor on its share; absent = 1", "least": 0.0, "above": None},
    )
    seed: int = _setting(0, "seed of the order of rows", least=0)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Mix:
        """Returns the mix for a table as it comes from TOML or JSON; what is absent takes its default.

        >>> Mix.from_table({"sources": [{"captions": "a.jsonl"}], "temperature": 3}).temperature
        3.0

        Raises:
            BabelclipError: a key is not known, or a value is of another type or outside its limits.
        """
        values = dict(table)
        listed = values.pop("sources", [])
        if not isinstance(listed, (list, tuple)) or not all(isinstance(item, Mapping) for item in listed):
            raise BabelclipError(
                f"mix.sources = {listed!r} is no list of tables. Write each source under [[mix.sources]] with "
                'captions = "FILE".'
            )
        sources = tuple(_made(MixSource, f"mix.sources[{i}]", item) for i, item in enumerate(listed))
        lacking = [i for i, source in enumerate(sources) if not source.captions]
        if lacking:
            raise BabelclipError(
                f"mix.sources[{lacking[0]}] names no captions. Each source has some: give it captions = "
                '"FILE or FOLDER".'
            )
        named = tuple(dataclasses.replace(source, name=source.name or source.captions) for source in sources)
        mix: Mix = _made(cls, "mix", values)
        return dataclasses.replace(mix, sources=named)

    def to_table(self) -> dict[str, Any]:
        """Returns the mix as a table of TOML types that `from_table` reads back; what is None is left out."""
        table = dataclasses.asdict(self)
        table["sources"] = list(table["sources"])
        table["languages"] = dict(table["languages"])
        return {key: value for key, value in table.items() if value is not None}


def open_mix(mix: Mix, *, folder: Path | str | None = None, strict: bool = False, progress: bool = False) -> Mixer:
    """Returns the mixer of a mix, its sources read.

    Args:
        mix: sources and settings.
        folder: where the rows are laid out for random reading, each source in a folder of its own, so that a mix may
            be larger than memory; what is there already and of the same files is used. None: they are kept in memory.
        strict: whether a row that cannot be used is an error.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: a source cannot be read, or a setting does not fit the rows; see `Mixer`.
    """
    sources = [
        Source(
            source.name,
            read_all(source.captions, strict=strict)
            if folder is None
            else _laid_out(source.captions, Path(folder) / f"{number:03d}", strict, progress),
            source.weight,
        )
        for number, source in enumerate(mix.sources)
    ]
    return Mixer(
        sources,
        temperature=mix.temperature,
        english_share=mix.english_share,
        max_repeats=mix.max_repeats,
        languages=mix.languages,
        seed=mix.seed,
    )


def _laid_out(captions: str, folder: Path, strict: bool, progress: bool) -> RowSource:
    origin = {"captions": captions, "files": _files(captions)}
    if origin_of(folder) == origin:
        return RowSource.open(folder)
    total = count_captions(captions) if progress else None
    return write_row_source(
        open_captions(captions, strict=strict), folder, origin=origin, progress=progress, total=total
    )


def _files(captions: str) -> list[list[Any]]:
    """Returns name, bytes and time of change of the files that a source names, to see whether they were changed."""
    is_path = Path(captions).exists() or storage.is_url(captions)
    named = [captions] if is_path else captions.partition(":")[2].split(",")
    # Of object storage the names, sizes and times; nothing is fetched.
    paths = [Path(storage.shadowed(name)) for name in named if name]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]


def _made(kind: type, name: str, values: Mapping[str, Any]) -> Any:
    """Returns the dataclass `kind` of the values, each of the type of its default and within its limits."""
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name != "sources"}
    given = {}
    for key, value in values.items():
        if key not in fields:
            raise BabelclipError(f"Key {key!r} in {name} is not known. {did_you_mean(key, fields)}")
        given[key] = _checked(f"{name}.{key}", value, fields[key])
    return kind(**given)


def _checked(name: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    expected = str(field.type)
    if expected.startswith("Mapping"):
        if not isinstance(value, Mapping):
            raise BabelclipError(f"{name} = {value!r} is no table. Write it as {{ sv = 2.0 }}.")
        return {str(key): _number(f"{name}.{key}", item, float, field.metadata) for key, item in value.items()}
    if expected == "str":
        if not isinstance(value, str):
            raise BabelclipError(f"{name} = {value!r} is no text. Write it in quotation marks.")
        return value
    return _number(name, value, int if expected == "int" else float, field.metadata)


def _number(name: str, value: Any, kind: type, limits: Mapping[str, Any]) -> Any:
    allowed = (int, float) if kind is float else (int,)
    # bool is a kind of int in Python; `true` for a number is a mistake all the same.
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise BabelclipError(
            f"{name} = {value!r} is of type {type(value).__name__}. It is "
            f"{'a number' if kind is float else 'a whole number'}: write one without quotation marks."
        )
    if not math.isfinite(value):
        raise BabelclipError(f"{name} = {value} is not a finite number. Give a finite one.")
    least, above = limits["least"], limits["above"]
    if (least is not None and value < least) or (above is not None and value <= above):
        bound = f"at least {least:g}" if least is not None else f"above {above:g}"
        raise BabelclipError(f"{name} = {value} is too small. It is {bound}: give such a number.")
    return kind(value)
