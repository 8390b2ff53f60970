"""The report of a translation: counts by language and reason, models, samples; as an object, as JSON and as Markdown.

`report.json` and `report.md` say nothing of time, so that equal runs write equal bytes; speeds come from
`timings.jsonl`.

Entry points: `TranslationReport`, `read_report`, `write_report`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from babelclip import languages
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path, read_object, write_json
from babelclip.translate import folder
from babelclip.translate.folder import Shard

_KEPT, _REJECTED = 3, 2


@dataclasses.dataclass(frozen=True)
class LanguageReport:
    """What became of the captions of one language.

    Attributes:
        planned: captions that the plan gave it.
        kept: of these, with a translation that was kept.
        rejected: number of the others, by reason.
        distinct: different texts that were translated, counted within each block.
        engine: name of the engine; "" for untranslated copies.
        model: what the engine says it translated with.
        samples: pairs of texts, kept and by reason.
    """

    planned: int
    kept: int
    rejected: dict[str, int]
    distinct: int
    engine: str
    model: str
    samples: dict[str, list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class TranslationReport:
    """What a translation came to.

    Attributes:
        out: the folder.
        source: where the captions came from.
        captions: number of source captions.
        skipped: rows of the source that could not be used, by reason.
        options: plan, filters and engines, as in the manifest.
        languages: by BCP-47 code, in the order of the plan, untranslated copies last.
        speed: captions a second of one worker, by language, as far as `timings.jsonl` knows; not written to the report.
    """

    out: Path
    source: str
    captions: int
    skipped: dict[str, int]
    options: dict[str, Any]
    languages: dict[str, LanguageReport]
    speed: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Translations of all languages that were kept, untranslated copies included."""
        return sum(one.kept for one in self.languages.values())

    @property
    def rejected(self) -> dict[str, int]:
        """Rejected translations of all languages, by reason."""
        return dict(sum((Counter(one.rejected) for one in self.languages.values()), Counter[str]()))


def language_report(shards: Iterable[Shard]) -> LanguageReport:
    """Returns the sum of the shards of one language, which come in the order of their blocks."""
    planned = kept = distinct = 0
    rejected: Counter[str] = Counter()
    samples: dict[str, list[dict[str, Any]]] = {"kept": []}
    engine = model = ""
    for shard in shards:
        planned, kept, distinct = planned + shard.planned, kept + shard.kept, distinct + shard.distinct
        rejected.update(shard.rejected)
        engine, model = shard.engine, shard.model
        for name, pairs in shard.samples.items():
            there = samples.setdefault(name, [])
            there += pairs[: (_KEPT if name == "kept" else _REJECTED) - len(there)]
    return LanguageReport(planned, kept, dict(sorted(rejected.items())), distinct, engine, model, samples)


def speeds(out: Path) -> dict[str, float]:
    """Returns captions a second of one worker, by language, over the shards that `timings.jsonl` has."""
    seconds: Counter[str] = Counter()
    captions: Counter[str] = Counter()
    for line in folder.read_timings(out):
        seconds[line["lang"]] += line["seconds"]
        captions[line["lang"]] += line["captions"]
    return {lang: captions[lang] / spent for lang, spent in seconds.items() if spent > 0}


def write_report(report: TranslationReport) -> None:
    """Writes `report.json` and `report.md`."""
    content = dataclasses.asdict(report)
    del content["out"], content["speed"]
    content["kept"], content["rejected"] = report.kept, dict(sorted(report.rejected.items()))
    write_json(report.out / "report.json", content)
    with atomic_path(report.out / "report.md") as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")


def read_report(out: Path | str) -> TranslationReport:
    """Returns the report of a finished translation.

    Raises:
        BabelclipError: there is none, or it is damaged.
    """
    out = Path(out)
    if not (out / "report.json").is_file():
        raise BabelclipError(
            f"{out} has no report.json. A translation has one when it is finished: run babelclip translate with the "
            "same options to its end."
        )
    content = read_object(out / "report.json")
    try:
        return TranslationReport(
            out,
            content["source"],
            content["captions"],
            content["skipped"],
            content["options"],
            {lang: LanguageReport(**one) for lang, one in content["languages"].items()},
            speeds(out),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise BabelclipError(
            f"{out / 'report.json'} is damaged ({error!r}). It must be as babelclip translate wrote it: remove it, and "
            "the same command writes it again."
        ) from error


def markdown(report: TranslationReport) -> str:
    """Returns the report as Markdown: a summary, a table of languages, samples."""
    reasons = sorted(report.rejected)
    planned = sum(one.planned for one in report.languages.values())
    plan = report.options["plan"]
    lines = [
        "# Translation",
        "",
        f"{report.captions:,} captions of {report.source}, plan {plan['plan']}, seed {plan['seed']}, untranslated "
        f"copies {plan['keep_english']:.0%}: {report.kept:,} of {planned:,} rows kept "
        f"({_share(report.kept, planned)}).",
    ]
    if report.skipped:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in report.skipped.items())
        lines += ["", f"Rows of the source that were left out: {counts}."]
    lines += [
        "",
        f"| language | rows | kept | {''.join(f'{reason} | ' for reason in reasons)}engine | model |",
        f"|---|---:|---:|{'---:|' * len(reasons)}---|---|",
    ]
    for lang, one in report.languages.items():
        counts = "".join(f"{one.rejected.get(reason, 0):,} | " for reason in reasons)
        made_by = f"{one.engine} | {one.model}" if one.engine else "copied | -"
        name = f"{lang} ({languages.name(lang)})"
        lines.append(f"| {name} | {one.planned:,} | {_share(one.kept, one.planned)} | {counts}{made_by} |")
    for lang, one in report.languages.items():
        if one.engine:
            lines += ["", f"## {languages.name(lang)}", ""]
            for name, pairs in one.samples.items():
                lines += [_sample(pair, "" if name == "kept" else f"{name}, {pair['value']}") for pair in pairs]
    return "\n".join(lines) + "\n"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _sample(pair: dict[str, Any], reason: str) -> str:
    source, text = (" ".join(str(pair[name]).split()) for name in ("source", "text"))
    return f"* {source} → {text}" + (f" **rejected: {reason}**" if reason else "")
