"""The model card that a run writes beside its model: README.md with hub front matter, and the curve of its loss.

It says what the run knows, and no more: figures before and after, captions by language, where the targets come from,
the resolved recipe, versions, cost, and whose work went in. Entry point: `write_card`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from babelclip import languages, registry
from babelclip.errors import BabelclipError
from babelclip.evaluate.plots import line_chart
from babelclip.files import atomic_path, read_json
from babelclip.models.clip import Clip
from babelclip.train.card_sources import credits_of, data_lines, licence_of, machine, teacher_lines
from babelclip.train.device import versions
from babelclip.train.log import read_log
from babelclip.train.loop import RunResult
from babelclip.train.recipe import Recipe, sections, to_toml

README, LOSS, VALIDATION = "README.md", "loss.svg", "validation.svg"
_KINDS = {
    "distill": "A text encoder that was taught the vectors of a teacher (teacher learning)",
    "contrastive": "Two towers that were trained on pictures with captions (contrastive)",
    "tension": "A sentence encoder that was re-tuned without labels (Contrastive Tension)",
    "sts": "A sentence encoder that was trained on pairs of sentences",
    "classify": "Two towers that were fine-tuned to tell classes of pictures by their names",
}
_TASKS = {"tension": "sentence-similarity", "sts": "sentence-similarity"}


@dataclass(frozen=True)
class Ran:
    """What a run has to tell.

    Attributes:
        run: of the loop.
        before, after: figures by name, `R@10/sv` for a language; what was not measured lacks.
        languages: captions, or pictures' captions, by language.
        counts: what was read and left out, in words.
        notes: what a reader of the card must know besides.
    """

    run: RunResult
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write_card(folder: Path | str, clip: Clip, recipe: Recipe, ran: Ran, out: Path | str, *, image: str = "") -> Path:
    """Writes README.md, and the curves as SVG, into the folder of a saved model; returns the path of README.md.

    Args:
        folder: of the model.
        clip: what was saved there.
        recipe: of the run, resolved.
        ran: how it went.
        out: folder of the run, whose log has the loss. `stage-2-NAME` tells of the finished stages beside it as well.
        image: as `--image` of the command.
    """
    folder, out = Path(folder), Path(out)
    log = out / "log.jsonl"
    curves = _curves(read_log(log) if log.is_file() else [])
    for name, svg in curves.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(svg, encoding="utf-8")
    title = clip.name or out.resolve().name
    parts = [
        _front_matter(clip, recipe, image),
        [f"# {title}", "", f"{_KINDS[recipe.train.kind]}, by babelclip.", *_facts(clip)],
        _load(title, clip),
        _figures(ran),
        _loss(curves),
        data_lines(recipe, ran.languages, ran.counts),
        teacher_lines(recipe, image),
        _stages(out),
        _cost(ran.run),
        _recipe(recipe),
        _credits(clip, recipe, image),
    ]
    if ran.notes:
        parts.insert(3, ["## Mind", "", *(f"* {note}" for note in ran.notes)])
    text = "\n\n".join("\n".join(part) for part in parts if part) + "\n"
    with atomic_path(folder / README) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / README


def _front_matter(clip: Clip, recipe: Recipe, image: str) -> list[str]:
    """Returns the YAML that a hub reads; every text is quoted, for a bare `no` would be a denial and not Norwegian."""
    licence = licence_of(recipe, image)
    lines = ["---", "library_name: babelclip"]
    # The hub wants two or three letters; scripts and regions stand in the table of languages.
    if clip.languages:
        codes = sorted({code.split("-")[0] for code in clip.languages})
        lines += ["language:", *(f"- {json.dumps(code)}" for code in codes)]
    if licence:
        lines.append(f"license: {json.dumps(licence)}")
    else:
        lines += ["license: other", "license_name: see-sources-and-licences"]
    base = registry.find(recipe.student.model)
    if base is not None and base.repo:
        lines += [f"base_model: {json.dumps(base.repo)}"]
    task = _TASKS.get(recipe.train.kind)
    if task is None:
        task = "feature-extraction" if clip.image is None else "zero-shot-image-classification"
    lines.append(f"pipeline_tag: {task}")
    tags = ["babelclip", recipe.train.kind]
    tags += ["clip"] if recipe.train.kind not in _TASKS else []
    tags += ["multilingual"] if len(clip.languages) > 1 else []
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    return [*lines, "---"]


def _facts(clip: Clip) -> list[str]:
    weights: dict[str, int] = clip.facts()["parameters"]
    rows = {
        "embedding space": f"`{clip.space}`: vectors compare only within it",
        "dimensions": str(clip.embed_dim),
        "weights": ", ".join(f"{tower} tower {count:,}" for tower, count in weights.items()),
        "longest text": "" if clip.text is None else f"{clip.text.tokenizer.max_length} tokens, special ones included",
        "logit scale": "" if clip.logit_scale is None else f"{clip.logit_scale:.6g}",
        "logit bias": "" if clip.logit_bias is None else f"{clip.logit_bias:.6g}",
        "languages": " ".join(clip.languages),
    }
    return ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)]


def _load(title: str, clip: Clip) -> list[str]:
    lines = ["import babelclip", "", f"clip = babelclip.load({json.dumps(f'path/to/{title}', ensure_ascii=False)})"]
    if clip.text is not None:
        lines.append('texts = clip.encode_text(["two dogs in the snow"])')
    if clip.image is not None:
        lines.append('pictures = clip.encode_image(["dog.jpg"])')
    return ["```python", *lines, "```"]


def _figures(ran: Ran) -> list[str]:
    """Returns the figures of the run: over all languages, then one row a language with the captions it was taught."""
    if not ran.after:
        return ["## Figures", "", "The run measured nothing: it was given no held-out data."]
    overall = [name for name in ran.after if name.rpartition("/")[2] not in _codes(ran.after)]
    lines = ["## Figures", "", "Measured by the run on the held-out data that the recipe names."]
    if overall:
        lines += ["", "| figure | before | after |", "|---|---|---|"]
        lines += [f"| {name} | {_number(ran.before.get(name))} | {_number(ran.after[name])} |" for name in overall]
    codes = _codes(ran.after)
    if codes:
        names = list(dict.fromkeys(key.rpartition("/")[0] for key in ran.after if key.rpartition("/")[2] in codes))
        # A yardstick, which the table over all languages has; here it would only be a column of the same numbers.
        names = [name for name in names if name != "trivial_mse"]
        lines += ["", "By language, before → after:", "", f"| language | captions taught | {' | '.join(names)} |"]
        lines.append("|---" * (len(names) + 2) + "|")
        for code in codes:
            cells = [_pair(ran, f"{name}/{code}") for name in names]
            taught = f"{ran.languages[code]:,}" if code in ran.languages else "none"
            lines.append(f"| {languages.name(code)} ({code}) | {taught} | {' | '.join(cells)} |")
    return lines


def _codes(figures: Mapping[str, float]) -> list[str]:
    """Returns the languages that figures are named by, in the order of the names; `f1/spearman` has none."""
    ends = dict.fromkeys(name.rpartition("/")[2] for name in figures if "/" in name)
    return [end for end in ends if _is_language(end)]


def _is_language(code: str) -> bool:
    try:
        languages.lookup(code)
    except BabelclipError:
        return False
    return True


def _pair(ran: Ran, name: str) -> str:
    if name not in ran.after:
        return "–"
    first = f"{_number(ran.before[name])} → " if name in ran.before else ""
    return first + _number(ran.after[name])


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns file name -> SVG of the loss, and of the first figure of validation where it was measured twice."""
    curves = {}
    for event, file in (("train", LOSS), ("validate", VALIDATION)):
        chosen = [line for line in lines if line["event"] == event]
        name = "loss" if event == "train" else next((k for k in (chosen or [{}])[0] if k not in ("event", "step")), "")
        points = [(line["step"], line[name]) for line in chosen if name and line.get(name) is not None]
        if len(points) > (0 if event == "train" else 1):
            steps, values = zip(*points, strict=True)
            svg = line_chart({name: (steps, values)}, title=f"{name} by step", y_label=name)
            # A picture of its own has no page whose colours it could take.
            head, tag, body = svg.partition(">")
            curves[file] = f"{head}{tag}<style>svg{{color:#1f2328;background:#fff}}</style>{body}"
    return curves


def _loss(curves: Mapping[str, str]) -> list[str]:
    if not curves:
        return []
    named = {LOSS: "The training loss by step", VALIDATION: "The first figure of validation by step"}
    return ["## Training", "", *(f"![{named[file]}]({file})" for file in curves)]


def _stages(out: Path) -> list[str]:
    """Returns what came before: the finished stages of the same recipe in the folders beside `out`."""
    place = out.resolve()
    kind, _, rest = place.name.partition("-")
    own = rest.partition("-")[0]
    if kind != "stage" or not own.isdigit():
        return []
    rows = []
    for number in range(1, int(own)):
        for folder in sorted(place.parent.glob(f"stage-{number}-*")):
            if (folder / "finished.json").is_file():
                rows.append(_stage_row(folder))
    if not rows:
        return []
    header = ["| stage | kind | steps | seconds | last validation |", "|---|---|---|---|---|"]
    return ["## Stages before", "", "This model starts from what these have left:", "", *header, *rows]


def _stage_row(folder: Path) -> str:
    content = read_json(folder / "finished.json")
    log = folder / "log.jsonl"
    lines = read_log(log) if log.is_file() else []
    last: dict[str, Any] = next((line for line in reversed(lines) if line["event"] == "train"), {})
    figures: dict[str, Any] = next((line for line in reversed(lines) if line["event"] == "validate"), {})
    shown = [f"{name} {_number(value)}" for name, value in figures.items() if name not in ("event", "step")][:3]
    seconds = f"{last['seconds']:,.0f}" if "seconds" in last else "–"
    kind = content["recipe"]["train"]["kind"]
    return f"| {content['stage']} | {kind} | {last.get('step', '–')} | {seconds} | {', '.join(shown) or '–'} |"


def _cost(run: RunResult) -> list[str]:
    of_steps = f"{run.step:,}" + (f" of {run.steps:,} (stopped early)" if run.step < run.steps else "")
    rows = {
        "steps": of_steps,
        "seconds of training": f"{run.seconds:,.1f}",
        "tokens read": f"{run.tokens:,}",
        "examples": f"{run.examples:,}",
        "processes": str(run.processes),
        "device, precision": f"{run.device}, {run.precision}",
        "machine": machine(run.device),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    if run.best_step is not None and run.best_value is not None:
        rows["best validation"] = f"{_number(run.best_value)} at step {run.best_step:,}"
    return ["## Cost", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _recipe(recipe: Recipe) -> list[str]:
    """Returns the resolved recipe, every setting of a section, without sections that hold defaults alone."""
    plain = {f"[{name}]" for name, kind in sections().items() if getattr(recipe, name) == kind()}
    blocks = to_toml(recipe).strip().split("\n\n")
    kept = [block for block in blocks if block.partition("\n")[0] not in plain]
    return ["## Recipe", "", "Sections that are not here hold their defaults.", "", "```toml", "\n\n".join(kept), "```"]


def _credits(clip: Clip, recipe: Recipe, image: str) -> list[str]:
    known = [*clip.attribution, *credits_of(recipe, image)]
    lines = [f"* {line}" for line in dict.fromkeys(known)] or [
        "* The models that this one was made from state no source. Their licences hold for this one too."
    ]
    lines.append("* The licence of the training data is not known to the run: add it before you publish the model.")
    return ["## Sources and licences", "", *lines]
