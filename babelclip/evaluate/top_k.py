"""Chinese-CLIP's lists of answers: `{"text_id": 8, "image_ids": [...]}` a line, or the other way round.

The right answers stand in the texts of its data sets, `{split}_texts.jsonl` with `text_id` and `image_ids`, which is
looked for beside the answers and in the folder above. Entry points: `is_top_k`, `top_k_rows`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.evaluate.dataset_names import dataset_key
from babelclip.evaluate.report_rows import Conditions, Row, retrieval_protocol
from babelclip.evaluate.result import NOT_AS_PUBLISHED

# Field of the query, field of its answers, direction.
_FORMS = (("text_id", "image_ids", "t2i"), ("image_id", "text_ids", "i2t"))
_KS = (1, 5, 10)


def is_top_k(lines: Sequence[Any]) -> bool:
    """Returns whether these are lists of answers (and not the texts of a data set, which carry `text`)."""
    return bool(lines) and all(isinstance(line, dict) and "text" not in line and _form(line) for line in lines)


def _form(line: dict[str, Any]) -> tuple[str, str, str] | None:
    return next((form for form in _FORMS if form[0] in line and isinstance(line.get(form[1]), list)), None)


def top_k_rows(path: Path, lines: Sequence[dict[str, Any]]) -> list[Row]:
    """Returns one row: R@1, R@5 and R@10 of the answers, as far as the lists are long.

    Raises:
        BabelclipError: the texts with the right answers are not found, or do not hold every query.
    """
    form = _form(lines[0])
    if form is None:
        raise BabelclipError(f"{path} holds no lists of answers. Give lines with text_id and image_ids.")
    query, answers, direction = form
    texts, right = _right_answers(path, direction)
    if not all(query in line and isinstance(line.get(answers), list) for line in lines):
        raise BabelclipError(f"{path} has lines without {query} and a list of {answers}. Every line needs both.")
    missing = [line[query] for line in lines if str(line[query]) not in right]
    if missing:
        raise BabelclipError(
            f"{path} answers {query} {missing[0]} and {len(missing) - 1} more that {texts} does not hold. Put the "
            "texts of the same split beside it."
        )
    shortest = min(len(line[answers]) for line in lines)
    ks = [k for k in _KS if k <= shortest]
    if not ks:
        raise BabelclipError(f"{path} has a query without an answer; every line needs at least one in {answers}.")
    metrics = {
        f"R@{k}": sum(bool(right[str(line[query])] & set(map(str, line[answers][:k]))) for line in lines) / len(lines)
        for k in ks
    }
    left = len(right.keys() - {str(line[query]) for line in lines})
    notes = [f"computed from {len(lines)} lists of answers; the file names neither model nor data set"]
    if left:
        notes.append(f"{left} of {len(right)} queries have no answers here and are left out: {NOT_AS_PUBLISHED}")
    split, captions = texts.name.removesuffix("_texts.jsonl"), retrieval_protocol("all")
    return [
        Row(
            Conditions("zeroshot_retrieval", dataset_key(path.parent.name), split, direction, captions),
            model=path.stem.removesuffix("_predictions").removesuffix("_tr"),
            language="zh",
            metrics=metrics,
            notes=tuple(notes),
            origin="Chinese-CLIP",
            result={"n_queries": len(lines), "direction": direction},
        )
    ]


def _right_answers(path: Path, direction: str) -> tuple[Path, dict[str, set[str]]]:
    """Returns the file of the texts, and query id -> ids of its right answers."""
    found = [file for folder in (path.parent, path.parent.parent) for file in sorted(folder.glob("*_texts.jsonl"))]
    if not found:
        raise BabelclipError(
            f"{path} lists answers, but not which are right: no *_texts.jsonl lies beside it or in the folder above. "
            "Copy the data set's texts (for example test_texts.jsonl) there."
        )
    # valid_predictions.jsonl belongs to valid_texts.jsonl where several lie there.
    texts = next((file for file in found if path.name.startswith(file.name.removesuffix("_texts.jsonl"))), found[0])
    right: dict[str, set[str]] = {}
    try:
        for line in texts.read_text("utf-8").splitlines():
            if line.strip():
                row = json.loads(line)
                for image in row["image_ids"]:
                    query, answer = (row["text_id"], image) if direction == "t2i" else (image, row["text_id"])
                    right.setdefault(str(query), set()).add(str(answer))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BabelclipError(f"{texts} is not the texts of a data set ({error!r}). Copy it again.") from error
    return texts, right
