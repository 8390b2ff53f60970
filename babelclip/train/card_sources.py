"""What a model card says of data, teacher, licences and machine: read from what the recipe names, where it is there."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from babelclip import languages, registry
from babelclip.data.readers.parts_folder import is_translation
from babelclip.errors import BabelclipError
from babelclip.files import read_object
from babelclip.registry import ModelCard
from babelclip.store import EmbeddingStore
from babelclip.train.recipe import Recipe
from babelclip.train.timed import caption_sources

# Licences on cards, and the hub's names of them; what is not here is "other" there.
_HUB = {
    "mit": "mit",
    "apache-2.0": "apache-2.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "creativeml openrail-m": "creativeml-openrail-m",
}


def data_lines(recipe: Recipe, counted: Mapping[str, int], counts: Mapping[str, int]) -> list[str]:
    """Returns the part of a card about data: sources, who translated, rows by language, what was left out."""
    lines = ["## Data", ""]
    lines += [f"* `{name}`{_translated_by(name)}" for name in _sources(recipe)]
    lines += [f"* {name}: {count:,}" for name, count in counts.items()]
    if counted:
        lines += ["", "| language | rows |", "|---|---|"]
        ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"| {languages.name(code)} ({code}) | {count:,} |" for code, count in ordered]
        lines.append(f"| all | {sum(counted.values()):,} |")
    return lines


def _sources(recipe: Recipe) -> tuple[str, ...]:
    if recipe.train.kind == "sts":
        return recipe.sts.pairs
    if recipe.train.kind == "classify":
        return (recipe.classify.pictures,)
    return caption_sources(recipe)


def _translated_by(source: str) -> str:
    """Returns who translated a folder of `babelclip translate`, as its manifest says; "" for other sources."""
    folder = Path(source)
    if not folder.is_dir() or not is_translation(folder):
        return ""
    options = read_object(folder / "manifest.json").get("options")
    engines = options.get("engines") if isinstance(options, Mapping) else None
    if not isinstance(engines, Mapping):
        return ""
    by_engine: dict[str, list[str]] = {}
    for code, engine in engines.items():
        by_engine.setdefault(_engine_name(engine), []).append(code)
    shown = "; ".join(f"{', '.join(sorted(codes))} by {name}" for name, codes in sorted(by_engine.items()))
    return f", machine-translated: {shown}" if shown else ""


def _engine_name(engine: object) -> str:
    """Returns engine and model of one language in a manifest."""
    if not isinstance(engine, Mapping):
        return str(engine)
    name, model = str(engine.get("engine", "an unnamed engine")), str(engine.get("model", ""))
    return f"{name} ({model})" if model else name


def teacher_lines(recipe: Recipe, image: str) -> list[str]:
    """Returns the part of a card about the teacher; nothing for trainings without one."""
    if recipe.train.kind != "distill":
        return []
    lines = ["## Teacher", ""]
    if recipe.teacher.targets:
        try:
            store = EmbeddingStore.open(recipe.teacher.targets)
        except BabelclipError:
            return [*lines, f"* targets from `{recipe.teacher.targets}`"]
        facts = store.facts
        raw = "of unit length" if facts.normalized else "not normalised"
        lines.append(f"* {facts.target} vectors of `{facts.model}`: {len(store):,} x {facts.dim}, {facts.dtype}, {raw}")
        lines.append(f"* in the space `{facts.space}`")
    elif recipe.teacher.model:
        lines.append(f"* {recipe.teacher.target} vectors of `{recipe.teacher.model}`, computed as the run went")
    if image:
        lines.append(f"* picture tower: that of `{image}`, not trained")
    return lines


def credits_of(recipe: Recipe, image: str) -> list[str]:
    """Returns source and licence of the published models that a recipe names, as their cards have them."""
    lines = []
    for role, card in _published(recipe, image):
        note = f" ({card.licence_note})" if card.licence_note else ""
        lines.append(f"{role}: {card.name}, {card.licence or 'licence not known'}{note}")
    return lines


def licence_of(recipe: Recipe, image: str) -> str:
    """Returns the hub's name of the licence that all models of a recipe share; "" where one differs or is unknown."""
    named = [name for name in _models(recipe, image).values() if name]
    cards = [card for _, card in _published(recipe, image)]
    found = {_HUB.get(card.licence.lower(), "") for card in cards}
    return found.pop() if len(found) == 1 and len(cards) == len(named) else ""


def _models(recipe: Recipe, image: str) -> dict[str, str]:
    models = {"Student": recipe.student.model, "Teacher": recipe.teacher.model, "Picture tower": image}
    if recipe.train.kind in ("contrastive", "classify"):
        models["Picture tower"] = recipe.towers.image_model
    if recipe.teacher.targets and recipe.train.kind == "distill":
        try:
            models["Teacher"] = EmbeddingStore.open(recipe.teacher.targets).facts.model
        except BabelclipError:
            models["Teacher"] = recipe.teacher.targets
    return models


def _published(recipe: Recipe, image: str) -> Iterator[tuple[str, ModelCard]]:
    for role, name in _models(recipe, image).items():
        card = registry.find(name) if name else None
        if card is not None:
            yield role, card


def machine(device: str) -> str:
    """Returns what the run computed on: processor and cores, and the accelerator where there was one."""
    parts = [f"{_processor()}, {os.cpu_count()} cores"]
    if device.startswith("cuda"):
        import torch

        parts.append(str(torch.cuda.get_device_name()))
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
