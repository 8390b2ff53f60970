"""`babelclip`: the verbs, and one place that turns errors into exit codes (0 done, 1 failed, 2 wrong use)."""

from __future__ import annotations

import errno
import io
import os
import re
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
# A read-only file system, or somebody else's file.
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
# A file where a folder is asked for or the other way round, or a folder that is not there.
_OTHER_KIND = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
# Lance and safetensors name the same numbers in the text of an error of their own; torch says it in words.
_OF_RUST = re.compile(r"\(os error (\d+)\)")
_OF_TORCH = "can't allocate memory"
# What `Path.expanduser` and `Path.home` say, without a number.
_OF_HOME = "Could not determine home directory"
# numpy says how many items of an array found room, and no number.
_OF_NUMPY = re.compile(r"\d+ requested and \d+ written")


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


def _make_printable() -> None:
    """Lets output in another encoding than UTF-8 lose letters (as \\u72d7) instead of ending the program.

    Raises:
        BabelclipError: an argument was typed in another encoding than the one that this terminal is said to have.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")
    for argument in sys.argv[1:]:
        # Python keeps bytes that it cannot read as lone surrogates; no tokenizer and no table takes those.
        if any("\udc80" <= letter <= "\udcff" for letter in argument) and not os.path.exists(argument):
            raise BabelclipError(
                f"An argument is not in {sys.getfilesystemencoding()}, which this terminal is said to use: "
                f"{argument.encode('ascii', 'backslashreplace').decode()}. Type it in UTF-8 after "
                "`export PYTHONUTF8=1`; `babelclip doctor` says what it finds."
            )


def _reason(error: Exception) -> str:
    """Returns what is wrong with the machine, and what to do; "" for what may be a fault of ours."""
    number = error.errno if isinstance(error, OSError) else None
    told = str(error)
    if found := _OF_RUST.search(told):
        number = int(found[1])
        told = told[: found.end()]  # the place in a source file of the engine, which follows, helps nobody here
    if isinstance(error, OSError) and _OF_NUMPY.fullmatch(told):
        number = errno.ENOSPC
    if number in _FULL:
        return f"the disk is full ({told}). What was finished is kept. Free some space and run the same again."
    if number in _FORBIDDEN:
        return (
            f"the system does not allow this ({told}). Give a folder that you may write and files that you may read, "
            "or get the right to, and run the same again; what was finished is kept."
        )
    if isinstance(error, OSError) and number in _OTHER_KIND and error.filename is not None:
        # Of a file that is to take another's name, the other: the first is one of ours.
        name = error.filename2 if error.filename2 is not None else error.filename
        return (
            f"{name} is not what is asked for there ({error.strerror}). A file must be given where a file is "
            "read, a folder where one is written, below a folder that exists: check the paths, and run the same again."
        )
    if isinstance(error, RuntimeError) and _OF_HOME in told:
        return (
            "a path begins with ~ and no home folder is known for it: a name after ~ must be a user of this machine, "
            "and ~ alone needs HOME. Write the path whole, and run the same again."
        )
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _OF_TORCH in told:
        return (
            f"memory has run out ({told or 'no more of it'}). What was finished is kept. Close other programs, "
            "or take smaller batches or a machine with more, and run the same again."
        )
    return ""


def main() -> None:
    """Runs the command line and exits with its code."""
    # Tokenizers' own threads and forked workers do not mix; the library tokenises whole batches in any case.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    offer_values(app)
    try:
        _make_printable()
        app()
    except (BabelclipError, MissingExtraError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except Exception as error:
        reason = _reason(error)
        if not reason:
            raise
        sys.stderr.write(f"error: {reason}\n")
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            sys.stderr.write("stopped. Run the same command again to go on where it stopped.\n")
        raise


if __name__ == "__main__":
    main()
