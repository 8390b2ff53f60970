"""`babelclip`: the verbs, and one place that turns errors into exit codes (0 done, 1 failed, 2 wrong use)."""

from __future__ import annotations

import errno
import os
import sys

import typer

from babelclip import __version__
from babelclip.cli import (
    collection,
    compare,
    demo,
    doctor,
    embed,
    evaluate,
    export,
    index,
    models,
    report,
    search,
    serve,
    starter,
    store,
    train,
    translate,
    trim,
)
from babelclip.cli.completion import offer_values
from babelclip.errors import BabelclipError, MissingExtraError

app = typer.Typer(
    name="babelclip",
    help="One embedding space for pictures and for text in every language.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# What typer exits with after Ctrl-C, as shells do: 128 + SIGINT.
_INTERRUPTED = 130
# No space, over the quota, over the largest file that is allowed.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"babelclip {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """One embedding space for pictures and for text in every language."""


for verb in (
    demo.demo,
    doctor.doctor,
    starter.starter,
    models.models,
    index.index,
    search.search,
    serve.serve,
    compare.compare,
    embed.embed,
    train.train,
    evaluate.evaluate,
    report.report,
    export.export,
    translate.translate,
    trim.trim,
):
    app.command()(verb)
app.add_typer(store.store)
app.add_typer(collection.collection)


def main() -> None:
    """Runs the command line and exits with its code."""
    # Tokenizers' own threads and forked workers do not mix; the library tokenises whole batches in any case.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    offer_values(app)
    try:
        app()
    except (BabelclipError, MissingExtraError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        sys.stderr.write(
            f"error: the disk is full ({error}). What was finished is kept. Free some space and run the same again.\n"
        )
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            sys.stderr.write("stopped. Run the same command again to go on where it stopped.\n")
        raise


if __name__ == "__main__":
    main()
