"""Models on benchmarks: what `babelclip evaluate` does.

Benchmarks are opened first, so that a wrong path costs no time; models are loaded once; the pictures of a benchmark are
encoded for all models together. Then each model is measured on it in all languages, and its results are written as one
file, `MODEL--DATASET-SPLIT.json`, before the next begins: what is stopped goes on there. A model that fails takes only
its own results with it.

Entry points: `run`, `Plan`. Results are those of `retrieval_sets`, `zeroshot`, `probe`, `selection`, `sts_sets`,
`translation` and `fidelity`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.sets import ClassificationSet, RetrievalSet, SelectionSet
from babelclip.evaluate.fingerprint import fingerprint
from babelclip.evaluate.report import read_results, write_results
from babelclip.evaluate.result import RunFacts, model_facts
from babelclip.evaluate.tasks import Settings, check_languages, measure, readable_languages, steps
from babelclip.files import cache_folder
from babelclip.progress import progress_bar

if TYPE_CHECKING:
    from babelclip.evaluate.benchmarks.sets import BenchmarkSet, Pictures
    from babelclip.evaluate.features import Encoded
    from babelclip.models.clip import Clip

WITH_PICTURES = (RetrievalSet, ClassificationSet, SelectionSet)


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        models: folders or names, as `babelclip.load` takes them; `mine=DIR` is called `mine` in results.
        datasets: benchmarks as `open_benchmark` takes them, `xm3600=DIR`.
        languages: BCP-47 codes; None: all of each benchmark.
        split: the part of each benchmark; "" for the usual one.
        protocol: another way to read each benchmark, such as `first`.
        out: folder of the results, or one file that ends in .json; None writes nothing.
        overwrite: replace results of other settings.
        strict: what cannot be used is an error, not a counted skip.
        cache: folder where picture vectors are kept; None keeps nothing.
        dtype: see `babelclip.load`.
        workers: processes that decode pictures; 0: threads.
        settings: what the tasks take.
        teacher: model to which fidelity is measured; "" for none.
        train_split: of the linear probe.
        validation_split: of the linear probe; "" takes a fifth of the training pictures.
    """

    models: Sequence[str]
    datasets: Sequence[str]
    languages: Sequence[str] | None = None
    split: str = ""
    protocol: str = ""
    out: Path | None = None
    overwrite: bool = False
    strict: bool = False
    cache: Path | None = field(default_factory=cache_folder)
    dtype: str = "auto"
    workers: int = 0
    settings: Settings = field(default_factory=Settings)
    teacher: str = ""
    train_split: str = "train"
    validation_split: str = ""


@dataclass
class Outcome:
    """What came of a plan: results in order, files written, files that were complete, and what failed, by sentence."""

    results: list[dict[str, Any]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Model:
    name: str
    clip: Clip
    weights: str


@dataclass(frozen=True)
class _Set:
    """A benchmark with the splits that its probe learns from, and the checksum of what they hold."""

    benchmark: BenchmarkSet
    train: ClassificationSet | None = None
    validation: ClassificationSet | None = None
    content: str = ""

    def parts(self) -> list[Pictures]:
        """Returns the pictures of all splits."""
        whole = [one for one in (self.benchmark, self.train, self.validation) if isinstance(one, WITH_PICTURES)]
        return [one.pictures for one in whole]


def run(plan: Plan, *, progress: bool = False, tell: Callable[[str], None] | None = None) -> Outcome:
    """Measures every model on every benchmark and returns what came of it.

    Args:
        plan: what to measure.
        progress: show bars on stderr.
        tell: is called with a sentence about each file.

    Raises:
        BabelclipError: a benchmark cannot be read, results of other settings lie in the way, or no model loads.
    """
    say = tell or (lambda _sentence: None)
    if not plan.models or not plan.datasets:
        raise BabelclipError(
            f"There are {len(plan.models)} models and {len(plan.datasets)} benchmarks; one of each is needed at least. "
            "Give a model, and --dataset NAME=DIR or --captions FILE."
        )
    single = plan.out is not None and plan.out.suffix == ".json"
    if single and plan.out is not None and plan.out.exists() and not plan.overwrite:
        raise BabelclipError(
            f"{plan.out} exists already; results are never overwritten in silence. Choose another name, a folder "
            "(which keeps one file a model and benchmark), or pass --overwrite."
        )
    outcome = Outcome()
    sets = [_opened(spec, plan) for spec in plan.datasets]
    models = _loaded(plan, outcome)
    teacher = _teacher(plan)
    files = {} if single or plan.out is None else _files(plan, models, sets)
    for one in sets:
        due = [model for model in models if not _is_done(files.get(_key(model, one)), model, one, plan, outcome)]
        try:
            encoded = _encode(due, one, plan, outcome, progress)
        except BabelclipError as error:
            if plan.strict:
                raise
            # The pictures of this benchmark are at fault; those of the others may be well.
            outcome.failures.append(f"{one.benchmark.name}: {error}")
            continue
        for model in due:
            results = _measured(model, one, encoded.get(model.name, []), teacher, plan, outcome, progress)
            outcome.results += results
            path = files.get(_key(model, one))
            if results and path is not None:
                write_results(results, path, overwrite=True)
                outcome.written.append(path)
                say(f"{path}: {len(results)} results")
    if single and plan.out is not None and outcome.results:
        outcome.written.append(write_results(outcome.results, plan.out, overwrite=plan.overwrite))
    return outcome


def _opened(spec: str, plan: Plan) -> _Set:
    from babelclip.evaluate.benchmarks import open_benchmark

    given = {"languages": plan.languages, "protocol": plan.protocol, "strict": plan.strict}
    benchmark = open_benchmark(spec, split=plan.split, **given)  # type: ignore[arg-type]
    check_languages(benchmark, plan.languages)
    if not plan.settings.probe:
        return _Set(benchmark, content=fingerprint(benchmark))
    if not isinstance(benchmark, ClassificationSet) or benchmark.multi_label:
        raise BabelclipError(
            f"{spec} has no single class a picture, which a linear probe learns. Leave the probe out, or give a "
            "classification benchmark."
        )
    others: list[ClassificationSet | None] = []
    for split in (plan.train_split, plan.validation_split):
        other = open_benchmark(spec, split=split, **given) if split else None  # type: ignore[arg-type]
        if other is not None and (not isinstance(other, ClassificationSet) or other.classes != benchmark.classes):
            raise BabelclipError(
                f"The splits {split!r} and {benchmark.split!r} of {spec} have different classes. A probe needs the "
                "same ones: check their folders."
            )
        others.append(other)
    if others[0] is not None and set(others[0].pictures.sources) & set(benchmark.pictures.sources):
        raise BabelclipError(
            f"{spec}: the split {plan.train_split!r} that the probe learns from shares pictures with the one it is "
            f"measured on, {benchmark.split!r}. Give --split and --train-split that differ."
        )
    train, validation = others
    return _Set(benchmark, train, validation, fingerprint(benchmark, train, validation))


def _loaded(plan: Plan, outcome: Outcome) -> list[_Model]:
    import babelclip
    from babelclip.evaluate.features import weights_checksum

    models: list[_Model] = []
    for given in plan.models:
        told, equals, path = given.partition("=")
        told, path = (told, path) if equals and not Path(given).exists() else ("", given)
        try:
            clip = babelclip.load(path, dtype=plan.dtype)
            checksums = [weights_checksum(tower) for tower in (clip.text, clip.image) if tower is not None]
        except (BabelclipError, RuntimeError) as error:
            outcome.failures.append(f"{given} could not be loaded: {error}")
            continue
        name = told or clip.name or given
        if any(name == other.name for other in models):
            name = f"{name} ({given})"
        models.append(_Model(name, clip, clip.revision or "-".join(one[:12] for one in checksums)))
    if not models:
        raise BabelclipError("No model could be measured. " + " ".join(outcome.failures))
    return models


def _teacher(plan: Plan) -> Clip | None:
    if not plan.teacher:
        return None
    import babelclip

    return babelclip.load(plan.teacher, towers="text", dtype=plan.dtype)


def _key(model: _Model, one: _Set) -> tuple[str, str, str]:
    return model.name, one.benchmark.name, one.benchmark.split


def _files(plan: Plan, models: Sequence[_Model], sets: Sequence[_Set]) -> dict[tuple[str, str, str], Path]:
    """Returns the file of each model and benchmark.

    Raises:
        BabelclipError: two have the same, or one holds results of other settings.
    """
    assert plan.out is not None  # the caller asks only then
    files: dict[tuple[str, str, str], Path] = {}
    for model in models:
        for one in sets:
            _, dataset, split = key = _key(model, one)
            path = plan.out / f"{_slug(model.name)}--{_slug(f'{dataset}-{split}')}.json"
            if path in files.values():
                raise BabelclipError(
                    f"{path} would hold the results of two benchmarks or models. Give each benchmark once, and name "
                    "sets of your own apart, folder=DIR,name=mine, and models, mine=DIR."
                )
            if path.exists() and not plan.overwrite and not _same(path, model, one, plan):
                raise BabelclipError(
                    f"{path} exists already, with results of other weights or settings, or of other captions, classes "
                    "or pictures under this name; results are never overwritten in silence. Choose another folder, or "
                    "pass --overwrite."
                )
            files[key] = path
    return files


def _is_done(path: Path | None, model: _Model, one: _Set, plan: Plan, outcome: Outcome) -> bool:
    if path is None or not path.exists() or plan.overwrite or not _same(path, model, one, plan):
        return False
    outcome.results += read_results(path)
    outcome.kept.append(path)
    return True


def _same(path: Path, model: _Model, one: _Set, plan: Plan) -> bool:
    mine = _identity(model, one, plan)
    # Results that do not say what their benchmark held are of a version that did not keep it.
    return all(
        all(result.get(name, one.content if name == "content" else None) == value for name, value in mine.items())
        for result in read_results(path)
    )


def _identity(model: _Model, one: _Set, plan: Plan) -> dict[str, Any]:
    """Returns what makes a result the one that is asked for, besides the names in its file's name."""
    return {"weights": model.weights, "content": one.content, "request": _request(plan)}


def _request(plan: Plan) -> dict[str, Any]:
    """Returns what decides on figures besides model, benchmark and split, as JSON gives it back."""
    return {
        "languages": None if plan.languages is None else list(plan.languages),
        "protocol": plan.protocol,
        "dtype": plan.dtype,
        **plan.settings.as_json(),
        "teacher": plan.teacher,
        "train_split": plan.train_split if plan.settings.probe else "",
        "validation_split": plan.validation_split if plan.settings.probe else "",
    }


def _encode(
    models: Sequence[_Model], one: _Set, plan: Plan, outcome: Outcome, progress: bool
) -> dict[str, list[Encoded]]:
    """Returns the pictures of each split as each model sees them; all models share the decoding."""
    from babelclip.evaluate.features import encode_pictures

    encoded: dict[str, list[Encoded]] = {}
    able = [model for model in models if model.clip.image is not None]
    if not one.parts() or not able:
        return encoded

    def encode(some: Sequence[_Model]) -> None:
        for pictures in one.parts():
            found = encode_pictures(
                [model.clip for model in some],
                pictures,
                cache=plan.cache,
                workers=plan.workers,
                strict=plan.strict,
                progress=progress,
            )
            for model, of_model in zip(some, found, strict=True):
                encoded.setdefault(model.name, []).append(of_model)

    try:
        encode(able)
    except RuntimeError:
        # One of them does not fit the memory, or cannot take these pictures: then each for itself.
        for model in able:
            encoded.pop(model.name, None)
        for model in able:
            try:
                encode([model])
            except RuntimeError as error:
                encoded.pop(model.name, None)
                outcome.failures.append(f"{model.name} on {one.benchmark.name}: {error}")
    return encoded


def _measured(
    model: _Model,
    one: _Set,
    encoded: Sequence[Encoded],
    teacher: Clip | None,
    plan: Plan,
    outcome: Outcome,
    progress: bool,
) -> list[dict[str, Any]]:
    benchmark = one.benchmark
    where = f"{model.name} on {benchmark.name}"
    parts = one.parts()
    if parts and len(encoded) < len(parts):
        if model.clip.image is None:
            outcome.failures.append(f"{where}: the model has no picture tower, and the benchmark has pictures")
        return []
    facts = RunFacts(
        model=model.name,
        dataset=benchmark.name,
        split=benchmark.split,
        seed=plan.settings.seed,
        **{**model_facts(model.clip), "revision": model.clip.revision or model.weights},
    )
    try:
        languages, unreadable = readable_languages(model.clip, benchmark, plan.languages)
        outcome.failures += [f"{where}, {reason}" for reason in unreadable]
        with progress_bar(where, steps(benchmark, languages, plan.settings), shown=progress, unit="steps") as advance:
            results = measure(
                model.clip,
                benchmark,
                encoded,
                facts=facts,
                languages=languages,
                settings=plan.settings,
                splits=(one.train, one.validation),
                teacher=teacher,
                advance=advance,
            )
    except (BabelclipError, RuntimeError) as error:
        outcome.failures.append(f"{where}: {error}")
        return []
    return [{**result, **_identity(model, one, plan)} for result in results]


def _slug(text: str) -> str:
    """Returns a name fit for a file: letters, digits, dot, hyphen and underscore."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "model"


def failures_of(outcome: Outcome) -> Iterable[str]:
    """Yields a line for each failure."""
    yield from dict.fromkeys(outcome.failures)


def with_cache(plan: Plan, cache: str) -> Plan:
    """Returns the plan with what `--cache` says: a folder, `none`, or "" for the usual one."""
    folder = None if cache == "none" else Path(cache) if cache else cache_folder()
    return dataclasses.replace(plan, cache=folder)
