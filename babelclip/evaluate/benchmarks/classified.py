"""`LabelledPictures`: what every reader of classified pictures gathers, and the set that becomes of it."""

from __future__ import annotations

import numpy as np

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.class_names import ClassNames
from babelclip.evaluate.benchmarks.request import Request, Skips
from babelclip.evaluate.benchmarks.sets import ClassificationSet, Pictures, Source
from babelclip.evaluate.result import NOT_AS_PUBLISHED


class LabelledPictures:
    """Gathers pictures with their class, or with a row of classes."""

    def __init__(self, request: Request, skips: Skips | None = None) -> None:
        """`skips` counts what is left out."""
        self.request = request
        self.skips = skips or Skips(request.strict)
        self._ids: dict[str, Source] = {}
        self._labels: list[int | np.ndarray] = []

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def n_classes(self) -> int:
        """How many classes the labels need."""
        return max((len(x) if isinstance(x, np.ndarray) else x + 1 for x in self._labels), default=0)

    def add(self, name: str, source: Source, label: int | np.ndarray) -> None:
        """Takes a picture with its class, or a row (C,) of bool."""
        if name in self._ids:
            self.skips.add("picture of a name that was there", name)
            return
        self._ids[name] = source
        self._labels.append(label)

    def build(self, split: str, *, names: ClassNames, classes: tuple[str, ...]) -> ClassificationSet:
        """Returns the set of C `classes`.

        Raises:
            BabelclipError: there are no pictures, or the numbers of classes disagree.
        """
        request = self.request
        if not self._labels:
            raise request.missing("labelled pictures")
        self._check_counts(names, len(classes))
        if isinstance(self._labels[0], np.ndarray):
            labels = np.zeros((len(self), len(classes)), dtype=bool)
            for row, own in zip(labels, self._labels, strict=True):
                row[: len(own)] = own  # type: ignore[arg-type]
        else:
            labels = np.array(self._labels, dtype=np.int64)
        published = request.entry.counts.get(split)
        count = (
            (f"{split} has {published} pictures as published and {len(self)} here: {NOT_AS_PUBLISHED}",)
            if published not in (None, len(self))
            else ()
        )
        return ClassificationSet(
            name=request.name,
            split=split,
            pictures=Pictures(tuple(self._ids), tuple(self._ids.values())),
            labels=labels,
            classes=classes,
            classnames=names.classnames,
            templates=names.templates,
            class_indices=names.class_indices,
            sources={"classnames": names.name_files, "templates": names.template_files},
            notes=(*request.entry.notes, *names.notes, *count, *self.skips.notes()),
        )

    def _check_counts(self, names: ClassNames, n_classes: int) -> None:
        for lang, own in names.classnames.items():
            indices = None if names.class_indices is None else names.class_indices[lang]
            needed = n_classes if indices is None else len(indices)
            if len(own) != needed or (indices is not None and len(indices) and int(indices.max()) >= n_classes):
                raise BabelclipError(
                    f"{names.name_files[lang]} names {len(own)} classes in {lang} for {needed} of {n_classes} classes "
                    f"of {self.request.root}. There must be one name a class, in their order: take the list that was "
                    "made for this set."
                )
        if self.n_classes > n_classes:
            raise BabelclipError(
                f"{self.request.root} has a picture of class {self.n_classes - 1}, and there are {n_classes} classes "
                f"(0 to {n_classes - 1}). Labels and names must belong together: copy the set again."
            )
