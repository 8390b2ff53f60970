"""What the site needs beside Markdown: pages made from the package, and links that leave the folder of the guides.

The guides are written to be read in the repository too, so they link to files outside docs/. Those files are copied
into the site. The pages of the command line and of the Python names are made from the package at each build.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# A link out of docs/, as written in a page of docs/: its text stays, its file comes along.
OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)(#[^)]*)?\)")

_PYTHON_HEAD = """\
What stands in `babelclip` itself (`load`, `pair`, `Clip`, `TextEncoder`, `ImageEncoder`, `Captions`, `read_captions`,
`EmbeddingStore`, `list_models`) is shown under the module where it is defined; the rest are the modules that the
command line calls. Shapes: N texts or pictures, T tokens, D embed_dim, K top k."""
# The public names, in the order in which a reader needs them: heading, then a part of the package and what is in it.
PYTHON: dict[str, tuple[str, str]] = {
    "Load and encode": ("", "load pair Clip TextEncoder ImageEncoder"),
    "Models and languages": ("", "registry languages"),
    "Captions and vectors": ("", "Captions read_captions EmbeddingStore data.embed data.embed_images"),
    "Translate": ("translate.", "pipeline"),
    "Train": ("train.", "recipe distill contrastive losses"),
    "Evaluate": ("evaluate.", "metrics retrieval classification sts clip_benchmark mteb"),
    "Search": ("search.", "collection index query compare folder"),
    "Ship": ("models.", "trim quantize export export.runtime"),
    "Errors": ("", "errors doctor"),
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made from the package, and the files that guides link to outside docs/."""
    from mkdocs.structure.files import File

    sys.path.insert(0, str(ROOT))  # the package of this checkout, installed or not
    made = {"api/python.md": python_page(), "api/commands.md": commands_page()}
    for source, content in made.items():
        files.append(File.generated(config, source, content=content))
    for target in sorted(targets_outside(Path(config.docs_dir))):
        place = f"files/{target}"
        if place.endswith(".md"):
            text = OUTSIDE.sub(
                lambda match: f"]({match[1].rpartition('/')[2]})", (ROOT / target).read_text(encoding="utf-8")
            )
            files.append(File.generated(config, place, content=without_links(text)))
        else:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Returns a page whose links out of docs/ lead to the copies."""
    return OUTSIDE.sub(lambda match: f"](files/{match[1]}{match[2] or ''})", markdown)


def targets_outside(docs: Path) -> set[str]:
    """Returns files of the repository that pages of docs/ link to, relative to its root."""
    texts = (page.read_text(encoding="utf-8") for page in docs.glob("*.md"))
    found = {match[1] for text in texts for match in OUTSIDE.finditer(text)}
    return {target for target in found if (ROOT / target).is_file()}


def without_links(text: str) -> str:
    """Returns Markdown whose links to files are plain words: their targets are not in the site."""
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


def python_page() -> str:
    """Returns the page of Python names: a directive of mkdocstrings for each."""
    parts = ["# Python", "", _PYTHON_HEAD, ""]
    for heading, (part, names) in PYTHON.items():
        parts += [f"## {heading}", ""]
        for name in names.split():
            parts += [f"::: {home_of(part + name)}", "    options:", "      heading_level: 3", ""]
    return "\n".join(parts)


def home_of(name: str) -> str:
    """Returns where a name of the package is defined, which reading without importing cannot know of lazy ones."""
    import babelclip

    home = babelclip._HOMES.get(name)
    return f"{home}.{name}" if home else f"babelclip.{name}"


def commands_page() -> str:
    """Returns the page of the command line: what `--help` says of each verb."""
    import typer

    from babelclip.cli.main import app

    parts = ["# Command line", "", "What `babelclip VERB --help` says.", ""]
    for path in walk(typer.main.get_command(app)):
        parts += [f"## {' '.join(path)}", "", "```text", help_of(path).rstrip(), "```", ""]
    return "\n".join(parts)


def walk(command: Any, path: tuple[str, ...] = ("babelclip",)) -> Iterator[tuple[str, ...]]:
    """Yields every verb by its words, groups before their members."""
    yield path
    for name, member in sorted(getattr(command, "commands", {}).items()):
        yield from walk(member, (*path, name))


def help_of(path: tuple[str, ...]) -> str:
    """Returns what the program prints."""
    from typer.testing import CliRunner

    from babelclip.cli.main import app

    return CliRunner().invoke(app, [*path[1:], "--help"], prog_name="babelclip", env={"COLUMNS": "96"}).output
