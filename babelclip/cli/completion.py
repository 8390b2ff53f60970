"""What the shell offers after Tab, beside verbs and options: languages, models, benchmarks, and values of options.

The program is started anew at each Tab, so nothing heavy is read: names are taken from the data files without parsing
them. Where nothing fits, the shell offers files.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typer import Typer

Offers = Iterable[str | tuple[str, str]]
_PACKAGE = Path(__file__).parents[1]
# How the shell asks: set by the function that `--install-completion` writes.
_ASKED = "_BABELCLIP_COMPLETE"


def languages(incomplete: str) -> Offers:
    """Returns codes with the English names; after a comma, what was typed before it stays."""
    from babelclip.languages import known, name

    kept = incomplete[: incomplete.rfind(",") + 1]
    return [(f"{kept}{code}", name(code)) for code in known()]


def models(incomplete: str) -> Offers:
    """Returns the published models by name, and the folders where a demo or a starter leaves its own.

    Without its organisation a name is offered where it was begun so.
    """
    from babelclip.cli.default_model import starter_folder

    own = [Path("demo/student"), Path("demo/teacher"), starter_folder()]
    there = [str(folder) for folder in own if (folder / "config.json").is_file()]
    names = _names(_PACKAGE / "cards", "*.toml", r'^name = "([^"]+)"')
    if incomplete and not any(name.startswith(incomplete) for name in names):
        names = [name.rpartition("/")[2] for name in names]
    return there + names


def families(_incomplete: str) -> Offers:
    """Returns the families of published models."""
    return _names(_PACKAGE / "cards", "*.toml", r'^family = "([^"]+)"')


def datasets(_incomplete: str) -> Offers:
    """Returns benchmarks as `NAME=`, to be followed by their folder; `builtin` needs none."""
    names = _names(_PACKAGE / "evaluate" / "benchmarks", "catalog.toml", r"^\[([\w-]+)\]")
    return ["builtin", *(f"{name}=" for name in names)]


def values(*allowed: str) -> Callable[[str], Offers]:
    """Returns what offers the values of an option."""
    return lambda _incomplete: allowed


# By verb and parameter, which is called like its option where that is a word; "*" for every verb.
OFFERED: dict[tuple[str, str], Callable[[str], Offers]] = {
    ("*", "lang"): languages,
    ("*", "default_lang"): languages,
    ("translate", "to"): languages,
    ("translate", "source_lang"): languages,
    ("*", "model"): models,
    ("*", "teacher"): models,
    ("evaluate", "models"): models,
    ("models", "name"): models,
    ("models", "family"): families,
    ("evaluate", "dataset"): datasets,
    ("*", "dtype"): values("auto", "float32", "bfloat16", "float16", "int8"),
    ("embed", "dtype"): values("float16", "float32"),
    ("embed", "target"): values("projected", "pooled"),
    ("evaluate", "metric"): values("R@1", "R@5", "R@10", "acc1", "acc5"),
    ("*", "engine"): values("opus", "nllb", "apertium", "dictionary"),
    ("export", "to"): values("onnx", "openvino", "sentence-transformers", "mclip", "openclip", "altclip", "diffusers"),
    ("translate", "plan"): values("split", "all", "weights"),
    ("translate", "filters"): values("language"),
    ("translate", "no_filters"): values("empty", "copy", "length", "script", "repetition", "all"),
    ("serve", "fetch"): values("off", "public"),
    ("serve", "log_queries"): values("off", "hashed", "plain"),
    ("serve", "scopes"): values("read", "write", "metrics", "admin"),
}


def offer_values(app: Typer) -> None:
    """Lets the parameters of every verb offer their values, if a shell is asking; else nothing is done."""
    if _ASKED not in os.environ:
        return
    for name, verb in _verbs(app):
        for parameter, declared in parameters_of(verb).items():
            offered = OFFERED.get((name, parameter)) or OFFERED.get(("*", parameter))
            if offered is not None and getattr(declared, "autocompletion", ...) is None:
                declared.autocompletion = _as_typer_wants(offered)


def parameters_of(verb: Callable[..., Any]) -> dict[str, Any]:
    """Returns what a verb declares for each of its parameters: typer's options and arguments."""
    return {name: parameter.default for name, parameter in inspect.signature(verb).parameters.items()}


def _verbs(app: Typer, group: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yields each verb's function by its name; those of groups as "store merge"."""
    for command in app.registered_commands:
        if command.callback is not None:
            yield group + (command.name or command.callback.__name__), command.callback
    for member in app.registered_groups:
        if member.typer_instance is not None:
            name = member.name or member.typer_instance.info.name
            yield from _verbs(member.typer_instance, f"{group}{name} ")


def _as_typer_wants(offered: Callable[[str], Offers]) -> Callable[[str], list[Any]]:
    def complete(incomplete: str) -> list[Any]:
        return list(offered(incomplete))

    return complete


def _names(folder: Path, files: str, pattern: str) -> list[str]:
    """Returns what a pattern finds at the beginning of lines, in the order of the files."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(folder.glob(files)))
    return [name for text in texts for name in re.findall(pattern, text, flags=re.MULTILINE)]
