"""Disks, memory, cores and the terminal, as the system tells them; sizes in GB of 10^9 bytes."""

from __future__ import annotations

import locale
import os
import shutil
import sys
from pathlib import Path

from babelclip.doctor.finding import Finding, State
from babelclip.files import cache_folder

# The largest models that are often used: 2.3 GB as a file, as much in memory while they are loaded.
_ROOM, _LEAST_ROOM, _MEMORY = 5e9, 0.5e9, 3e9


def look_at_disks(hub_cache: Path | None) -> list[Finding]:
    """Returns what room babelclip's cache, the hub's cache and the working folder have, and whether they take files."""
    places = {"cache": (cache_folder(), "BABELCLIP_CACHE"), "here": (Path.cwd(), "")}
    if hub_cache is not None:
        places["hub cache"] = (hub_cache, "HF_HOME")
    return [_look_at_disk(topic, folder, variable) for topic, (folder, variable) in sorted(places.items())]


def _look_at_disk(topic: str, folder: Path, variable: str) -> Finding:
    place = nearest_existing(folder)
    free = shutil.disk_usage(place).free
    writable = os.path.isdir(place) and os.access(place, os.W_OK)
    facts = {"folder": str(folder), "free": free, "writable": writable}
    other = f"set {variable} to a folder" if variable else "work in a folder"
    found = f"{folder}: {free / 1e9:,.1f} GB free"
    if not writable:
        state: State = "problem" if variable else "note"
        return Finding(topic, state, f"{folder} takes no files", f"{other} that you may write", facts)
    if free < _LEAST_ROOM:
        return Finding(topic, "problem", found, f"make room, or {other} on a larger disk", facts)
    if free < _ROOM:
        return Finding(topic, "note", found, f"the largest models need {_ROOM / 1e9:.0f} GB: {other} with more", facts)
    return Finding(topic, "ok", found, facts=facts)


def nearest_existing(folder: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists."""
    folder = folder.expanduser().absolute()
    # Of os.path: what may not be looked at is not there for us, and `Path.exists` would raise.
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))


def look_at_memory() -> Finding:
    """Returns memory and cores, less what a container takes away."""
    total, free = memory()
    cores, quota = cores_and_quota()
    facts = {"total": total, "free": free, "cores": cores, "quota": quota}
    said = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free" if total else "memory unknown"
    said += f", {cores} core{'s' if cores > 1 else ''}"
    if quota is not None and quota < cores:
        said += f", of which this container may use {quota:g}"
        advice = f"export OMP_NUM_THREADS={max(1, int(quota))}: threads that wait for their share slow each other down"
        return Finding("memory", "note", said, advice, facts)
    if total and free < _MEMORY:
        advice = 'a large text tower needs 2.3 GB in float32: close something, take a smaller model, or dtype="int8"'
        return Finding("memory", "note", said, advice, facts)
    return Finding("memory", "ok", said, facts=facts)


def memory() -> tuple[int, int]:
    """Returns bytes of memory, and those that are free for programs; zeros where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, KeyError, ValueError):
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return 0, 0
        return total, total
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
        limit = _number(Path(folder, "memory.max")) or _number(Path(folder, "memory.limit_in_bytes"))
        used = _number(Path(folder, "memory.current")) or _number(Path(folder, "memory.usage_in_bytes")) or 0
        if limit is not None and limit < total:
            total, free = limit, min(free, max(0, limit - used))
    return total, free


def cores_and_quota() -> tuple[int, float | None]:
    """Returns the cores that this process may run on, and a container's share of processor time in cores, if any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()[:2]
        return cores, int(share) / int(period)
    except (OSError, ValueError):  # no container, or "max"
        return cores, None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def look_at_terminal() -> Finding:
    """Returns whether every script can be printed and read: whether output, files and file names are in UTF-8."""
    # While a test or a notebook catches the output, the stream has no encoding of its own.
    output = getattr(sys.stdout, "encoding", None) or getattr(sys.__stdout__, "encoding", None) or ""
    encodings = {
        "output": output,
        "files": "utf-8" if sys.flags.utf8_mode else locale.getpreferredencoding(False),
        "file names": sys.getfilesystemencoding(),
    }
    wrong = [f"{what} in {name}" for what, name in encodings.items() if not is_utf8(name)]
    if wrong:
        return Finding(
            "terminal",
            "problem",
            f"{', '.join(wrong)}: most of the world's text cannot be printed or read",
            "export PYTHONUTF8=1, or a UTF-8 locale: export LANG=C.UTF-8",
            encodings,
        )
    return Finding("terminal", "ok", "UTF-8", facts=encodings)


def is_utf8(name: str) -> bool:
    """Returns whether a name of an encoding means UTF-8."""
    return name.lower().replace("-", "").replace("_", "") in ("utf8", "utf8sig")
