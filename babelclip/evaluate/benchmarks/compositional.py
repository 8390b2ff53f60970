"""Winoground and SugarCrepe: captions of the same words in another order, or with one word changed."""

from __future__ import annotations

from typing import Any

from babelclip.evaluate.benchmarks.captioned import finder_of
from babelclip.evaluate.benchmarks.request import Request, Skips, iter_jsonl, load_json, text_problem
from babelclip.evaluate.benchmarks.sets import Pictures, SelectionItem, SelectionSet, Source
from babelclip.evaluate.result import NOT_AS_PUBLISHED

NO_PICTURE = "item whose picture is not there"
INCOMPLETE = "item without its pictures and captions"


def read_winoground(request: Request) -> SelectionSet:
    """Returns Winoground: two pictures and two captions an item, the first caption of the first picture."""
    items = _Items(request)
    for where, row in iter_jsonl(request.need("examples.jsonl*"), items.skips):
        names, captions = ([row.get(f"{kind}_{side}") for side in (0, 1)] for kind in ("image", "caption"))
        items.add(names, captions, str(row.get("collapsed_tag") or ""), where)
    return items.build("test")


def read_sugarcrepe(request: Request) -> SelectionSet:
    """Returns SugarCrepe: one picture an item, its caption and a wrong one; all seven parts, or the one asked for."""
    parts = {path.stem: path for split in request.entry.splits[1:] for path in request.find(f"{split}.json")[:1]}
    if not parts:
        raise request.missing("add_att.json and the other parts")
    chosen = [request.choose_split(parts)] if request.split not in ("", "all") else list(parts)
    items = _Items(request)
    for part in chosen:
        content = load_json(parts[part], object)
        rows = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else [])
        for key, row in rows:
            fields = row if isinstance(row, dict) else {}
            captions = [fields.get("caption"), fields.get("negative_caption")]
            items.add([fields.get("filename")], captions, part, f"{parts[part]}, item {key}")
    return items.build(request.split or "all")


class _Items:
    """Gathers items; one without all of its pictures and captions is left out and counted."""

    def __init__(self, request: Request) -> None:
        self.request, self.skips = request, Skips(request.strict)
        self._finder = finder_of(request)
        self._places: dict[str, int] = {}
        self._sources: list[Source] = []
        self._items: list[SelectionItem] = []

    def add(self, names: list[Any], captions: list[Any], subset: str, where: str) -> None:
        problem = next((problem for text in captions if (problem := text_problem(text))), None)
        if problem or not all(isinstance(name, str) and name for name in names):
            self.skips.add(INCOMPLETE if None in (*names, *captions) or not problem else problem, where)
            return
        sources = [self._finder.find(name) for name in names]
        if None in sources:
            self.skips.add(NO_PICTURE, where)
            return
        for name, source in zip(names, sources, strict=True):
            if name not in self._places and source is not None:
                self._places[name] = len(self._sources)
                self._sources.append(source)
        self._items.append(SelectionItem(tuple(self._places[name] for name in names), tuple(captions), subset))

    def build(self, split: str) -> SelectionSet:
        if not self._items:
            raise self.request.missing(f"usable item ({'; '.join(self.skips.notes()) or 'there are none'})")
        self.request.check_languages(["en"])
        published, notes = self.request.entry.counts.get(split), self.request.entry.notes
        if published is not None and published != len(self._items):
            notes += (f"{published} items are published and {len(self._items)} usable here: {NOT_AS_PUBLISHED}",)
        return SelectionSet(
            name=self.request.name,
            split=split,
            pictures=Pictures(tuple(self._places), tuple(self._sources)),
            items=tuple(self._items),
            notes=(*notes, *self.skips.notes()),
        )
