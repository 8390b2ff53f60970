"""Results from disk, babelclip's own and those of other tools, as rows of one kind.

Read are, by content and not by name: lists and single results of babelclip; clip_benchmark's JSON files; FlagAI's
`result.txt`; mteb's task results; the top-k lines of Chinese-CLIP, whose answers lie in `*_texts.jsonl` beside them.
Entry points: `read_all_results`, `read_file`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, shown
from babelclip.evaluate.dataset_names import dataset_key, usual_split
from babelclip.evaluate.leaks import leak_notes
from babelclip.evaluate.report_rows import Conditions, Row, finite, language_code, retrieval_protocol, row_of
from babelclip.evaluate.result import check_result, fields_of
from babelclip.evaluate.top_k import is_top_k, top_k_rows

_MOST_BYTES = 256 * 1024**2
_SUFFIXES = (".json", ".txt", ".jsonl")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# clip_benchmark names a metric after what is retrieved.
_RETRIEVED = {"image_retrieval_recall@": "t2i", "text_retrieval_recall@": "i2t"}
# Sets of which clip_benchmark keeps the first caption of a picture.
_FIRST_CAPTION = ("xm3600",)


def read_all_results(paths: Iterable[Path | str]) -> tuple[list[Row], list[str]]:
    """Returns the rows of all files, and a sentence for each file in a folder that holds no results.

    Args:
        paths: files, and folders that are searched with those in them; a file that is named must hold results.

    Raises:
        BabelclipError: a file that is named is missing or holds no results, or nothing at all was found.
    """
    rows: list[Row] = []
    passed: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            rows += read_file(path)
            continue
        for file in sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file()):
            try:
                rows += read_file(file)
            except BabelclipError as error:
                passed.append(str(error))
    if not rows:
        raise BabelclipError(
            f"No result was found in {', '.join(map(str, paths)) or 'nothing'}"
            + (f" ({passed[0]})" if passed else "")
            + ". Give files or folders made by `babelclip evaluate --out` or clip_benchmark."
        )
    return rows, passed


def read_file(path: Path | str) -> list[Row]:
    """Returns the rows of one file.

    Raises:
        BabelclipError: it is missing, too large, or holds no results of a known form; the message says what it holds.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BabelclipError(f"{path} has more than {_MOST_BYTES >> 20} MiB, no file of results has. Leave it out.")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise BabelclipError(f"{path} does not exist. Give a file or folder of results.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BabelclipError(f"{path} cannot be read as text ({error}). Give a file of results.") from error
    if path.suffix == ".jsonl":
        return _of_lines(path, text)
    content = _parsed(path, text)
    entries = content if isinstance(content, list) else [content]
    if not entries:
        return []
    rows = [row for entry in entries for row in _rows_of(path, entry)]
    if not rows:
        raise BabelclipError(f"{path} holds {_described(entries[0])}, which are no results. Leave it out.")
    return rows


def _parsed(path: Path, text: str) -> Any:
    try:
        return _loaded(text)
    except (ValueError, RecursionError) as error:
        try:  # FlagAI's result.txt may hold the repr of a dictionary
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise BabelclipError(f"{path} is no JSON ({shown(error)}). Give a file of results.") from error


def _loaded(text: str) -> Any:
    """Returns the content of JSON, in which half surrogates, which no page or table can hold, become `?`."""
    content = json.loads(text)
    if not _SURROGATE.search(text):
        return content
    return json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))


def _rows_of(path: Path, entry: Any) -> list[Row]:
    """Returns the rows of one record, or none where it is of no known form."""
    if not isinstance(entry, dict):
        return []
    if isinstance(entry.get("scores"), dict) and "task_name" in entry:
        return _of_mteb(path, entry)
    if not isinstance(entry.get("metrics"), dict):
        return []
    if "versions" in entry or "space" in entry:
        return [row_of(_own(path, entry))]
    return _of_clip_benchmark(path, entry)


def _own(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Returns a result of babelclip; fields that only later versions state count as unknown.

    Raises:
        BabelclipError: it lacks what a figure cannot be understood without.
    """
    unknown: dict[type, Any] = {str: "", dict: {}, list: [], bool: False, int: 0}
    filled = dict(entry)
    try:
        for name, kind in fields_of(str(entry.get("task"))).items():
            if name in ("text_cleaning", "max_length", "padding", "normalization", "preprocess", "parameters", "leaks"):
                filled.setdefault(name, None if isinstance(kind, tuple) else unknown[kind])
        check_result(filled)
    except BabelclipError as error:
        raise BabelclipError(f"{path}: {error}") from error
    return filled


def _of_clip_benchmark(path: Path, entry: Mapping[str, Any]) -> list[Row]:
    """Returns the rows of a record of clip_benchmark, or of FlagAI, which writes fewer keys of the same kind."""
    metrics = finite(entry["metrics"])
    flagai = "model" not in entry
    dataset = str(entry.get("dataset") or "")
    if not metrics or not dataset:
        return []
    model = path.parent.name if flagai else "/".join(str(entry[k]) for k in ("model", "pretrained") if entry.get(k))
    by_direction: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        mark = next((mark for mark in _RETRIEVED if name.startswith(mark)), "")
        renamed = f"R@{name.removeprefix(mark)}" if mark else name
        by_direction.setdefault(_RETRIEVED.get(mark, ""), {})[renamed] = value
    key = dataset_key(dataset)
    task = str(entry.get("task") or "zeroshot_classification")
    retrieval = retrieval_protocol("first" if key in _FIRST_CAPTION else "all")
    protocol = {"zeroshot_retrieval": retrieval, "zeroshot_classification": "prompts"}.get(task, "")
    # clip_benchmark does not state the split: by default it takes the one that its data set is published on.
    split = "train" if flagai and key.startswith("cifar") else usual_split(key)
    notes = ["clip_benchmark runs in bfloat16 unless --no_amp was given; it does not state how this was run"]
    if flagai:
        notes = ["FlagAI's file does not name its model; the folder's name stands here"]
        if key.startswith("cifar"):
            notes.append("FlagAI's CIFAR scripts score the train split")
    return [
        Row(
            Conditions(task, key, split, direction, protocol),
            model=model,
            language=language_code(str(entry.get("language") or "en")),
            metrics=values,
            leaks=leak_notes(str(entry.get("model", "")), dataset),
            notes=tuple(notes),
            origin="FlagAI" if flagai else "clip_benchmark",
            result=entry,
        )
        for direction, values in by_direction.items()
    ]


def _of_mteb(path: Path, entry: Mapping[str, Any]) -> list[Row]:
    """Returns the rows of a task result of mteb: one for each subset of one language."""
    name = str(entry["task_name"])
    direction = "t2i" if "T2I" in name else "i2t" if "I2T" in name else ""
    dataset = name.split("T2I")[0].split("I2T")[0]
    # results/<model>/<revision>/<task>.json
    model = path.parent.parent.name.replace("__", "/") if len(path.parts) > 2 else path.stem
    conditions = Conditions("zeroshot_retrieval", dataset_key(dataset), "", direction, retrieval_protocol("all"))
    rows = []
    for split, scores in entry["scores"].items():
        for score in scores if isinstance(scores, list) and direction else ():
            metrics = _mteb_metrics(score) if isinstance(score, dict) else {}
            if not metrics:
                continue
            spoken = score.get("languages")
            code = str(score.get("hf_subset") or (spoken[0] if isinstance(spoken, list) and spoken else ""))
            rows.append(
                Row(
                    conditions._replace(split=str(split)),
                    model=model,
                    language=language_code(code),
                    metrics=metrics,
                    leaks=leak_notes(model, dataset),
                    origin=f"mteb {entry.get('mteb_version', '')}".strip(),
                    result=score,
                )
            )
    return rows


def _mteb_metrics(score: Mapping[str, Any]) -> dict[str, float]:
    """Returns R@k, which mteb calls a hit rate and once called `cv_recall`, and nDCG@10."""
    names = {f"{name}_at_{k}": f"R@{k}" for name in ("cv_recall", "hit_rate") for k in (1, 5, 10)}
    names["ndcg_at_10"] = "nDCG@10"
    return finite({ours: score[theirs] for theirs, ours in names.items() if theirs in score})


def _of_lines(path: Path, text: str) -> list[Row]:
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                lines.append(_loaded(line))
            except (ValueError, RecursionError) as error:
                raise BabelclipError(
                    f"{path}, line {number} is no JSON ({shown(error)}). Give a file of results."
                ) from error
    if is_top_k(lines):
        return top_k_rows(path, lines)
    if not lines:
        return []
    rows = [row for entry in lines for row in _rows_of(path, entry)]
    if not rows:
        raise BabelclipError(f"{path} holds {_described(lines[0])}, which are no results. Leave it out.")
    return rows


def _described(entry: Any) -> str:
    if isinstance(entry, dict):
        return f"records with {', '.join(shown(key, 20) for key in list(entry)[:4]) or 'nothing'}"
    return f"{type(entry).__name__} entries"
