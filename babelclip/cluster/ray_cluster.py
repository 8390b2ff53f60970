"""The Ray cluster that a job runs on: one that is there already, or one of this machine for as long as the job takes.

Entry point: `joined`. Nothing is reported to Ray's makers, no dashboard is started, and Ray's own lines about its state
stay out of the terminal: a person looks at one bar, that of the job. What Ray would have said lies in its log folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, require, shown

_PREFIX = "bc-ray-"
# Only lists of shards and of files pass through a cluster of our own; pixels, where there is a GPU.
_STORE, _STORE_WITH_GPU = 100 << 20, 2 << 30
# Ray waits 30 s for its first process, which a busy machine may not have finished loading.
_STARTS = 3
_ANSWER_SECONDS = 10.0
# Settings of Ray that are read when its processes start; those of a cluster that is joined are its own.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "1",
    # Ray gives way to all other processes (15), as if its workers were guests; here they are the job.
    "RAY_worker_niceness": "0",
    # Its C++ part writes every error to the terminal, those it mends too.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@contextlib.contextmanager
def joined(address: str, cpus: int, gpus: int) -> Iterator[Any]:
    """Yields the module `ray`, connected; a cluster that was started for it is gone when the block ends.

    A process that is connected to a cluster already stays so, and the address is not looked at.

    Args:
        address: "auto" for the cluster that runs on this machine, "host:port", or "" to start one here.
        cpus: processors of a cluster that is started here, as Ray shall count them.
        gpus: the same of its GPUs.

    Raises:
        MissingExtraError: Ray is not installed.
        BabelclipError: no cluster answers at the address.
    """
    with _settings() as ours:
        ray = require("ray", "cluster")
        require("ray.data", "cluster")  # sets up its own logging, which is hushed next
        if ray.is_initialized():
            with _hushed():
                yield ray
        else:
            with _hushed(), _connected(ray, address, cpus, gpus, hush="RAY_BACKEND_LOG_LEVEL" in ours):
                yield ray


@contextlib.contextmanager
def _connected(ray: Any, address: str, cpus: int, gpus: int, hush: bool) -> Iterator[None]:
    common = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    folder = "" if address else _session_folder()
    try:
        with _without_stderr() if hush else contextlib.nullcontext():
            if address:
                _join(ray, address, common)
            else:
                store = _STORE_WITH_GPU if gpus else _STORE
                _start(ray, num_cpus=cpus, num_gpus=gpus, object_store_memory=store, _temp_dir=folder, **common)
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, **settings: Any) -> None:
    for tried in range(1, _STARTS + 1):
        try:
            ray.init(**settings)
            return
        except Exception as error:  # Ray has no class of its own for it
            ray.shutdown()
            if tried == _STARTS:
                raise BabelclipError(
                    f"Ray could not start a cluster on this machine ({shown(error)}). It gives its processes 30 s, and "
                    "needs free memory and space in /tmp: look at what else the machine does, and run the same again; "
                    "or start one with `ray start --head`, and give --ray-address auto."
                ) from error


def _join(ray: Any, address: str, common: dict[str, Any]) -> None:
    del common["include_dashboard"]  # that of the cluster is not ours to decide
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal() and "://" not in address:
            # Ray itself would ask for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
        ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise BabelclipError(
            f"No Ray cluster answers at {shown(address)} ({shown(error)}). The address is auto, for the cluster that "
            "this machine is part of, or host:port of its head; a cluster that asks for a token wants "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here too. Start one with `ray start --head`, or leave "
            "--ray-address out: a cluster of this machine alone is started then."
        ) from error


def _session_folder() -> str:
    """Returns a new folder for a cluster's files, and removes those of processes that were killed.

    The sockets in it have names of some 60 characters, of at most 107 with the folder's, so it has a short name.
    """
    base = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()
    for left in Path(base).glob(f"{_PREFIX}*-*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists() and Path("/proc").is_dir():
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base)


@contextlib.contextmanager
def _settings() -> Iterator[set[str]]:
    """Sets what Ray reads from the environment, where the user has not, while the block runs; yields the names."""
    new = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield set(new)
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Drops what is written to stderr while Ray starts: its C++ part says there that it was told to be silent."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Lets only errors of Ray's libraries reach the terminal while the block runs.

    What its processes report, such as "(raylet) A worker died …", it prints from a thread of its own, whatever
    `log_to_driver` says. RAY_DEDUP_LOGS=0 in the environment lets it.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data", "ray.tune")]
    levels = [logger.level for logger in loggers]
    handlers = [(handler, handler.level) for logger in loggers for handler in logger.handlers]
    sieves = [(sieve, sieve.skip_re) for sieve in _sieves()]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        for handler, _level in handlers:
            handler.setLevel(logging.CRITICAL)
        for sieve, _skipped in sieves:
            sieve.skip_re = re.compile("")
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for handler, level in handlers:
            handler.setLevel(level)
        for sieve, skipped in sieves:
            sieve.skip_re = skipped


def _sieves() -> list[Any]:
    """Returns what all lines of Ray's processes pass on their way to the terminal; [] where this Ray has no such."""
    try:
        from ray._private import ray_logging
    except ImportError:
        return []
    found = [getattr(ray_logging, name, None) for name in ("stdout_deduplicator", "stderr_deduplicator")]
    return [sieve for sieve in found if hasattr(sieve, "skip_re")]
