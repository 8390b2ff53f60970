"""What a benchmark is once it is read: pictures, texts, and what belongs together. Nothing here knows a file layout.

Entry points: `RetrievalSet`, `ClassificationSet`, `SelectionSet`, `SentencePairs`, `ParallelTexts`, and `Pictures`,
which names pictures and opens none. Readers check what they build, so the classes only hold it.
Legend: N pictures or texts, C classes.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError

if TYPE_CHECKING:
    from PIL import Image

    from babelclip.data.captions import Captions

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
# A list holds for every class; by class name, each class has its own (CuPL). The place of the name is `{}`.
Templates = list[str] | dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Base64Picture:
    """A picture as base64 inside a text file (the TSV files of Chinese-CLIP): read when asked for.

    Attributes:
        file: the text file.
        offset: byte where the base64 begins.
        size: its bytes, as base64.
    """

    file: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """Returns the picture file as it was before base64.

        Raises:
            OSError: the file cannot be read, or what is there is no base64.
        """
        with open(self.file, "rb") as opened:
            opened.seek(self.offset)
            text = opened.read(self.size)
        try:
            return base64.b64decode(text, altchars=b"-_" if b"-" in text or b"_" in text else None, validate=True)
        except ValueError as error:
            raise OSError(f"no base64 at byte {self.offset} ({error})") from error

    def __str__(self) -> str:
        return f"{self.file}, byte {self.offset}"


@dataclasses.dataclass(frozen=True)
class PixelPicture:
    """A small picture in memory (CIFAR), which equals another of the same pixels.

    Attributes:
        width: in pixels.
        height: in pixels.
        pixels: height x width x 3 bytes, red, green, blue.
    """

    width: int
    height: int
    pixels: bytes = dataclasses.field(repr=False)

    def read_bytes(self) -> bytes:
        """Returns the picture as a file of the format PPM: a line of sizes and the pixels as they are."""
        return b"P6 %d %d 255\n" % (self.width, self.height) + self.pixels

    def __str__(self) -> str:
        return f"{self.width} x {self.height} pixels"


# What `models.preprocess.open_picture` opens: a path, also `shard.tar::0001.jpg`; or what gives the bytes of a file.
Source = str | Path | Base64Picture | PixelPicture


@dataclasses.dataclass(frozen=True)
class Pictures:
    """N pictures that are not opened yet. `ImageEncoder.encode_readable(pictures.sources)` takes them.

    Attributes:
        ids: N distinct ids; captions name their picture by one.
        sources: N files, members of tars, rows of base64 or pixels, in the order of the ids; all of them hashable.
    """

    ids: tuple[str, ...]
    sources: tuple[Source, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def open(self, position: int) -> Image.Image:
        """Returns one decoded picture.

        Raises:
            PictureError: it cannot be read.
        """
        from babelclip.models.preprocess import open_picture

        return open_picture(self.sources[position])

    def content_key(self, position: int) -> str:
        """Returns a string that changes when the picture does, found without reading a file's content.

        It is made of path, size and time of change; of a tar also the member. Pixels in memory are hashed.

        Raises:
            OSError: the file is not there.
        """
        source = self.sources[position]
        if isinstance(source, PixelPicture):
            digest = hashlib.blake2b(source.pixels, digest_size=16).hexdigest()
            return f"{source.width}x{source.height} pixels {digest}"
        if isinstance(source, Base64Picture):
            return f"{_file_key(source.file)}::{source.offset}+{source.size}"
        tar, mark, member = os.fspath(source).partition(".tar::")
        return f"{_file_key(tar + '.tar')}::{member}" if mark else _file_key(source)

    def kept_features(
        self, image_features: npt.ArrayLike, kept: Sequence[int] | IntArray | None
    ) -> tuple[npt.NDArray[np.float32], IntArray]:
        """Returns the vectors (M, D) float32 of the pictures that could be read, and their places here (M,) int64.

        Args:
            image_features: (M, D).
            kept: (M,) places; None: all pictures could be read.

        Raises:
            BabelclipError: there is not one vector for each.
        """
        features = np.asarray(image_features, dtype=np.float32)
        places = np.arange(len(self)) if kept is None else np.asarray(kept, dtype=np.int64)
        if len(features) != len(places):
            raise BabelclipError(f"There are {len(features)} vectors for {len(places)} pictures; give one a picture.")
        return features, places

    def select(self, positions: Sequence[int] | IntArray) -> Pictures:
        """Returns the pictures at some positions, in that order."""
        return Pictures(tuple(self.ids[p] for p in positions), tuple(self.sources[p] for p in positions))


def _file_key(path: str | Path) -> str:
    facts = os.stat(path)
    return f"{os.path.abspath(path)} {facts.st_size} {facts.st_mtime_ns}"


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """Pictures and captions that describe them.

    Attributes:
        name: of the data set in results; the first-caption protocol has a name of its own (`xm3600-first`).
        split: as its authors call it.
        captions: rows whose `image` is one of `pictures.ids`, of all languages asked for.
        pictures: the corpus.
        groups: (N,) group of each picture, equally relevant within; None: each its own.
        corpora: language -> positions of the pictures that its captions are ranked against; None: all of them.
        text_numbers: (N,) number of the text of each row of `captions`, ascending from 0: rows of one number are a text
            that each of their pictures answers. None: each row is a text of its own.
        captions_per_image: `all`, or `first` where only the first of each picture and language was kept.
        notes: leaks, what was skipped and why; every result carries them.
        facts: what else a result states of the protocol.
    """

    name: str
    split: str
    captions: Captions
    pictures: Pictures
    groups: tuple[str, ...] | None = None
    corpora: Mapping[str, IntArray] | None = None
    text_numbers: IntArray | None = None
    captions_per_image: str = "all"
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that have captions, sorted."""
        return tuple(self.captions.language_counts())


@dataclasses.dataclass(frozen=True)
class ClassificationSet:
    """Pictures, the classes they show, and what the classes are called in each language.

    Attributes:
        name: of the data set in results.
        split: as its authors call it.
        pictures: N pictures.
        labels: (N,) int64 class of each, or (N, C) bool where a picture has several.
        classes: C ids that do not depend on a language (WordNet ids, folder names).
        classnames: language -> names; the j-th is of class j, or of class `class_indices[language][j]`.
        templates: language -> texts around a name, with `{}` for it.
        class_indices: language -> (C',) int64 classes that have a name there; None: all, in every language.
            Pictures of the other classes are left out, so figures of two languages do not compare.
        sources: `{"classnames": {language: file}, "templates": {language: file}}`.
        notes: as in `RetrievalSet`.
        facts: as in `RetrievalSet`.
    """

    name: str
    split: str
    pictures: Pictures
    labels: IntArray | BoolArray
    classes: tuple[str, ...]
    classnames: Mapping[str, list[str]]
    templates: Mapping[str, Templates]
    class_indices: Mapping[str, IntArray] | None = None
    sources: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def multi_label(self) -> bool:
        """Whether a picture may have several classes."""
        return self.labels.ndim == 2

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that have names of classes, sorted."""
        return tuple(sorted(self.classnames))


@dataclasses.dataclass(frozen=True)
class SelectionItem:
    """One question: which caption belongs to which picture.

    Attributes:
        pictures: positions in `Pictures`; the i-th belongs to the i-th caption.
        captions: as many, or more: those beyond the pictures belong to none.
        subset: part of the benchmark, "" where it has none.
    """

    pictures: tuple[int, ...]
    captions: tuple[str, ...]
    subset: str = ""


@dataclasses.dataclass(frozen=True)
class SelectionSet:
    """Pictures with captions that differ by a word or by its order (Winoground 2 x 2, SugarCrepe 1 x 2)."""

    name: str
    split: str
    pictures: Pictures
    items: tuple[SelectionItem, ...]
    language: str = "en"
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def languages(self) -> tuple[str, ...]:
        """The language of the captions."""
        return (self.language,)


@dataclasses.dataclass(frozen=True)
class ScoredPairs:
    """Pairs of sentences with what people say of their likeness: three columns of equal length (N,)."""

    first: list[str]
    second: list[str]
    gold: list[float]

    def __len__(self) -> int:
        return len(self.gold)


@dataclasses.dataclass(frozen=True)
class SentencePairs:
    """Pairs of sentences with scores, in one subset or several.

    Attributes:
        name: of the data set in results.
        split: as its authors call it.
        subsets: name of the subset -> its pairs.
        pair_languages: name of the subset -> languages of its first and second sentences.
        protocol: `plain`, or `lowercased` as SentEval's files are.
        notes: as in `RetrievalSet`.
        facts: as in `RetrievalSet`.
    """

    name: str
    split: str
    subsets: Mapping[str, ScoredPairs]
    pair_languages: Mapping[str, tuple[str, str]]
    protocol: str = "plain"
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that occur, sorted."""
        return tuple(sorted({lang for pair in self.pair_languages.values() for lang in pair}))


@dataclasses.dataclass(frozen=True)
class ParallelTexts:
    """The same texts in several languages: position n of one translates position n of every other."""

    name: str
    split: str
    texts: Mapping[str, list[str]]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, in the order they were asked for or found."""
        return tuple(self.texts)


BenchmarkSet = RetrievalSet | ClassificationSet | SelectionSet | SentencePairs | ParallelTexts
