"""Translation by hand-written rules: the program Apertium, one pipe of it for each batch.

Debian ships it with its language pairs (`apt-get install apertium apertium-eng-spa`); `apertium -l` lists the
directions. It needs no model and no GPU, and translates about a thousand captions a second.

* A text never gets another's translation: each goes to the pipe with its number in a superblank (`[17]`, Apertium's
  wrapping for what is not to be translated) and a NUL behind it, and the answer must carry that number. Characters that
  mean something in Apertium's stream format are escaped on the way in and unescaped on the way out.
* A batch is translated by a program started for it. The tagger of some pairs (the hidden Markov model of eng-spa and
  en-gl) takes up new combinations of tags while it runs: in a program kept running, the same caption came out otherwise
  after a few thousand others. The start costs 0.15 s: give large batches.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence

from babelclip import languages
from babelclip.errors import BabelclipError, shown
from babelclip.translate.table import apertium_packages

PROGRAM = "apertium"
# Seconds without a byte after which the pipe counts as hung: a caption takes a millisecond, the start half a second.
PATIENCE = 60.0

_SPECIAL = re.compile(r"([\[\]{}^$/\\@<>])")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_LINE_ENDS = re.compile(r"([\r\n\x00]+)")
_SENTENCE_ENDS = (".", "!", "?", "…", ":", ";")


class ApertiumEngine:
    """All directions that the installed language pairs offer. See `babelclip.translate.engine.Engine`."""

    name = "apertium"
    batch_size = 4096

    def __init__(self, patience: float = PATIENCE) -> None:
        """Lists the directions.

        Raises:
            BabelclipError: the program is not installed, or without any pair.
        """
        if shutil.which(PROGRAM) is None:
            raise BabelclipError(
                f"The program {PROGRAM} is not installed. It translates from English by rules: run "
                f"{_install(sorted(apertium_packages()))}, or choose the engine opus or nllb."
            )
        self._modes = _modes()
        self._patience = patience

    def languages(self) -> tuple[str, ...]:
        """Returns the languages that an installed pair translates English into."""
        return tuple(sorted(target for source, target in self._modes if source == "en"))

    def model(self, target: str) -> str:
        """Returns the pair and its version, for example "apertium-eng-spa 0.8.1-2"."""
        return _package(self._mode("en", target))

    def translate(self, batch: Sequence[str], source: str, target: str) -> list[str]:
        """Returns the translations; unknown words stay as they are, line ends stay where they are.

        Raises:
            BabelclipError: no installed pair has this direction, or the program died twice or hung.
        """
        mode = self._mode(source, target)
        # A text goes line by line: a line end inside a sentence would move with the words around it.
        parts = [_LINE_ENDS.split(text) for text in batch]
        lines = [line for part in parts for line in part[::2] if line.strip()]
        answers = iter(_run(mode, lines, self._patience) if lines else [])
        return ["".join(_keep_ends(piece, answers, number) for number, piece in enumerate(part)) for part in parts]

    def close(self) -> None:
        """Does nothing: no program outlives its batch."""

    def _mode(self, source: str, target: str) -> str:
        pair = (languages.normalize(source), languages.normalize(target))
        if pair in self._modes:
            return self._modes[pair]
        package = apertium_packages().get(pair[1]) if pair[0] == "en" else None
        there = sorted(there for start, there in self._modes if start == pair[0])
        if package:
            cure = f"run {_install([pair[1]])}"
        else:
            cure = "choose another language, or the engine opus or nllb"
        raise BabelclipError(
            f"Apertium has no installed pair from {pair[0]} to {pair[1]} ({languages.name(pair[1])}). "
            f"Installed from {pair[0]}: {', '.join(there) or 'none'}. To go on, {cure}."
        )


def _run(mode: str, lines: Sequence[str], patience: float) -> list[str]:
    """Returns the translations of N lines without line ends, none of them blank; a program that dies gets one more try.

    Raises:
        BabelclipError: it died or hung twice.
    """
    failure: _DeadError | None = None
    for _ in range(2):
        answers: list[str] = []
        try:
            _exchange(mode, lines, patience, answers)
            return answers
        except _DeadError as error:
            failure = error
    raise BabelclipError(
        f"{PROGRAM} {mode} {failure}, twice, at the text {shown(lines[len(answers)])!r}. No text should end it: leave "
        f"this one out, or check the program by hand with `echo a dog | {PROGRAM} {mode}`."
    ) from failure


def _exchange(mode: str, lines: Sequence[str], patience: float, answers: list[str]) -> None:
    """Starts the program, sends `lines`, and appends their translations to `answers` as they come."""
    # -u: no star before unknown words; -z: a NUL ends a text; its own session: Ctrl-C is for us to handle.
    command = [PROGRAM, "-u", "-z", "-f", "none", mode]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, start_new_session=True
        )
        # A thread writes: whoever both writes and reads waits forever once the pipes in between are full.
        writer = threading.Thread(target=_write, args=(process, lines), daemon=True)
        writer.start()
        try:
            for number, record in enumerate(_records(process, len(lines), patience)):
                answers.append(_answer(record, lines[number], number))
            if len(answers) < len(lines):
                complaints.seek(0)
                said = shown(complaints.read(2000).decode("utf-8", "replace"))
                raise _DeadError(f"ended too early{f' ({said})' if said else ''}")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # and all that it started
            process.wait()
            writer.join()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


def _write(process: subprocess.Popen[bytes], lines: Sequence[str]) -> None:
    """Sends all lines, and the end that makes the program hand out what it still holds."""
    with contextlib.suppress(OSError, ValueError), process.stdin as pipe:  # type: ignore[union-attr]
        # It may have died: the reader sees that too, and tells.
        pipe.write(b"".join(_record(line, number) for number, line in enumerate(lines)))


def _records(process: subprocess.Popen[bytes], count: int, patience: float) -> Iterator[bytes]:
    """Yields `count` records, or fewer where the program ends before.

    Raises:
        _DeadError: the program was silent for `patience` seconds.
    """
    descriptor = process.stdout.fileno()  # type: ignore[union-attr]
    buffer = b""
    while count:
        ready, _, _ = select.select([descriptor], [], [], patience)
        if not ready:
            raise _DeadError(f"gave no answer for {patience:g} seconds")
        block = os.read(descriptor, 1 << 16)
        if not block:
            return
        *records, buffer = (buffer + block).split(b"\0")
        yield from records[:count]
        count -= len(records[:count])


class _DeadError(Exception):
    """The program ended or hung; the message is a clause about it."""


def _record(line: str, number: int) -> bytes:
    """Returns a line as the pipe takes it, with its number behind it.

    A sentence without an end gets a full stop, as Apertium's own text reader does: the tagger needs to see the end. The
    mark "~" would be taken for one of Apertium's own and dropped; inside a superblank it passes.
    """
    text = _SPECIAL.sub(r"\\\1", line).replace("~", "[~]")
    stop = "" if line.rstrip().endswith(_SENTENCE_ENDS) else "."
    return f"{text}{stop}[{number}]\0".encode("utf-8", "replace")


def _answer(record: bytes, line: str, number: int) -> str:
    """Returns the translation in a record.

    Raises:
        _DeadError: it is not that of this line.
    """
    text, mark, rest = record.decode("utf-8", "replace").rpartition(f"[{number}]")
    if not mark:
        raise _DeadError("gave the answer to another text")
    if not line.rstrip().endswith(_SENTENCE_ENDS):
        text = text.removesuffix(".")
    text = (text + rest).replace("[~]", "~")
    # Words that the rules drop leave their spaces behind.
    return re.sub(r"(?<=\S) {2,}", " ", _ESCAPED.sub(r"\1", text)).strip()


def _keep_ends(piece: str, answers: Iterator[str], number: int) -> str:
    """Returns a line's translation, or a line end (odd numbers) or a blank line as it is."""
    return piece if number % 2 or not piece.strip() else next(answers)


def _modes() -> dict[tuple[str, str], str]:
    """Returns (source, target) -> mode of the installed directions, for those that BCP-47 can name."""
    listed = subprocess.run([PROGRAM, "-l"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    modes: dict[tuple[str, str], str] = {}
    for mode in listed.stdout.split():
        source, _, target = mode.partition("-")
        with contextlib.suppress(languages.UnknownLanguageError):
            pair = (languages.normalize(source), languages.normalize(target))
            modes.setdefault(pair, mode)
    if not modes:
        raise BabelclipError(
            f"{PROGRAM} is installed without a language pair ({shown(listed.stderr) or '`apertium -l` lists none'}). "
            f"Pairs are packages of their own: run {_install(sorted(apertium_packages()))}."
        )
    return modes


def _package(mode: str) -> str:
    """Returns name and version of the package that brought a mode; its name alone where dpkg does not know it."""
    name = f"apertium-{mode.partition('_')[0]}"
    if shutil.which("dpkg-query"):
        asked = ["dpkg-query", "--show", "--showformat", "${Version}", name]
        found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        return f"{name} {found}".strip()
    return name


def _install(targets: Sequence[str]) -> str:
    packages = apertium_packages()
    return f"`apt-get install {PROGRAM} {' '.join(sorted({packages[target] for target in targets}))}`"
