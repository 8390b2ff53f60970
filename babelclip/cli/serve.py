"""`babelclip serve`: collections over HTTP, with a page to search them in any language."""

from __future__ import annotations

from pathlib import Path

import typer


def serve(
    collections: list[str] = typer.Argument(None, metavar="COLLECTION...", help="NAME.lance, or NAME=ADDRESS."),
    model: list[str] = typer.Option([], "--model", help="Model that encodes queries; default: the collections' own."),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="Port to listen on."),
    token_file: str = typer.Option("", "--token-file", help="Keys, hashed. Needed where others can reach the service."),
    make_key: str = typer.Option(
        "", "--make-key", metavar="NAME", help="Add a key to --token-file, print it, and end."
    ),
    scopes: str = typer.Option("read", "--scopes", help="Of the key: read, write, metrics, admin; with commas."),
    allow_open: bool = typer.Option(False, "--allow-open", help="Let others in without a key."),
    known_host: list[str] = typer.Option([], "--known-host", help="Further host name the service is called by."),
    trusted_proxy: list[str] = typer.Option([], "--trusted-proxy", help="Address whose X-Forwarded-For is believed."),
    user_header: str = typer.Option(
        "", "--user-header", metavar="HEADER", help="Header in which a trusted proxy names who it let in."
    ),
    secret_file: str = typer.Option(
        "", "--secret-file", help="Secret that replicas on several machines share; made where there is none."
    ),
    space: str = typer.Option("", "--space", help="Embedding space of clip-retrieval folders, which do not say it."),
    workers: int = typer.Option(1, "--workers", min=1, help="Processes; each holds the model."),
    threads: int = typer.Option(0, "--threads", min=0, help="Threads of the encoder in each process; 0: all cores."),
    fast: bool = typer.Option(False, "--fast", help="Answer from a graph in memory; needs the extra faiss."),
    metrics_at: str = typer.Option(
        "", "--metrics-at", metavar="HOST:PORT", help="Tell figures (/metrics) there, and not beside the rest."
    ),
    fetch: str = typer.Option("off", "--fetch", help="Pictures by address: off, public, or host names with commas."),
    fetch_proxy: str = typer.Option("", "--fetch-proxy", metavar="HOST:PORT", help="Proxy that fetching goes through."),
    ignore_opt_outs: bool = typer.Option(
        False, "--ignore-opt-outs", help="Fetch in spite of robots.txt and X-Robots-Tag."
    ),
    indexable: bool = typer.Option(False, "--indexable", help="Let crawlers in; they are kept out otherwise."),
    show_paths: bool = typer.Option(False, "--show-paths", help="Tell paths of pictures, relative to their source."),
    thumbnails_only: bool = typer.Option(False, "--thumbnails-only", help="Never open the pictures' files."),
    ignore_safety: bool = typer.Option(
        False, "--ignore-safety", help="Answer clip-retrieval's clients that ask for its safety models, unfiltered."
    ),
    log_queries: str = typer.Option("off", "--log-queries", help="off, hashed or plain."),
    per_minute: int = typer.Option(1200, "--per-minute", min=0, help="Requests of one client a minute; 0: no bound."),
) -> None:
    """Serve collections: a page at http://127.0.0.1:8000, and an API below /v1.

    Only this machine can reach it unless --host says otherwise, and then keys are needed.

    \b
    Examples:
      babelclip serve photos.lance
      babelclip serve photos.lance art=s3://bucket/art.lance --port 9000
      babelclip serve --make-key anna --token-file keys.txt
      babelclip serve photos.lance --host 0.0.0.0 --token-file keys.txt --known-host pictures.example.org
    """
    from babelclip.errors import BabelclipError

    if make_key:
        from babelclip.search.server.tokens import make_key as make

        if not token_file:
            raise BabelclipError("--make-key has no file to put the key into. Give --token-file FILE.")
        token = make(token_file, make_key, tuple(scope.strip() for scope in scopes.split(",")))
        typer.echo(token)
        typer.echo(
            f"Key {make_key} ({scopes}) is in {token_file}. It is shown this once: only its hash is kept.", err=True
        )
        return
    from babelclip.search.server.run import run
    from babelclip.search.server.settings import Limits, Settings

    named = _named(collections or [])
    settings = Settings(
        collections=named,
        models=tuple(model) or _noted(named),
        host=host,
        port=port,
        token_file=token_file,
        allow_open=allow_open,
        hosts=tuple(known_host),
        workers=workers,
        trusted_proxies=tuple(trusted_proxy),
        user_header=user_header,
        secret_file=secret_file,
        space=space,
        show_paths=show_paths,
        full_pictures=not thumbnails_only,
        fetch=fetch,
        fetch_proxy=fetch_proxy,
        ignore_opt_outs=ignore_opt_outs,
        indexable=indexable,
        metrics_at=metrics_at,
        ignore_safety=ignore_safety,
        log_queries=log_queries,
        threads=threads,
        fast=fast,
        limits=Limits(per_minute=per_minute),
    )
    typer.echo(f"Opening {', '.join(settings.collections)} with {', '.join(settings.models)} ...", err=True)
    run(settings, lambda address: typer.echo(f"Open {address} in a browser. Ctrl-C ends the service.", err=True))
    typer.echo("The service has ended.", err=True)


def _noted(named: dict[str, str]) -> tuple[str, ...]:
    """Returns the models that the collections were made with, each once; where none is known, the one that is here."""
    from babelclip.cli.default_model import default_model
    from babelclip.search.index_state import noted_model

    noted = dict.fromkeys(model for url in named.values() if (model := noted_model(url)))
    return tuple(noted) or (str(default_model()),)


def _named(given: list[str]) -> dict[str, str]:
    """Returns name -> address; a collection without a name is called by its folder."""
    from babelclip.errors import BabelclipError

    named: dict[str, str] = {}
    for one in given:
        name, equals, address = one.partition("=")
        if not equals or "/" in name:
            name, address = Path(one.rstrip("/").rpartition("/")[2]).stem, one
        if not name:
            raise BabelclipError(f"{one!r} names no collection. Give NAME.lance, or NAME=ADDRESS with both.")
        if name in named:
            raise BabelclipError(f"Two collections are called {name!r}. Name them apart: NAME=ADDRESS.")
        if address.startswith("~"):  # a shell replaces it only at the start of a word
            address = str(Path(address).expanduser())
        # Told before a model is looked for or loaded.
        if "://" not in address and not Path(address).exists():
            raise BabelclipError(
                f"There is no collection {address}. Give one that is there, or make it: "
                f"babelclip index PICTURES --out {address}"
            )
        named[name] = address
    if not named:
        raise BabelclipError(
            "No collection was named. Make one (babelclip index PICTURES --out photos.lance) and serve it: "
            "babelclip serve photos.lance"
        )
    return named
