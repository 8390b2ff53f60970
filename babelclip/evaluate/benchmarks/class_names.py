"""Names of classes and templates around them, by language, from the files in which they are published.

* `sv_classnames.json` and `sv_zeroshot_classification_templates.json`, `{data set: [...]}`; also `jp`, `cn`
  (clip_benchmark)
* `classnames.txt` and `zeroshot_classification_templates.txt`, one a line, English (its webdataset form)
* `label.txt`, `label_cn.txt`, one a line, English and Chinese (Chinese-CLIP)
* `babel_imagenet.json`, `{LANG: [[class, ...], [name, ...]]}`, and `nllb_dist13b_prompts.json`, `{LANG: [...]}`
* templates=FILE, any of these or `{class name: [prompt, ...]}` (CuPL), of the only language or else of English

A template has `{c}` or `{}` where the name goes. One that has neither is left out, and counted: prompts translated by
machine lose theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babelclip.data import tables
from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.request import Request, language_of, load_json, text_problem, typed
from babelclip.evaluate.benchmarks.sets import IntArray, Templates

_NAMES, _TEMPLATES = "_classnames.json", "_zeroshot_classification_templates.json"
_NAME_TEXTS = {"classnames.txt": "en", "label.txt": "en", "label_cn.txt": "zh"}
_TEMPLATE_TEXTS = {"zeroshot_classification_templates.txt": "en"}
IMAGENET = "imagenet1k"
# What stands around a name where no file says it.
_USUAL = {"en": "a photo of a {}."}
_NAME_ALONE = "{}"
USUAL = "none found"
OWN = "the set itself"
_MARKS = ("{c}", "{}")


@dataclasses.dataclass
class ClassNames:
    """Names and templates by language, the file that each came from, and what a reader of figures has to know."""

    classnames: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    templates: dict[str, Templates] = dataclasses.field(default_factory=dict)
    class_indices: dict[str, IntArray] | None = None
    name_files: dict[str, str] = dataclasses.field(default_factory=dict)
    template_files: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def names_of(
    request: Request,
    *,
    keys: Sequence[str] = (),
    take: IntArray | None = None,
    own: Sequence[str] = (),
) -> ClassNames:
    """Returns the names of a set's classes in each language asked for, and their templates.

    Args:
        request: says where to look: `names`, else the folder of the set and the one above.
        keys: names of the data set in JSON files, the first that is there counts; by default its name and aliases.
        take: (C,) which classes of a list are those of the set; None: all of it.
        own: English names that the set itself has; they serve where no file has any.

    Raises:
        BabelclipError: a file is damaged, or a language asked for has no names.
    """
    keys = keys or (request.title, request.entry.name, *request.entry.aliases)
    given = request.names
    if given is not None and given.is_file() and _language(given, _NAMES, _NAME_TEXTS) is None:
        raise BabelclipError(
            f"names={given} does not tell its language. Names of classes are kept in LANG{_NAMES}, "
            f"{', '.join(_NAME_TEXTS)}: rename the file to one of these."
        )
    found, there = ClassNames(), set()
    for path in _files(request, (_NAMES, *_NAME_TEXTS)):
        lang = _language(path, _NAMES, _NAME_TEXTS)
        names = None if lang is None or lang in found.classnames else _name_list(path, keys)
        if lang is None or names is None:
            continue
        there.add(lang)
        if not request.wants(lang):
            continue
        if take is not None and len(names) > int(take.max(initial=0)):
            names = [names[place] for place in take]
        found.classnames[lang], found.name_files[lang] = names, str(path)
    there |= {"en"} if own else set()
    if own and "en" not in found.classnames and request.wants("en"):
        found.classnames["en"] = [name.replace("_", " ") for name in own]
        found.name_files["en"] = OWN
    if not there:
        raise request.missing(f"class names ({'*' + _NAMES}, classnames.txt or label.txt; or names=DIR)")
    request.check_languages(there)
    _add_templates(request, found, keys)
    return found


def babel_names(request: Request) -> ClassNames:
    """Returns the names of Babel-ImageNet: in each language, of the classes that BabelNet has a name for.

    With the protocol `label` the name stands alone, without templates.

    Raises:
        BabelclipError: a file is damaged or missing, or a language asked for is not there.
    """
    path = _one(request, "babel_imagenet.json", "babel_imagenet-298.json")
    # With names=FILE the prompts lie beside the file.
    beside = [near for near in (path.with_name(_BABEL_PROMPTS),) if near.is_file()]
    prompts = request.templates or next(iter([*_named(request, (_BABEL_PROMPTS,)), *beside]), None)
    translated = {} if prompts is None or request.protocol == "label" else _by_language(load_json(prompts, dict))
    found, unknown, places = ClassNames(), [], dict[str, IntArray]()
    found.class_indices = places
    for code, lang, value in _canonical(load_json(path, dict)):
        if lang is None:
            unknown.append(code)
        elif request.wants(lang):
            indices, names = _babel_list(path, code, value)
            found.classnames[lang], places[lang] = names, indices
            found.name_files[lang] = str(path)
            own, note = usable_templates(translated.get(lang, []))
            found.templates[lang] = own or [_NAME_ALONE]
            found.template_files[lang] = str(prompts) if own else "label alone"
            found.notes += (f"{lang}: {note}",) if note else ()
    request.check_languages(found.classnames)
    if unknown and request.languages is None:
        found.notes += (f"{len(unknown)} languages without a known code were left out: {', '.join(sorted(unknown))}",)
    return found


def usable_templates(templates: Any) -> tuple[list[str], str]:
    """Returns the texts that have a place for the name, and a note on how many have none."""
    texts = [text for text in templates if not text_problem(text)] if isinstance(templates, list) else []
    kept = [text for text in texts if any(mark in text for mark in _MARKS)]
    given = len(templates) if isinstance(templates, list) else 0
    return kept, f"{given - len(kept)} of {given} templates have no place for the name" if given > len(kept) else ""


def _add_templates(request: Request, found: ClassNames, keys: Sequence[str]) -> None:
    there = reversed(_files(request, (_TEMPLATES, *_TEMPLATE_TEXTS)))
    files = {_language(path, _TEMPLATES, _TEMPLATE_TEXTS): path for path in there}
    if request.templates is not None:
        files[_language_of_templates(request, found)] = request.templates
    for lang, names in found.classnames.items():
        path = files.get(lang)
        content = None if path is None else _template_content(path, keys, names)
        if isinstance(content, dict) and (path == request.templates or any(name in content for name in names)):
            found.templates[lang], note = _own_prompts(str(path), content, names), ""
        else:
            kept, note = usable_templates(content or [])
            found.templates[lang] = kept or [_USUAL.get(lang, _NAME_ALONE)]
            path = path if kept else None
        found.template_files[lang] = USUAL if path is None else str(path)
        found.notes += (f"{lang}: {note}",) if note else ()


def _language_of_templates(request: Request, found: ClassNames) -> str:
    if len(found.classnames) == 1:
        return next(iter(found.classnames))
    if "en" in found.classnames:
        return "en"
    raise BabelclipError(
        f"{request.templates} holds templates of one language, and the class names are in "
        f"{', '.join(sorted(found.classnames))}. Ask for one of these languages, or give names=DIR with a file "
        f"LANG{_TEMPLATES} for each."
    )


def _template_content(path: Path, keys: Sequence[str], names: list[str]) -> Any:
    if path.suffix == ".txt":
        return [line for line in tables.read_plain_lines(path) if line.strip()]
    content = load_json(path, object)
    if not isinstance(content, dict):
        return content
    # clip_benchmark takes the templates of ImageNet for a set that has none in a language.
    key = next((key for key in (*keys, IMAGENET) if key in content), None)
    return content[key] if key is not None and key not in names else content


def _own_prompts(path: str, content: Mapping[str, Any], names: list[str]) -> dict[str, list[str]]:
    absent = [name for name in names if not isinstance(content.get(name), list) or not content[name]]
    if absent:
        raise BabelclipError(
            f"{path} has no prompts for {len(absent)} of {len(names)} classes, first {absent[0]!r}. Prompts by class "
            "need a list for each class name: give the names that they were made with, or other templates."
        )
    return {name: [str(prompt) for prompt in content[name]] for name in names}


def _name_list(path: Path, keys: Sequence[str]) -> list[str] | None:
    if path.suffix == ".txt":
        names = tables.read_plain_lines(path)
        while names and not names[-1].strip():
            names.pop()
    else:
        content = load_json(path, dict)
        key = next((key for key in keys if key in content), None)
        if key is None:
            return None
        names = typed(content[key], list, path, repr(key))
    for number, name in enumerate(names):
        problem = text_problem(name)
        if problem:
            raise BabelclipError(
                f"{path}: name {number} is {problem}. Each class needs a name in UTF-8: take the file as published."
            )
    return [name.strip() for name in names]


def _files(request: Request, endings: tuple[str, ...]) -> list[Path]:
    """Returns files of names or of templates, those of the place that was told first, or else the nearest."""
    places = [request.names, request.folder] if request.names else [request.folder, request.folder.parent]
    found = []
    for place in places:
        listed = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
        found += [path for path in listed if path.is_file() and path.name.endswith(endings)]
    return found


def _named(request: Request, names: tuple[str, ...]) -> list[Path]:
    return [path for name in names for path in _files(request, (name,)) if path.name == name]


def _one(request: Request, *names: str) -> Path:
    if request.names is not None and request.names.is_file():
        return request.names
    found = _named(request, names)
    if not found:
        raise request.missing(" or ".join(names))
    return found[0]


def _language(path: Path, ending: str, texts: Mapping[str, str]) -> str | None:
    return language_of(path.name.removesuffix(ending)) if path.name.endswith(ending) else texts.get(path.name)


# -- Babel-ImageNet --------------------------------------------------------------------------------------------------

# Its codes are Wikipedia's; this one means another language than in FLORES, where it is Albanian.
_WIKIPEDIA = {"ALS": "gsw"}
_BABEL_PROMPTS = "nllb_dist13b_prompts.json"


def _canonical(content: dict[str, Any]) -> Iterable[tuple[str, str | None, Any]]:
    """Yields (code, BCP-47 or None, value) of each language; of two codes of one language, its canonical one counts."""
    known = {code: language_of(_WIKIPEDIA.get(code, code)) for code in content}
    by_lang: dict[str, str] = {}
    for code, lang in known.items():
        if lang is not None and (lang not in by_lang or code.lower() == lang):
            by_lang[lang] = code
    for code, lang in known.items():
        yield code, lang if lang is not None and by_lang[lang] == code else None, content[code]


def _by_language(content: dict[str, Any]) -> dict[str, Any]:
    return {lang: value for _, lang, value in _canonical(content) if lang is not None}


def _babel_list(path: Path, code: str, value: Any) -> tuple[IntArray, list[str]]:
    try:
        indices, names = value
        numbers = np.array(indices, dtype=np.int64)
        right = numbers.ndim == 1 and len(numbers) == len(names) and len(set(indices)) == len(names)
        right = right and all(isinstance(i, int) and 0 <= i < 1000 for i in indices)
        right = right and not any(text_problem(name) for name in names)
    except (ArithmeticError, TypeError, ValueError):
        right = False
    if not right:
        raise BabelclipError(
            f"{path}: {code!r} does not hold [[class, ...], [name, ...]] of equal lengths with classes 0 to 999. "
            "It is damaged or of another kind: take the file as it was published."
        )
    return numbers, list(names)
