"""How `reliability.py` starts commands: forked from a process that has imported everything and has computed nothing.

A run of a tiny model is one second of work after five of imports, and a kill in an import shows nothing. So the
campaign imports what the commands import, never uses it, and forks: a run begins where its work begins. Whatever
computes, also what looks at outputs, does so in a process of its own. `real=True` starts the command anew instead.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Seconds that a run may take before it counts as hanging; the machine does other things too.
LIMIT = 600.0
HUNG = 124
# A hub is not asked, and equal runs give equal bits only with one thread.
SETTINGS = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "true"}


class Run:
    """A command that runs; `said` is what it wrote to stderr."""

    def __init__(self, pid: int, errors: Path) -> None:
        self.pid, self._errors = pid, errors
        self._code: int | None = None

    def poll(self, wait: bool = False) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def kill(self) -> None:
        """Kills it with all that it started (SIGKILL)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.poll(wait=True)

    def end(self) -> tuple[int, str]:
        """Returns exit code and what was said; `HUNG`, and where it stood, for a run that does not end."""
        began = time.monotonic()
        while self.poll() is None:
            if time.monotonic() - began > LIMIT:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGUSR1)
                time.sleep(1)
                self.kill()
                return HUNG, f"hung: {self.said()}"
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):  # what a run leaves running is not to disturb the next one
            os.killpg(self.pid, signal.SIGKILL)
        return self._code or 0, self.said()

    def said(self) -> str:
        """Returns what it wrote to stderr until now."""
        return self._errors.read_text(encoding="utf-8", errors="replace")


def start(
    arguments: Sequence[str],
    folder: Path,
    *,
    real: bool = False,
    memory: int = 0,
    more: Mapping[str, str] | None = None,
) -> Run:
    """Starts `babelclip ARGUMENTS`, in a process group of its own; `memory` bounds its address space in bytes.

    Args:
        arguments: of the command line.
        folder: where its stderr is kept.
        real: a new interpreter with `more` in its environment, not a fork.
        memory: 0 for no bound.
        more: environment, for `real`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors = folder / f"stderr-{time.monotonic_ns()}"
    if real:
        with errors.open("wb") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "babelclip.cli.main", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, cwd=ROOT,
                env={**os.environ, **SETTINGS, **(more or {})}, start_new_session=True,
            )  # fmt: skip
        child.returncode = 0  # waited for here, not there
        return Run(child.pid, errors)
    return Run(forked(lambda: _command(arguments), errors, memory), errors)


def forked(work: Callable[[], object], errors: Path, memory: int = 0) -> int:
    """Returns the id of a new process that does the work and ends with its exit code."""
    # lancedb warns of forks in every child; nothing of it has run here.
    warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here and there: whoever comes first
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        null, file = os.open(os.devnull, os.O_RDWR), os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for target, source in ((0, null), (1, null), (2, file)):
            os.dup2(source, target)
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        code = _code_of(work)
        atexit._run_exitfuncs()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _code_of(work: Callable[[], object]) -> int:
    """Returns the exit code that Python gives for what the work does."""
    try:
        work()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        return 1
    finally:
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join()
    return 0


def _command(arguments: Sequence[str]) -> None:
    from babelclip.cli import main

    os.chdir(ROOT)
    sys.argv = ["babelclip", *arguments]
    # Processes that are spawned import what the main module is.
    sys.modules["__main__"] = main
    main.main()


def prepare(arguments: Sequence[str], folder: Path) -> None:
    """Runs a command once in a process of its own, and imports here what it has imported there.

    Raises:
        SystemExit: it fails.
    """
    names, errors = folder / "modules", folder / "stderr-modules"
    before = set(sys.modules)

    def work() -> None:
        try:
            _command(arguments)
        finally:
            names.write_text("\n".join(name for name in sys.modules if name not in before), encoding="utf-8")

    run = Run(forked(work, errors), errors)
    code, said = run.end()
    if code:
        raise SystemExit(f"{' '.join(arguments)} fails in peace ({code}):\n{said[-3000:]}")
    for name in names.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    # Threads do not go through a fork; these two libraries start theirs anew.
    known = {"LanceDBBackgroundEventLoop", "MainThread"}
    unknown = {thread.name for thread in threading.enumerate()} - known
    own = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    if unknown or sum(name != "jemalloc_bg_thd" for name in own) > threading.active_count():
        raise SystemExit(f"imports have started threads ({unknown or own}); what is forked from here could hang")


def apart(work: Callable[[], str], folder: Path) -> str:
    """Returns what `work` returns in a process of its own.

    Raises:
        RuntimeError: it fails.
    """
    answer, errors = folder / f"answer-{time.monotonic_ns()}", folder / f"stderr-{time.monotonic_ns()}"
    code, said = Run(forked(lambda: answer.write_text(work(), encoding="utf-8"), errors), errors).end()
    if code:
        raise RuntimeError(f"what a run left cannot be looked at ({code}): {said[-600:]}")
    found = answer.read_text(encoding="utf-8")
    for file in (answer, errors):
        file.unlink()
    return found
