"""`babelclip compare`: one query in many languages, and what each finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from babelclip.cli.stored import stored

if TYPE_CHECKING:
    from babelclip.search.compare import Compared


@stored(reads=("captions",))
def compare(
    url: str = typer.Argument(..., metavar="NAME.lance", help="A collection that `babelclip index` made."),
    query: str = typer.Argument(..., metavar="QUERY", help="What to look for."),
    query_lang: str = typer.Option("en", "--query-lang", help="Language of QUERY, which the others are compared with."),
    lang: str = typer.Option("all", "--lang", help="Languages to compare, for example sv,de; all that there are."),
    told: list[str] = typer.Option([], "--as", metavar="LANG=TEXT", help="A translation; may be repeated."),
    captions: Path | None = typer.Option(None, "--captions", help="Table of captions with translations of QUERY."),
    engine: str = typer.Option("", "--engine", help="Translate by opus, nllb or apertium."),
    model: str = typer.Option("", "--model", help="Folder of a model. Default: that of the collection."),
    k: int = typer.Option(10, "-k", min=1, help="Results that are compared."),
    where: str = typer.Option("", "--where", help='Only these, for example "width >= 1000".'),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, with the results of each language."),
) -> None:
    """Compare what one query finds in many languages: overlap of the first k results, and scores.

    `overlap` is the share of the results of QUERY that a language finds too, `cosine` that of the two query vectors,
    `z` how far the best score lies above those of unrelated texts, in standard deviations. Low overlap with a high z
    points to a translation that says something else; a low z to a language that the model hardly knows.

    \b
    Examples:
      babelclip compare photos.lance "dog" --as sv=hund --as zh=狗
      babelclip compare photos.lance "a dog" --engine opus --lang sv,de,fr
      babelclip compare photos.lance "A dog." --captions captions.jsonl --json
    """
    import babelclip
    from babelclip.cli.default_model import default_model
    from babelclip.search.collection import open_collection
    from babelclip.search.compare import compare as compared
    from babelclip.search.index_state import noted_model

    to = [] if lang == "all" else [code.strip() for code in lang.split(",") if code.strip()]
    texts = _texts(query, query_lang, told, captions, engine, to)
    collection = open_collection(url)
    clip = babelclip.load(model or noted_model(url) or default_model())
    rows = compared(collection, clip, texts, k, reference=query_lang, where=where or None)
    if as_json:
        typer.echo(json.dumps([_as_json(row) for row in rows], ensure_ascii=False, indent=2, default=str))
        return
    _print(rows, min(k, len(rows[0].hits)))


def _texts(query: str, lang: str, told: list[str], captions: Path | None, engine: str, to: list[str]) -> dict[str, str]:
    from babelclip.errors import BabelclipError
    from babelclip.search.compare import translations

    if not query.strip():
        raise BabelclipError("The query is empty. Give words in the language of --query-lang.")
    codes = [words.partition("=")[0].strip() for words in told]
    if twice := [code for code in dict.fromkeys(codes) if codes.count(code) > 1]:
        raise BabelclipError(f"--as was given twice for {twice[0]}. A language has one translation: drop one.")
    if not engine:
        return translations(query, lang, told=told, captions=captions, to=to)
    from babelclip.translate.engine import open_engine

    opened = open_engine(engine)
    try:
        return translations(query, lang, told=told, captions=captions, engine=opened, to=to)
    finally:
        opened.close()


def _as_json(row: Compared) -> dict[str, Any]:
    hits = [{"id": hit.id, "score": round(hit.score, 4), "path": hit.path, "caption": hit.caption} for hit in row.hits]
    numbers = {name: round(getattr(row, name), 4) for name in ("overlap", "cosine", "best", "mean", "z")}
    return {"lang": row.lang, "text": row.text, **numbers, "declared": row.declared, "hits": hits}


def _print(rows: list[Compared], k: int) -> None:
    from babelclip import languages

    typer.echo(f"overlap@{k} with {rows[0].lang}; * = a language that the model does not name as its own")
    typer.echo(f"{'lang':<8} {'overlap':>7} {'cosine':>7} {'best':>7} {'mean':>7} {'z':>6}  query")
    for row in rows:
        mark = "*" if row.declared is False else " "
        typer.echo(
            f"{row.lang:<7}{mark} {row.overlap:>7.2f} {row.cosine:>7.3f} {row.best:>7.3f} {row.mean:>7.3f} "
            f"{row.z:>6.1f}  {row.text}  ({languages.name(row.lang)})"
        )
    if len(rows) > 2:
        others = rows[1:]
        mean = sum(row.overlap for row in others) / len(others)
        typer.echo(
            f"{len(others)} languages: mean overlap {mean:.2f}, lowest {others[-1].lang} {others[-1].overlap:.2f}"
        )
