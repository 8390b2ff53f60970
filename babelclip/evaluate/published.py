"""Published figures as rows beside measured ones, with what they were measured under and what makes them unequal.

They come from the model cards (`cards/scores.tsv`) and from `cards/scores_more.tsv`, which holds further protocols and
models without a card. Entry points: `published_rows`, `published_beside`, `inequalities`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from types import MappingProxyType

from babelclip import registry
from babelclip.cards import FOLDER, Score, read_scores
from babelclip.evaluate.dataset_names import dataset_key, usual_split
from babelclip.evaluate.leaks import leak_notes
from babelclip.evaluate.report_rows import DIRECTION_TITLES, Conditions, Row, retrieval_protocol

MORE_FILE = os.path.join(FOLDER, "scores_more.tsv")
# A metric's name in papers -> the task it belongs to, and its name in results.
_METRICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **{f"R@{k}": ("zeroshot_retrieval", f"R@{k}") for k in (1, 5, 10)},
        "MR": ("zeroshot_retrieval", "MR"),
        "nDCG@10": ("zeroshot_retrieval", "nDCG@10"),
        "recall": ("zeroshot_retrieval", "recall"),
        "top-1": ("zeroshot_classification", "acc1"),
        "top-5": ("zeroshot_classification", "acc5"),
        "mean per class recall": ("zeroshot_classification", "mean_per_class_recall"),
        "Spearman": ("sts", "spearman"),
        "Pearson": ("sts", "pearson"),
    }
)
# Sets with one caption a picture: first and all captions are the same there.
_ONE_CAPTION = ("xtd10", "xtd200", "xflickrco", "flickr30k200")
NOT_STATED = "captions of a picture not stated"


@functools.cache
def published_rows() -> tuple[Row, ...]:
    """Returns every published figure, card by card, then those of `scores_more.tsv`; shares are fractions.

    Raises:
        BabelclipError: a data file is damaged.
    """
    found = [(card.name, score) for card in registry.cards() if not card.same_weights for score in card.scores]
    found += [(name, score) for name, scores in read_scores(MORE_FILE).items() for score in scores]
    return tuple(row for name, score in found if (row := _row(name, score)) is not None)


def _row(model: str, score: Score) -> Row | None:
    """Returns one figure as a row, or None where its metric is none that babelclip measures."""
    if score.metric not in _METRICS:
        return None
    task, metric = _METRICS[score.metric]
    key = dataset_key(score.benchmark)
    direction = {"-": ""}.get(score.direction, score.direction)
    return Row(
        Conditions(task, key, "", direction, _protocol(task, key, score.protocol)),
        model=model,
        language=score.language,
        metrics={metric: score.value / 100},
        leaks=leak_notes(model, score.benchmark),
        notes=(score.protocol,),
        origin=score.source,
        published=True,
    )


def _protocol(task: str, key: str, text: str) -> str:
    """Returns the protocol of a published figure in the words of measured ones."""
    if task == "zeroshot_retrieval":
        if key in _ONE_CAPTION or "all captions" in text:
            return retrieval_protocol("all")
        return retrieval_protocol("first") if "first caption" in text else NOT_STATED
    if task == "zeroshot_classification":
        return "class names alone" if "labels alone" in text else "prompts"
    return text


def _split_apart(published: Row, measured: Conditions) -> str | None:
    """Returns the split that a published figure is of, or None where it may be the one that was measured."""
    if "train split" in published.notes[0]:
        return None if measured.split == "train" else "train"
    usual = usual_split(measured.dataset)
    return None if measured.split in ("", usual) else usual


def published_beside(conditions: Conditions) -> list[Row]:
    """Returns the published figures of a data set, task and direction, whatever their protocol.

    A direction is never mixed: a figure of the other one, or of both at once, does not stand beside these.
    """
    wanted = (conditions.task, conditions.dataset, conditions.direction)
    return [
        row
        for row in published_rows()
        if (row.conditions.task, row.conditions.dataset, row.conditions.direction) == wanted
    ]


def inequalities(published: Row, measured: Conditions) -> tuple[str, ...]:
    """Returns why a published figure does not compare with measured ones, one reason each; () where nothing is known.

    >>> row = next(row for row in published_rows() if row.conditions.dataset == "xm3600")
    >>> inequalities(row, row.conditions._replace(protocol="first caption of a picture"))
    ('published with all captions, measured with first caption of a picture',)
    """
    reasons = []
    mine, theirs = measured.protocol, published.conditions.protocol
    if published.conditions.direction != measured.direction:
        titles = [DIRECTION_TITLES.get(name, name) for name in (published.conditions.direction, measured.direction)]
        reasons.append(f"published {titles[0]}, measured {titles[1]}")
    if theirs == NOT_STATED:
        reasons.append(f"{NOT_STATED} by its source; measured with {mine}")
    elif published.conditions.task in ("zeroshot_retrieval", "zeroshot_classification") and not mine.startswith(theirs):
        reasons.append(f"published with {theirs}, measured with {mine}")
    elif published.conditions.task == "sts":
        reasons.append("texts may have been cased, and figures averaged, in another way")
    if (split := _split_apart(published, measured)) is not None:
        reasons.append(f"published on the {split} split, measured on {measured.split or 'one not stated'}")
    return (*reasons, *(f"leak: {leak}" for leak in published.leaks))
