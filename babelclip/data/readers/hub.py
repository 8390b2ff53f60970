"""Data sets of the hub, through `datasets`: streamed, and never with code of theirs.

    hub:sentence-transformers/parallel-sentences-talks:en-sv        name, configuration; the split is train
    hub:M-CLIP/ImageCaptions-7M-Translations
    hub:org/name::validation                                        the only configuration, another split
    hub:downloads/name                                              a folder that `datasets` reads or wrote

Columns mean what they mean in files. Beyond that, a column `translation` that holds one text a language, as the sets of
parallel texts have it, gives the English row `p` and its translations `p-<lang>` (the first language where there is no
English), and a list of captions gives `p#1`, `p#2`, …. Pictures within a data set are left there.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from babelclip import languages
from babelclip.data import tables
from babelclip.data.captions import ALIASES, EMPTY_TEXT
from babelclip.data.parts import one_naming
from babelclip.data.readers import pairs, table_files
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError, MissingExtraError, require, shown
from babelclip.files import read_object

# Seconds for the first answer of the hub: without a network, an error comes within five.
DEADLINE = 3.5
_TEXT = ("text", *ALIASES["text"])


def iter_hub(words: str, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the rows of a data set in parts of `rows`; `words` are `NAME[:CONFIG[:SPLIT]]`.

    Raises:
        MissingExtraError: `datasets` is not installed.
        BabelclipError: the words are no name, the hub does not answer or refuses, the data set needs code, or it has no
            such configuration or split.
    """
    name, config, split = _parsed(words)
    data = _opened(name, config, split)
    lang = lang or pairs.language_in(config) or pairs.language_in(name)
    return one_naming(_iter_rows(data, f"hub:{words}", rows, lang))


def _parsed(words: str) -> tuple[str, str, str]:
    name, config, split, *rest = [*words.split(":"), "", ""]
    if not name or any(rest):
        raise BabelclipError(
            f"hub:{words} is no data set. Write hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG:SPLIT, where NAME is "
            "org/name or a folder and CONFIG may be empty."
        )
    return name, config, split or "train"


def _opened(name: str, config: str, split: str) -> Any:
    """Returns the `datasets` object of a split, streaming or memory-mapped."""
    folder = Path(name)
    if not folder.exists() and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        raise BabelclipError(f"hub:{name}: there is no such folder. Give org/name, or a folder that exists.")
    datasets = _library()
    if any((folder / saved).is_file() for saved in ("state.json", "dataset_dict.json")):
        return _attempt(name, lambda: _saved(folder, split))
    streaming = folder.exists() or not _offline()
    if streaming and not folder.exists():
        _ask(name)
    return _attempt(name, lambda: datasets.load_dataset(name, config or None, split=split, streaming=streaming))


def _library() -> Any:
    try:
        return require("datasets", "train")
    except MissingExtraError:
        raise
    except Exception as error:  # of a half-installed library; any at import
        raise BabelclipError(f"The library datasets does not import ({shown(error)}). Install it again.") from error


def _saved(folder: Path, split: str) -> Any:
    """Returns what `save_to_disk` wrote, of several splits this one; the others are not opened."""
    from datasets import load_from_disk

    told = folder / "dataset_dict.json"
    if told.is_file():
        splits = read_object(told).get("splits", [])
        if split not in splits:
            raise BabelclipError(
                f"hub:{folder} has the splits {', '.join(splits)}, not {split!r}: give hub:{folder}::SPLIT."
            )
        folder = folder / split
    try:
        return load_from_disk(str(folder))
    except IndexError as error:  # a split without rows is saved as no file, and the first one is looked for
        raise _empty(f"hub:{folder}") from error


def _empty(source: str) -> BabelclipError:
    return BabelclipError(f"{source} is empty. A data set holds at least one row: choose another split.")


def _attempt(name: str, load: Callable[[], Any]) -> Any:
    """Returns what `load` does; turns what `datasets` raises into one BabelclipError."""
    try:
        return load()
    except BabelclipError:
        raise
    except (OSError, ValueError, RuntimeError, NotImplementedError, KeyError, TypeError, pa.ArrowException) as error:
        if "scripts are no longer supported" in str(error):
            raise BabelclipError(
                f"hub:{name} comes with a program that makes its rows, and programs of others are never run. Fetch "
                f"its files with `{_command(name)}` and give the Parquet, JSONL or CSV files among them."
            ) from error
        if isinstance(error, ConnectionError) or (_offline() and not Path(name).exists()):
            raise _unreachable(name, error) from error
        raise BabelclipError(
            f"hub:{name} cannot be read: {shown(error, 300)}. Write hub:NAME:CONFIG:SPLIT with one of the "
            "configurations and splits that there are; those of a set of the hub are on its page."
        ) from error


def _ask(name: str) -> None:
    """Asks the hub whether it has the data set, and does not wait for long.

    Raises:
        BabelclipError: it has not, or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    answers: queue.Queue[Exception | None] = queue.Queue()

    def ask() -> None:
        try:
            HfApi().dataset_info(name, timeout=DEADLINE)
        except Exception as error:  # handed to the caller's thread
            answers.put(error)
        else:
            answers.put(None)

    # The name look-up itself may hang for longer than any time limit of the request.
    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=DEADLINE)
    except queue.Empty:
        error = TimeoutError(f"no answer within {DEADLINE:g} s")
    if isinstance(error, GatedRepoError):
        raise BabelclipError(
            f"hub:{name} is gated: its owners ask to accept their terms on its page. Accept them, log in with "
            "`hf auth login` or set HF_TOKEN, and try again."
        ) from error
    if isinstance(error, RepositoryNotFoundError):
        raise BabelclipError(
            f"hub:{name} is not on the hub, or it is private and you are not logged in. Data sets are called org/name: "
            "check the spelling, or log in with `hf auth login`."
        ) from error
    if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code == 429:
        return  # asked too often just now; loading has patience of its own
    if error is not None:
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> BabelclipError:
    why = "HF_HUB_OFFLINE is set and it is not in the cache" if _offline() else f"the hub does not answer ({error})"
    cached = "" if _offline() else " (if it is in the cache of datasets, HF_HUB_OFFLINE=1 reads it there)"
    return BabelclipError(
        f"hub:{name} cannot be read: {shown(why)}. Where there is a network, fetch it with `{_command(name)}`, then "
        f"give hub:{Path(name).name} (the folder) or the files in it{cached}."
    )


def _command(name: str) -> str:
    return f"hf download {name} --repo-type dataset --local-dir {Path(name).name}"


def _offline() -> bool:
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in names)


# -- rows ------------------------------------------------------------------------------------------------------------


def _iter_rows(data: Any, source: str, rows: int, lang: str | None) -> Iterator[RawTable]:
    batches = _batches(data, source, rows)
    first = next(batches, None)
    if first is None:
        raise _empty(source)
    types = {field.name.lower(): field.type for field in first.schema}
    is_parallel = isinstance(types.get("translation"), pa.StructType)
    wanted, convert = table_files.reading(types, lambda: lang)
    start = 0
    batch: Any = first
    while batch is not None:
        if is_parallel:
            yield _parallel(batch, source, start)
        else:
            yield convert(_raw(batch, source, wanted, start))
        start += batch.num_rows
        batch = next(batches, None)


def _batches(data: Any, source: str, rows: int) -> Iterator[pa.Table]:
    """Yields the rows as Arrow tables without columns of bytes and numbers that no caption has."""
    features = data.features or {}
    names = [name for name, feature in features.items() if type(feature).__name__ not in ("Image", "Audio", "Video")]
    if names:
        data = data.select_columns(names)
    batches = data.with_format("arrow").iter(batch_size=rows)
    while True:
        batch = _attempt(_parsed(source.removeprefix("hub:"))[0], lambda: next(batches, None))
        if batch is None:
            return
        yield batch


def _raw(batch: pa.Table, source: str, wanted: Any, start: int) -> RawTable:
    there = {name.lower(): name for name in batch.column_names}
    columns = {lower: batch[name] for lower, name in there.items() if lower in wanted}
    lists = [lower for lower, values in columns.items() if _is_list(values.type)]
    texts = [lower for lower in lists if lower in _TEXT]
    kept = {lower: values for lower, values in columns.items() if _is_text(values.type)}
    if len(texts) != 1 or any(lower in kept for lower in _TEXT):
        raw = tables.raw_columns(source, kept, start, batch.num_rows)
        raw.names = batch.column_names
        return raw
    return _one_by_one(batch, source, kept, texts[0], columns[texts[0]].combine_chunks(), start)


def _one_by_one(batch: pa.Table, source: str, kept: dict[str, Any], text: str, lists: Any, start: int) -> RawTable:
    """Returns a row for each caption of the lists; other columns are repeated, empty lists are counted."""
    lists = lists.cast(pa.list_(lists.type.value_type))
    parents = pc.list_parent_indices(lists)
    owner = parents.to_numpy()
    number = np.arange(len(owner)) - np.searchsorted(owner, owner) + 1
    raw = tables.raw_columns(
        source, {**{name: values.take(parents) for name, values in kept.items()}, text: pc.list_flatten(lists)}
    )
    firsts = [] if raw.first_skipped is None else [(int(owner[raw.first_skipped[0]]) + start, raw.first_skipped[1])]
    without = np.setdiff1d(np.arange(len(lists)), owner)
    if len(without):
        raw.skipped[EMPTY_TEXT] += len(without)
        firsts.append((int(without[0]) + start, EMPTY_TEXT))
    raw.first_skipped = min(firsts, default=None)
    owner, number = owner[raw.positions], number[raw.positions]
    name = next((key for key in ("id", *ALIASES["id"]) if key in raw.columns), "id")
    names = raw.columns[name].to_pylist() if name in raw.columns else (owner + start).tolist()
    raw.columns[name] = pa.chunked_array(
        [[None if one in (None, "") else f"{one}#{count}" for one, count in zip(names, number, strict=True)]],
        pa.string(),
    )
    raw.names = batch.column_names
    return dataclasses.replace(raw, places=owner + start, positions=owner + start)


def _parallel(batch: pa.Table, source: str, start: int) -> RawTable:
    """Returns the rows of a column `translation` that holds a text for each language."""
    column = batch[next(name for name in batch.column_names if name.lower() == "translation")].combine_chunks()
    codes = [field.name for field in column.type]
    codes.sort(key=lambda code: code.split("-")[0].split("_")[0].lower() not in ("en", "eng"))
    found = [
        (_canonical(code), pc.struct_field(column, code)) for code in codes if _is_text(column.type.field(code).type)
    ]
    raw = tables.raw_columns(source, {str(place): values for place, (_, values) in enumerate(found)}, start)
    columns = [(code, raw.columns[str(place)].to_pylist()) for place, (code, _) in enumerate(found)]
    return pairs.side_by_side(raw, columns)


def _canonical(code: str) -> str:
    try:
        return languages.normalize(code)
    except languages.UnknownLanguageError:
        return code


def _is_list(kind: pa.DataType) -> bool:
    return isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)) and _is_text(kind.value_type)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return tables.is_text_or_integer(kind)
