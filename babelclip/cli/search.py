"""`babelclip search`: pictures of a collection or of a folder, ranked by a query in any language."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from babelclip.cli.stored import stored
from babelclip.errors import BabelclipError
from babelclip.storage.addresses import joined

if TYPE_CHECKING:
    from babelclip.search.collection import Collection
    from babelclip.search.query import Hit, Term

# Characters of a caption on a line; --json has all of it.
_CAPTION = 60


@stored(reads=("folder", "like", "plus", "minus"), files=("montage",))
def search(
    words: list[str] = typer.Argument(
        None, metavar="[NAME.lance] QUERY...", help="A collection, unless --in names a folder; then queries."
    ),
    folder: Path | None = typer.Option(None, "--in", metavar="FOLDER", help="Search a folder, without a collection."),
    model: str = typer.Option(
        "", "--model", help="Folder of a model. Default: that of the collection, else demo/student or the starter's."
    ),
    k: int = typer.Option(10, "-k", min=1, help="Pictures shown for each query."),
    where: str = typer.Option("", "--where", help="Only these, for example \"width >= 1000 and lang = 'sv'\"."),
    like: list[str] = typer.Option([], "--like", help="A picture, or the id of a result, to look like."),
    plus: list[str] = typer.Option([], "--plus", help="Text, picture or id to add to each query."),
    minus: list[str] = typer.Option([], "--minus", help="Text, picture or id to take away from each query."),
    min_score: float | None = typer.Option(None, "--min-score", help="Leave out what has a smaller cosine."),
    min_z: float | None = typer.Option(
        None, "--min-z", help="Leave out what is fewer standard deviations above unrelated queries; 3 is a start."
    ),
    group_by: str = typer.Option("", "--group-by", help="A column; the best of each value."),
    duplicates: bool = typer.Option(False, "--duplicates", help="Show near duplicates one by one."),
    columns: list[str] = typer.Option([], "--columns", help="Metadata to show, for example licence,year."),
    exact: bool = typer.Option(False, "--exact", help="Compare with every picture, without the index."),
    montage: Path | None = typer.Option(None, "--montage", metavar="OUT.png", help="Write the results as one picture."),
    open_: bool = typer.Option(False, "--open", help="Show the results as one picture, in the system's viewer."),
    workers: int = typer.Option(0, "--workers", min=0, help="Processes that decode pictures of a folder; 0: threads."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Find pictures by text in any language, by pictures, or by both.

    A collection is made by `babelclip index`. A folder is searched by --in: the first search encodes its pictures and
    keeps their vectors; later ones encode only what is new. In a query of a collection, a word that begins with + or -
    begins a part that is added or taken away; quotation marks make such a sign plain text.

    \b
    Examples:
      babelclip search --in ~/Pictures "två hundar i snön"
      babelclip search photos.lance "två hundar i snön" "狗"
      babelclip search photos.lance "beach - people" --where "width >= 1000" --open
      babelclip search photos.lance --like dog.jpg --plus "at night" --montage night.png
      babelclip search photos.lance --json "a red car" | jq '.[0].hits[0].path'
    """
    given = list(words or [])
    if folder is not None:
        _refuse_of_collections(where, like, plus, minus, min_score, min_z, group_by, columns, montage, open_)
        if not given:
            raise typer.BadParameter("give a query, in any language")
        if not all(query.strip() for query in given):
            raise BabelclipError("A query is empty. Give words, in any language.")
        _search_folder(folder, given, model, k, workers, as_json)
        return
    if not given or (len(given) == 1 and not (like or plus)):
        raise typer.BadParameter("give a collection and a query, or --in FOLDER and a query")
    if workers:
        raise BabelclipError("--workers decodes pictures of a folder, and a collection is searched: leave it out.")
    collection = _opened(given[0])
    shown = [name.strip() for item in columns for name in item.split(",") if name.strip()]
    settings: dict[str, Any] = {"k": k, "where": where or None, "min_score": min_score, "min_z": min_z}
    settings |= {"group_by": group_by, "dedup": not duplicates, "exact": exact}
    settings["columns"] = list(dict.fromkeys([*shown, "thumbnail"]))
    found = _search_collection(collection, given[0], given[1:], (like, plus, minus), model, settings)
    _show(collection, found, shown, as_json)
    if montage is not None or open_:
        _draw(found, montage, open_)


def _opened(url: str) -> Collection:
    """Returns a collection; for a folder that is none the error tells the other way to search one."""
    from babelclip.search.collection import open_collection

    try:
        return open_collection(url)
    except BabelclipError as error:
        if not Path(url).expanduser().is_dir() or url.endswith(".lance"):
            raise
        raise BabelclipError(f"{error} A folder of pictures is searched without one by --in {url}.") from error


def _search_collection(
    collection: Collection,
    url: str,
    queries: list[str],
    pictures: tuple[list[str], list[str], list[str]],
    model: str,
    settings: dict[str, Any],
) -> list[tuple[str, list[Hit]]]:
    import babelclip
    from babelclip.cli.default_model import default_model
    from babelclip.search.index_state import noted_model
    from babelclip.search.query import find, parse_query
    from babelclip.search.query_terms import MINUS

    like, plus, minus = pictures
    added = [_term(collection, word, 1.0, text_too=False) for word in like]
    added += [_term(collection, word, 1.0) for word in plus] + [_term(collection, word, MINUS) for word in minus]
    asked = [(query, [*parse_query(query), *added]) for query in queries] or [(" + ".join([*like, *plus]), added)]
    terms = [term for _name, parts in asked for term in parts]
    clip = None
    if any(term.text is not None or term.image is not None for term in terms) or settings["min_z"] is not None:
        clip = babelclip.load(model or noted_model(url) or default_model())
    return [(name, find(collection, clip, parts, **settings).rows) for name, parts in asked]


def _term(collection: Collection, word: str, weight: float, *, text_too: bool = True) -> Term:
    """Returns what a word of an option means: a picture file that exists, the id of an item, or else a text."""
    from babelclip.search.query import Term

    # Of os.path: a text may begin with ~ or be longer than any name of a file, which `Path` takes for an error.
    if os.path.isfile(path := os.path.expanduser(word)):
        return Term(image=path, weight=weight)
    if len(collection.get([word])):
        return Term(id=word, weight=weight)
    if not text_too:
        raise BabelclipError(
            f"{word} is no file, and no id of {collection.name} (--json shows them). --like takes one of these; words "
            "are the query, or --plus."
        )
    return Term(text=word, weight=weight)


def _show(collection: Collection, found: list[tuple[str, list[Hit]]], columns: list[str], as_json: bool) -> None:
    roots = collection.roots
    if as_json:
        content = [{"query": query, "hits": [_as_json(hit, roots, columns) for hit in hits]} for query, hits in found]
        typer.echo(json.dumps(content, ensure_ascii=False, indent=2, default=str))
        return
    for query, hits in found:
        typer.echo(query)
        for hit in hits:
            more = f"  (+{hit.similar} similar)" if hit.similar else ""
            told = "".join(f"  {name}={_told(hit.values[name])}" for name in columns if hit.values[name] is not None)
            caption = f"  {_short(hit.caption)}" if hit.caption else ""
            typer.echo(f"  {hit.score:6.3f}  {_place(hit, roots)}{more}{told}{caption}")
        if not hits:
            typer.echo("  nothing")


def _as_json(hit: Hit, roots: Any, columns: list[str]) -> dict[str, Any]:
    row = {"id": hit.id, "path": _place(hit, roots), "score": round(hit.score, 4)}
    row |= {"z": None if hit.z is None else round(hit.z, 2), "caption": hit.caption, "similar": hit.similar}
    return row | {name: _in_json(hit.values[name]) for name in columns}


def _in_json(value: object) -> object:
    """Returns a value of a row as JSON has it: bytes, which are those of a thumbnail, in base64."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _told(value: object) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _short(caption: str) -> str:
    line, *others = caption.splitlines()
    line = line if len(line) <= _CAPTION else f"{line[: _CAPTION - 1]}…"
    return f"{line} (and {len(others)} more)" if others else line


def _place(hit: Hit, roots: Any) -> str:
    """Returns where the picture lies, as far as that is known."""
    root = roots.get(hit.source or "", "")
    return joined(root, hit.path) if root and hit.path else hit.path or hit.id


def _draw(found: list[tuple[str, list[Hit]]], montage: Path | None, open_: bool) -> None:
    from babelclip.files import cache_folder
    from babelclip.search.montage import contact_sheet, save_sheet

    hits = [hit for _query, rows in found for hit in rows]
    names = [hit.caption.splitlines()[0] if hit.caption else Path(hit.path or hit.id).name for hit in hits]
    lines = [(f"{hit.score:.3f}", name) for hit, name in zip(hits, names, strict=True)]
    title = "   ".join(query for query, _rows in found)
    sheet = contact_sheet([hit.values["thumbnail"] for hit in hits], lines, title=title)
    place = montage if montage is not None else cache_folder() / "results.png"
    save_sheet(sheet, place)
    typer.echo(f"{place}: {len(hits)} pictures", err=True)
    if open_:
        import webbrowser

        webbrowser.open(place.resolve().as_uri())


def _refuse_of_collections(*given: object) -> None:
    names = ["--where", "--like", "--plus", "--minus", "--min-score", "--min-z", "--group-by", "--columns"]
    names += ["--montage", "--open"]
    idle = [name for name, value in zip(names, given, strict=True) if value not in (None, "", False, [])]
    if idle:
        raise BabelclipError(
            f"{', '.join(idle)} needs a collection, and --in searches a folder. Make one, which takes no longer than "
            "the search: babelclip index FOLDER --out NAME.lance"
        )


def _search_folder(folder: Path, queries: list[str], model: str, k: int, workers: int, as_json: bool) -> None:
    import babelclip
    from babelclip.cli.default_model import default_model
    from babelclip.search.folder import index_folder, search_folder

    clip = babelclip.load(model or default_model())
    index = index_folder(clip, folder, workers=workers, progress=True)
    results = search_folder(clip, index, queries, k)
    for item in index.skipped:
        typer.echo(f"skipped: {item.reason}", err=True)
    typer.echo(
        f"{len(index.paths)} pictures ({index.encoded} encoded now, {len(index.skipped)} skipped as unreadable)",
        err=True,
    )
    if index.report is not None:
        typer.echo(index.report.advice(workers), err=True)
    if as_json:
        content = [
            {"query": query, "hits": [{"path": str(hit.path), "score": round(hit.score, 4)} for hit in hits]}
            for query, hits in zip(queries, results, strict=True)
        ]
        typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
        return
    for query, hits in zip(queries, results, strict=True):
        typer.echo(query)
        for hit in hits:
            typer.echo(f"  {hit.score:6.3f}  {hit.path}")
