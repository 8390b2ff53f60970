"""The README of a published data set: YAML that a hub reads, then Markdown that a person reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from babelclip import languages

# The hub's names of licences that data sets carry; any other is "other" there, with its name beside it.
_HUB_LICENCES = frozenset(
    """apache-2.0 mit bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 gfdl odbl odc-by pddl
    openrail creativeml-openrail-m gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 unlicense wtfpl other unknown""".split()
)
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        name: of the data set.
        licence, attribution, about: as the publisher gave them.
        teacher, teacher_revision: what made the vectors.
        space, target, kind: see `StoreFacts`.
        dim, dtype, normalized: see `StoreFacts`.
        rows, translations: rows with and without a vector.
        languages: rows by language, of both kinds; empty where there are no captions.
        version: of babelclip.
    """

    name: str
    licence: str
    attribution: Sequence[str]
    about: str
    teacher: str
    teacher_revision: str
    space: str
    target: str
    kind: str
    dim: int
    dtype: str
    normalized: bool
    rows: int
    translations: int
    languages: dict[str, int]
    version: str


def data_card(facts: CardFacts) -> str:
    """Returns the text of README.md."""
    return "\n".join(
        [*_front_matter(facts), "", *_introduction(facts), "", *_facts_table(facts), "", *_rest(facts), ""]
    )


def _front_matter(facts: CardFacts) -> list[str]:
    known = facts.licence.lower() in _HUB_LICENCES
    lines = ["---", f"pretty_name: {_yaml(facts.name)}"]
    lines.append(f"license: {_yaml(facts.licence.lower() if known else 'other')}")
    if not known:
        lines.append(f"license_name: {_yaml(facts.licence)}")
    if facts.languages:
        # Quoted: to YAML a bare `no` is a denial and not Norwegian.
        lines += ["language:", *(f"- {_yaml(lang)}" for lang in sorted(facts.languages))]
    lines += ["size_categories:", f"- {_yaml(_size(facts.rows + facts.translations))}"]
    lines += ["tags:", '- "babelclip"', '- "embeddings"']
    lines += ["configs:", *_config("default", "data"), "  default: true"]
    if facts.translations:
        lines += _config("translations", "translations")
    return [*lines, "---"]


def _config(name: str, folder: str) -> list[str]:
    path = _yaml(f"{folder}/train-*.parquet")
    return [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {path}"]


def _introduction(facts: CardFacts) -> list[str]:
    what = "captions with vectors" if facts.languages else f"vectors of {facts.kind}s"
    lines = [f"# {facts.name}", "", f"{facts.rows:,} {what}"]
    if facts.translations:
        lines[-1] += f", and {facts.translations:,} further captions that share them"
    lines[-1] += f": what the teacher `{facts.teacher}` says, for students of the space `{facts.space}`."
    return [*lines, *(["", facts.about.strip()] if facts.about.strip() else [])]


def _facts_table(facts: CardFacts) -> list[str]:
    length = "rows have length 1" if facts.normalized else "as the teacher gives them, not of length 1"
    rows = [
        ("teacher", f"`{facts.teacher}`"),
        ("revision of the teacher", f"`{facts.teacher_revision}`" if facts.teacher_revision else "not stated"),
        ("space", f"`{facts.space}`"),
        ("output of the teacher", f"`{facts.target}`, of {facts.kind}s"),
        ("dimensions", str(facts.dim)),
        ("numbers", f"{facts.dtype}, {length}"),
        ("licence", facts.licence),
        ("made with", f"`babelclip embed --publish`, babelclip {facts.version}"),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    if facts.attribution:
        lines += ["", "## Attribution", *(f"* {line}" for line in facts.attribution)]
    return lines


def _rest(facts: CardFacts) -> list[str]:
    lines = ["## Columns", "| column | meaning |", "|---|---|", "| `id` | names the caption |"]
    if facts.languages:
        lines += [
            "| `source_id` | id of the caption that this one translates, empty for an original |",
            "| `text`, `lang` | the caption and its language, BCP-47 |",
        ]
    lines += [f"| `embedding` | the teacher's vector, {facts.dim} numbers of {facts.dtype} |", ""]
    if facts.translations:
        lines += [
            "The rows of `translations` have no `embedding`: theirs is that of the row in `data` whose `id` is their "
            "`source_id`.",
            "",
        ]
    lines += ["## Loading", "```python", "from datasets import load_dataset", ""]
    lines += ['rows = load_dataset("FOLDER OR NAME ON THE HUB", split="train").with_format("numpy")']
    if facts.translations:
        lines += ['more = load_dataset("FOLDER OR NAME ON THE HUB", "translations", split="train")']
    lines += ["```", "", "With babelclip, in a folder that was downloaded:", "```python"]
    lines += ["from babelclip.data.publish import import_published", ""]
    lines += ['store = import_published("FOLDER", "targets/")', "```"]
    lines += ["`sha256sum --check SHA256SUMS` tells whether all files are whole.", ""]
    if facts.languages:
        lines += ["## Languages", "| code | language | rows |", "|---|---|---|"]
        for lang, count in sorted(facts.languages.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"| {lang} | {languages.name(lang)} | {count:,} |")
    return lines


def _size(rows: int) -> str:
    """Returns the hub's name for a number of rows."""
    for place, limit in enumerate(_SIZES):
        if rows < 1000 * 10**place:
            return f"{_SIZES[place - 1]}<n<{limit}" if place else "n<1K"
    return "n>1T"


def _yaml(text: str) -> str:
    # Text in the quotation marks of JSON is YAML too.
    return json.dumps(text, ensure_ascii=False)
