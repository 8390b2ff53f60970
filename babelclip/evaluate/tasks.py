"""Which measurement a benchmark is for, and its call: the one place that knows all kinds of benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError
from babelclip.evaluate import retrieval_sets, translation, zeroshot
from babelclip.evaluate.benchmarks.sets import (
    ClassificationSet,
    ParallelTexts,
    RetrievalSet,
    SelectionSet,
    SentencePairs,
)
from babelclip.evaluate.fidelity import evaluate_fidelity
from babelclip.evaluate.selection import evaluate_selection
from babelclip.evaluate.sts_sets import evaluate_sts
from babelclip.evaluate.texts import encoder_in

if TYPE_CHECKING:
    from babelclip.evaluate.benchmarks.sets import BenchmarkSet
    from babelclip.evaluate.features import Encoded
    from babelclip.evaluate.probe import Labelled
    from babelclip.evaluate.result import RunFacts
    from babelclip.models.clip import Clip

Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What the tasks take.

    Attributes:
        ks: of R@k.
        seed: of the intervals.
        probe: whether classification sets get a linear probe besides.
        shots: training pictures a class of the probe; None is all.
        probe_seeds: how many draws of few shots.
        every_pair: translation between every two languages, not only with English.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    seed: int = 0
    probe: bool = False
    shots: tuple[int | None, ...] = (None,)
    probe_seeds: int = 3
    every_pair: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise BabelclipError(f"seed is {self.seed}; random numbers need one of 0 or more. Leave it out for 0.")

    def as_json(self) -> dict[str, Any]:
        """Returns the settings as JSON gives them back."""
        return {
            "ks": list(self.ks),
            "seed": self.seed,
            "probe": self.probe,
            "shots": list(self.shots),
            "probe_seeds": self.probe_seeds,
            "every_pair": self.every_pair,
        }


def measure(
    clip: Clip,
    benchmark: BenchmarkSet,
    encoded: Sequence[Encoded],
    *,
    facts: RunFacts,
    languages: Sequence[str] | None,
    settings: Settings,
    splits: tuple[ClassificationSet | None, ClassificationSet | None] = (None, None),
    teacher: Clip | None = None,
    advance: Callable[[int], None] | None = None,
) -> Results:
    """Returns the results of a model on a benchmark.

    Args:
        clip: the model.
        benchmark: what it is measured on.
        encoded: pictures of the benchmark, then those of the splits of the probe; empty where it has none.
        facts: what the results state of model and run.
        languages: BCP-47 codes; None: all.
        settings: see there.
        splits: training and validation pictures of the probe.
        teacher: model to which fidelity is measured on parallel texts; None for no fidelity.
        advance: is called with the steps done, see `steps`.

    Raises:
        BabelclipError: see the measurement of each kind.
    """
    given: dict[str, Any] = {"facts": facts, "notes": list(benchmark.notes), "advance": advance}
    if isinstance(benchmark, SentencePairs):
        return evaluate_sts(clip, benchmark, languages=languages, **given)
    if isinstance(benchmark, ParallelTexts):
        results = translation.evaluate_translation(
            clip, benchmark, languages=languages, ks=settings.ks, every_pair=settings.every_pair, **given
        )
        if teacher is not None:
            results += evaluate_fidelity(clip, teacher, benchmark, languages=languages, **given)
        return results
    pictures = encoded[0]
    given |= {"kept": pictures.kept, "image_seconds": pictures.seconds}
    given["notes"] = [*given["notes"], *pictures.notes()]
    if isinstance(benchmark, RetrievalSet):
        return retrieval_sets.evaluate_retrieval_set(
            clip, benchmark, pictures.features, languages=languages, ks=settings.ks, **given
        )
    if isinstance(benchmark, SelectionSet):
        return evaluate_selection(clip, benchmark, pictures.features, **given)
    results = []
    if clip.text is not None and (benchmark.classnames or not settings.probe):
        results = zeroshot.evaluate_zeroshot(clip, benchmark, pictures.features, languages=languages, **given)
    if settings.probe:
        results += _probed(benchmark, encoded, splits, settings, given)
    return results


def steps(benchmark: BenchmarkSet, languages: Sequence[str] | None, settings: Settings) -> int | None:
    """Returns how many steps `measure` will tell; None where that is not known before."""
    if settings.probe or isinstance(benchmark, (ParallelTexts, SentencePairs)):
        return None
    if isinstance(benchmark, SelectionSet):
        return 1
    return len(benchmark.languages if languages is None else languages)


def check_languages(benchmark: BenchmarkSet, languages: Sequence[str] | None) -> None:
    """Does nothing where a benchmark has all the languages that were asked for.

    Raises:
        BabelclipError: it lacks one.
    """
    if isinstance(benchmark, RetrievalSet):
        retrieval_sets.asked_languages(benchmark, languages)
    elif isinstance(benchmark, ParallelTexts):
        translation.asked_languages(benchmark, languages)
    elif isinstance(benchmark, ClassificationSet) and benchmark.classnames:
        zeroshot.asked_languages(benchmark, languages)


def readable_languages(
    clip: Clip, benchmark: BenchmarkSet, languages: Sequence[str] | None
) -> tuple[list[str] | None, list[str]]:
    """Returns the languages that the model can read at all, and why it cannot the others.

    Only models whose first token names the language (NLLB-CLIP) refuse one; all others read any text.

    Raises:
        BabelclipError: it can read none.
    """
    if clip.text is None or clip.text.tokenizer.language is None or isinstance(benchmark, SentencePairs):
        return (None if languages is None else list(languages)), []
    codes = list(benchmark.languages if languages is None else map(language_codes.normalize, languages))
    able, reasons = [], []
    for code in codes:
        try:
            encoder_in(clip, code)(["a"])
            able.append(code)
        except BabelclipError as error:
            reasons.append(f"{code}: {error}")
    if not able:
        raise BabelclipError("it can read none of the languages: " + " ".join(reasons))
    return able, reasons


def _probed(
    benchmark: ClassificationSet,
    encoded: Sequence[Encoded],
    splits: tuple[ClassificationSet | None, ClassificationSet | None],
    settings: Settings,
    given: dict[str, Any],
) -> Results:
    from babelclip.evaluate.probe import evaluate_probe

    train, validation = splits
    if train is None:
        raise BabelclipError("The linear probe was given no training pictures. Name their split: --train-split train.")
    sets = [one for one in (benchmark, train, validation) if one is not None]
    test, learned, *held = [_labelled(one, pictures) for one, pictures in zip(sets, encoded, strict=True)]
    return evaluate_probe(
        learned,
        test,
        len(benchmark.classes),
        facts=given["facts"],
        validation=held[0] if held else None,
        shots=settings.shots,
        seeds=range(settings.probe_seeds),
        image_seconds=sum(pictures.seconds for pictures in encoded),
        notes=given["notes"],
        advance=given["advance"],
    )


def _labelled(one: ClassificationSet, pictures: Encoded) -> Labelled:
    from babelclip.evaluate.probe import Labelled

    ids = tuple(one.pictures.ids[position] for position in pictures.kept)
    return Labelled(pictures.features, one.labels[pictures.kept].astype("int64"), ids)
