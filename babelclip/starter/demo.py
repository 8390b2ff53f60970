"""The demo: an English CLIP is assembled, taught many languages, measured, saved, loaded and searched with.

`gather_parts` collects models, texts and pictures from packages; `run_demo` does the rest with whatever parts it is
given, so that a test runs the whole path with tiny ones. `make_starter` makes the model without the show. Every step
keeps what it made in the output folder, and a demo that was stopped goes on from there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import babelclip
from babelclip.data.captions import Captions
from babelclip.data.embed import embed_captions
from babelclip.errors import BabelclipError, require
from babelclip.evaluate.report import write_results
from babelclip.models.clip import Clip, check_replaceable
from babelclip.models.text import TextEncoder
from babelclip.starter import debian, emoji, student, teacher, tuxpaint, words
from babelclip.starter.measure import LEAST_CAPTIONS, PictureSet, TextVectors, picture_vectors, texts_of
from babelclip.starter.present import build_report, terminal_lines, write_report
from babelclip.starter.results import (
    AFTER,
    BEFORE,
    RIDGE,
    TEACHER,
    Measured,
    StudentCaptions,
    check_loaded,
    head_of,
    rows_of,
    student_vectors,
)
from babelclip.starter.teach import Taught, first_trained_layer, random_head, recipe_for, sources_of, teach
from babelclip.train.recipe import Recipe

Say = Callable[[str], None]
# Held-out captions a language that watch over the training.
_VALIDATION_ROWS = 40


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the demo works on.

    Attributes:
        teacher: the English CLIP.
        student: the text encoder to teach.
        corpus: training texts and their weights.
        validation: held-out captions that watch over the training, with their English rows.
        sets: pictures with captions to measure on.
        missing: what could not be had, and how to get it.
        attribution: of every source, models included.
    """

    teacher: Clip
    student: TextEncoder
    corpus: words.Corpus
    validation: Captions
    sets: tuple[PictureSet, ...]
    missing: tuple[str, ...] = ()
    attribution: tuple[str, ...] = ()

    @property
    def taught(self) -> tuple[str, ...]:
        """Languages of the training text, English first."""
        return tuple(sorted(set(self.corpus.captions.langs), key=lambda lang: (lang != "en", lang)))


@dataclasses.dataclass
class Clock:
    """Says what is done and keeps how long it took."""

    say: Say
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    start: float = dataclasses.field(default_factory=time.perf_counter)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times the block under `name`."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun
        self.say(f"{self.total:5.0f} s  {name}")

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start


def gather_parts(seed: int = 0, cache: Path | None = None) -> Parts:
    """Returns the real parts, from installed packages and, where they can be had, from packages of Debian.

    Raises:
        PartError: a package is absent, of another version or damaged; the message holds the command to install it.
    """
    names = emoji.emoji_captions()
    taught, held_out = emoji.split_concepts(names, share=0.2, seed=seed)
    # All at once, so that fresh package lists are fetched at most once.
    stamps, *of_words = debian.find_folders([tuxpaint.STAMPS, *words.PACKAGES], cache)
    sets, missing = _emoji_sets(taught, held_out, seed), debian.left_out([stamps])
    attribution = [*teacher.ATTRIBUTION, *student.ATTRIBUTION, *emoji.ATTRIBUTION, *words.ATTRIBUTION]
    if stamps.folder:
        sets = [*_stamp_sets(stamps.folder), *sets]
        attribution.append(tuxpaint.ATTRIBUTION)
    # No text of any test set is taught, and none of a held-out concept in any language.
    forbidden = [text for one in sets if one.key != "emoji-taught" for text in one.captions.texts]
    forbidden += held_out.texts
    corpus = words.training_texts(taught, forbidden, seed=seed, found=of_words)
    return Parts(
        teacher=teacher.assemble_teacher(),
        student=student.assemble_student(),
        corpus=corpus,
        validation=_validation(held_out, seed),
        sets=tuple(sets),
        missing=(*missing, *corpus.missing),
        attribution=tuple(dict.fromkeys(attribution)),
    )


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    say: Say = lambda _line: None,
    parts: Parts | None = None,
    recipe: Recipe | None = None,
    least: int = LEAST_CAPTIONS,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs the demo and returns its report, which is also written as `report.json`, `.md` and `.html` in `out`.

    Args:
        out: folder for everything; what is already there from a run that was stopped is used.
        seed: of data order, initial weights and the held-out emoji.
        say: is given lines for the user.
        parts: other models, texts and pictures than the real ones.
        recipe: other settings of the training.
        least: captions that a language needs for a column.
        progress: show bars on stderr.

    Raises:
        BabelclipError: `out` is a file.
        MissingExtraError: the extra `train` is not installed.
    """
    _check_start(out)
    for name in ("teacher", "student"):
        check_replaceable(out / name)
    clock = Clock(say)
    recipe = recipe or recipe_for(seed)
    if parts is None:
        with clock.step("models, texts and pictures from packages"):
            parts = gather_parts(seed)
    for line in parts.missing:
        say(f"left out: {line}")
    with clock.step("English CLIP saved and loaded again"):
        english = babelclip.load(parts.teacher.save(out / "teacher"))
    texts = texts_of(parts.sets, least)
    with clock.step(f"{len(texts):,} test captions through the student before teaching"):
        first_layer = first_trained_layer(parts.student, recipe)
        captions = StudentCaptions(parts.student, texts, first_layer, out / "states", progress=progress)
    taught = _taught(parts, english, recipe, out, clock, progress)
    with clock.step("taught CLIP saved and loaded again"):
        clip = babelclip.load(_joined(english, parts).save(out / "student"))
    with clock.step("pictures encoded, each once"):
        images = picture_vectors(english, parts.sets, progress=progress)
    with clock.step("test captions through the taught student and the English teacher"):
        after = student_vectors(AFTER, clip, texts, captions.pooled(parts.student), head_of(clip))
        check_loaded(clip, texts, np.stack([after.features[text] for text in texts]))
        teacher_rows = english.encode_text(texts, progress=progress)
    with clock.step("recall of every model in every language"):
        students = [
            student_vectors(BEFORE, clip, texts, captions.before, random_head(parts.student, seed)),
            student_vectors(RIDGE, clip, texts, captions.before, taught.ridge),
            after,
        ]
        vectors = TextVectors.of(TEACHER, english.space, english.languages, texts, teacher_rows)
        rows = {one.key: rows_of(one, vectors, students, images[one.key], least=least, seed=seed) for one in parts.sets}
        measured = Measured(rows, images)
        write_results(measured.results, out / "results.json", overwrite=True)
    report = build_report(
        clip,
        parts.sets,
        measured,
        parts.corpus,
        taught,
        seconds=clock.seconds,
        training_log=out / "training" / "log.jsonl",
        missing=parts.missing,
        folder=out,
        seed=seed,
        least=least,
    )
    write_report(report, measured, clip, parts.sets, out)
    captions.discard()
    for line in terminal_lines(report, out):
        say(line)
    return report


def _check_start(folder: Path) -> None:
    """Raises before minutes of work what would end them: a file in the way, or packages for training that lack."""
    require("accelerate", "train")
    if folder.exists() and not folder.is_dir():
        raise BabelclipError(
            f"{folder} is a file. A folder is written there, new or begun before: choose another path."
        )


def make_starter(folder: Path, *, work: Path | None = None, seed: int = 0, say: Say = lambda _line: None) -> Clip:
    """Makes the demo's model in `folder`, without measuring and showing, and returns it.

    Args:
        folder: of the model.
        work: keeps targets, log and checkpoints; None: beside the model, in `<folder>-work`.
        seed: of data order and initial weights.
        say: is given lines for the user.

    Raises:
        BabelclipError: `folder` or `work` is a file.
        MissingExtraError: the extra `train` is not installed.
    """
    clock = Clock(say)
    work = work or folder.with_name(f"{folder.name}-work")
    for place in (folder, work):
        _check_start(place)
    check_replaceable(folder)
    with clock.step("models and texts from packages"):
        parts = gather_parts(seed)
    _taught(parts, parts.teacher, recipe_for(seed), work, clock, progress=True)
    clip = _joined(parts.teacher, parts)
    clip.save(folder)
    return clip


def _taught(parts: Parts, english: Clip, recipe: Recipe, out: Path, clock: Clock, progress: bool) -> Taught:
    """Teaches the student from the teacher's vectors on disk."""
    corpus = parts.corpus
    with clock.step("teacher's vectors of the English texts, computed once"):
        sources = _source_rows(corpus.captions, parts.validation)
        targets = embed_captions(english, sources, out / "targets", dtype="float32", progress=progress)
    targets.check_space(english.space)
    taught = teach(
        parts.student,
        corpus.captions,
        targets,
        recipe,
        out / "training",
        weights=corpus.weights,
        validation=parts.validation,
        progress=progress,
        say=clock.say,
    )
    clock.seconds.update(taught.seconds)
    clock.say(
        f"{clock.total:5.0f} s  student taught: {taught.run.run.examples:,} texts in {taught.run.run.step:,} steps"
    )
    return taught


def _joined(english: Clip, parts: Parts) -> Clip:
    """Returns the taught text tower with the teacher's picture tower."""
    return Clip(
        space=english.space,
        text=parts.student,
        image=english.image,
        logit_scale=english.logit_scale,
        languages=parts.taught,
        name="starter student",
        attribution=parts.attribution,
    )


def _source_rows(captions: Captions, validation: Captions) -> Captions:
    """Returns the rows that are targets of others or of themselves, each once."""
    both = Captions.concat([captions, validation])
    wanted = set(sources_of(both))
    keep: list[bool] = []
    for name in both.ids:
        keep.append(name in wanted)
        wanted.discard(name)
    return dataclasses.replace(both, table=both.table.filter(np.asarray(keep)))


def _validation(held_out: Captions, seed: int) -> Captions:
    """Returns some held-out rows of each language, with the English rows that are their targets."""
    rng = np.random.default_rng(seed)
    langs = np.asarray(held_out.langs)
    chosen: set[int] = set()
    for lang in sorted(set(held_out.langs)):
        places = np.flatnonzero(langs == lang)
        chosen.update(rng.permutation(places)[:_VALIDATION_ROWS].tolist())
    ids = held_out.ids
    needed = {ids[row] for row in chosen}
    needed |= {source for row, source in enumerate(sources_of(held_out)) if row in chosen}
    keep = np.asarray([name in needed for name in ids])
    return dataclasses.replace(held_out, table=held_out.table.filter(keep))


def _stamp_sets(folder: Path) -> list[PictureSet]:
    every = tuxpaint.read_stamps(folder)
    # Australian and British spellings of the English captions are no languages of their own.
    every = every.select([lang for lang in every.language_counts() if lang not in ("en-AU", "en-GB")])
    about = "captions written by people; equal English captions are equally relevant"
    return [
        PictureSet(
            "photos",
            "Tux Paint photographs",
            f"Photographs of at least 90 pixels, {about}.",
            tuxpaint.photographs(every),
        ),
        PictureSet("stamps", "All Tux Paint pictures", f"Photographs and drawings, {about}.", every),
    ]


def _emoji_sets(taught: Captions, held_out: Captions, seed: int) -> list[PictureSet]:
    """Returns the held-out concepts, and as many taught ones, so that chance is the same in both."""
    count = len(set(held_out.table.column("label").to_pylist()))
    labels = sorted(set(taught.table.column("label").to_pylist()))
    chosen = set(np.random.default_rng(seed).permutation(labels)[:count].tolist())
    keep = np.asarray([label in chosen for label in taught.table.column("label").to_pylist()])
    some = dataclasses.replace(taught, table=taught.table.filter(keep))
    return [
        PictureSet(
            "emoji-taught", "Twemoji, taught names", "Emoji whose names the student was taught, as many as below.", some
        ),
        PictureSet("emoji-held-out", "Twemoji, held-out names", "Emoji that the student met in no language.", held_out),
    ]
