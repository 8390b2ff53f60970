"""What lies in the folder of `babelclip translate`: manifest, sources, shards, what was rejected, and the lock.

    manifest.json                   what was asked for; the source; once all is done, every shard with its SHA-256
    sources/00000.parquet           the captions in blocks, as they were read: a resumed run does not need the input
    translations/sv/00000.parquet   what was kept of a block: id "<source id>-sv", source_id, lang, image, label
    rejected/sv/00000.jsonl         what was not, with reason and value; neither file is there without a row
    shards/sv/00000.json            counts, sizes and SHA-256 of the two: written last, so a shard with it is finished
    report.json, report.md          counts by language and reason, models, samples
    timings.jsonl                   one line for each shard when it is finished: what differs from run to run
    .lock                           held by the one process that writes

All but the last two are the same bytes for the same input, options and engine, however often a run was interrupted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from babelclip import storage
from babelclip.errors import BabelclipError
from babelclip.files import read_json, sha256, write_json
from babelclip.store.layout import LOCK, lock_folder

FORMAT = "babelclip-translation"
VERSION = 1
MANIFEST = "manifest.json"
TIMINGS = "timings.jsonl"

_OWN = {"sources", "translations", "rejected", "shards", "report.json", "report.md", TIMINGS, MANIFEST, LOCK}
_LEFT_OVER = re.compile(r"\..+\.part")
_ENDS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Shard:
    """What became of the captions of one block that go into one language.

    Attributes:
        lang: BCP-47.
        block: number of the block.
        planned: captions that the plan gave it.
        kept: of these, with a translation that was kept.
        rejected: number of the others, by reason.
        distinct: different texts that were translated.
        engine: name of the engine; "" for untranslated copies.
        model: what the engine says it translated with.
        files: size in bytes and SHA-256 of `translations` and `rejected`, of those that have a row.
        samples: a few kept and, for each reason, rejected pairs of texts.
    """

    lang: str
    block: int
    planned: int
    kept: int
    rejected: dict[str, int]
    distinct: int
    engine: str
    model: str
    files: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]]


def source_file(out: Path, block: int) -> Path:
    """Returns where a block of the source captions lies."""
    return out / "sources" / f"{block:05d}.parquet"


def translations_file(out: Path, lang: str, block: int) -> Path:
    """Returns where the kept translations of a block lie."""
    return out / "translations" / lang / f"{block:05d}.parquet"


def rejected_file(out: Path, lang: str, block: int) -> Path:
    """Returns where the rejected translations of a block lie."""
    return out / "rejected" / lang / f"{block:05d}.jsonl"


def shard_file(out: Path, lang: str, block: int) -> Path:
    """Returns where the record of a finished shard lies."""
    return out / "shards" / lang / f"{block:05d}.json"


def write_shard(out: Path, shard: Shard) -> None:
    """Writes the record that makes a shard finished; its files are there already."""
    write_json(shard_file(out, shard.lang, shard.block), dataclasses.asdict(shard))


def read_shard(out: Path, lang: str, block: int) -> Shard | None:
    """Returns the record of a finished shard; None where it is not finished or a file has another size."""
    path = shard_file(out, lang, block)
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        shard = Shard(**content)
        paths = {"translations": translations_file(out, lang, block), "rejected": rejected_file(out, lang, block)}
        whole = all(paths[name].stat().st_size == facts["bytes"] for name, facts in shard.files.items())
    except (TypeError, KeyError) as error:
        raise BabelclipError(
            f"{path} is damaged ({error}). It must be as babelclip translate wrote it: remove it, and the same command "
            "makes this shard again."
        ) from error
    except FileNotFoundError:
        return None
    return shard if whole else None


def describe_files(out: Path, lang: str, block: int) -> dict[str, dict[str, Any]]:
    """Returns size and SHA-256 of the files of a shard as they lie on disk."""
    paths = {"translations": translations_file(out, lang, block), "rejected": rejected_file(out, lang, block)}
    return {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in paths.items() if path.is_file()
    }


def add_timing(out: Path, timing: Mapping[str, Any]) -> None:
    """Appends one line to the timings, on a line of its own where a kill cut the last one off."""
    with (out / TIMINGS).open("ab+") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        begun = file.read() not in (b"", b"\n")
        file.write((b"\n" if begun else b"") + json.dumps(timing).encode() + b"\n")


def read_timings(out: Path) -> list[dict[str, Any]]:
    """Returns the lines of the timings; one that a kill cut off is left out."""
    if not (out / TIMINGS).is_file():
        return []
    found = []
    for line in (out / TIMINGS).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return found


# -- the folder as a whole -------------------------------------------------------------------------------------------


def check_folder(out: Path) -> None:
    """Does nothing where `out` is new, empty or a translate folder.

    Raises:
        BabelclipError: it is a file, or holds other things.
    """
    if out.exists() and not out.is_dir():
        raise _foreign(out, "is a file")
    check_names(out, [item.name for item in out.iterdir()] if out.is_dir() else [])


def check_names(out: Path | str, names: Collection[str]) -> None:
    """Does nothing where `names` are what lies in a translate folder, or in one that is begun; see `check_folder`."""
    others = sorted(name for name in names if not _is_own(name))
    if others and MANIFEST not in names:
        raise _foreign(out, f"holds {', '.join(others[:3])}")


def _foreign(out: Path | str, what: str) -> BabelclipError:
    return BabelclipError(
        f"{out} {what} and no translations of babelclip. A new folder, an empty one, or one that babelclip translate "
        "began is needed: choose another."
    )


def lock(out: Path) -> Callable[[], None]:
    """Takes the folder for this process, and removes what a killed one left half written; returns what gives it back.

    Raises:
        BabelclipError: another process is writing there.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        release = lock_folder(out)
    except BabelclipError as error:
        holder = (out / LOCK).read_text(encoding="utf-8").strip() or "unknown"
        raise BabelclipError(
            f"{out} is being written by process {holder}. One process at a time may translate into a folder: wait for "
            "it, stop it, or choose another folder; for more speed give one process more workers."
        ) from error
    for name in (".", "sources", "translations/*", "rejected/*", "shards/*"):
        for file in out.glob(f"{name}/.*.part"):
            if _LEFT_OVER.fullmatch(file.name):
                file.unlink()
    return release


def read_manifest(out: Path) -> dict[str, Any] | None:
    """Returns the manifest, None where there is none yet.

    Raises:
        BabelclipError: it is damaged, of another kind or of a newer version.
    """
    path = out / MANIFEST
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BabelclipError(
            f"{path} is not the manifest of a translation: its format must be {FORMAT!r}. Choose another folder."
        )
    if content.get("version") != VERSION:
        raise BabelclipError(
            f"{out} is a translation of version {content.get('version')!r}, and this babelclip writes version "
            f"{VERSION}: install the babelclip that began it, or choose another folder."
        )
    return content


def write_manifest(out: Path, content: Mapping[str, Any]) -> None:
    """Replaces the manifest in one step."""
    write_json(out / MANIFEST, {"format": FORMAT, "version": VERSION, **content})


def check_same(
    out: Path | str, manifest: Mapping[str, Any], options: Mapping[str, Any], source: Mapping[str, Any]
) -> None:
    """Does nothing where a run asks for what the folder was begun with.

    A source that is gone is no difference once all of it lies in the folder, and neither is one that moved.

    Raises:
        BabelclipError: something differs; names every difference.
    """
    differing = differences(manifest["options"], options)
    facts = manifest["source"]
    gone = source["facts"] is None and manifest["sources"] is not None and facts["name"] == source["name"]
    moved = facts["facts"] is not None and facts["facts"] == source["facts"]
    if not gone and not moved and facts != source:
        differing.append(_other_source(facts, source))
    if differing:
        raise BabelclipError(
            f"{out} was begun otherwise: {'; '.join(differing)}. A folder holds one translation, and goes on only as "
            "it began: ask for the same again, or choose another folder."
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what differs between two sets of options, a few words for each: "rows was 64, and is 128"."""
    before, now = _flat(before), _flat(now)
    return [
        f"{name} was {_told(before.get(name))}, and is {_told(now.get(name))}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]


def source_facts(source: str | Path) -> dict[str, Any]:
    """Returns what tells a source from another: its name, and of files their number, size and a hash.

    The hash is of the size and both ends of a file, of the names and sizes in a folder: a large source costs no time.
    Of a file in object storage it is of the size and the address: its content may not have been fetched.
    """
    words = str(source)
    told = storage.address(words)
    name, colon, rest = words.partition(":")
    given = [words] if Path(words).exists() or not colon else rest.split(",")
    paths = [Path(one) for one in given]
    if not all(path.exists() for path in paths):
        return {"name": told, "facts": None}
    digest, total, count = hashlib.sha256(name.encode() if len(paths) > 1 else b""), 0, 0
    for path in paths:
        files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
        for file in files:
            size = file.stat().st_size
            inside = "" if file == path else file.relative_to(path).as_posix()
            digest.update(f"{inside}\0{size}\0".encode())
            if file == path:
                url = storage.address(file)
                digest.update(url.encode() if storage.is_url(url) else _ends(file, size))
            total, count = total + size, count + 1
    return {"name": told, "facts": {"files": count, "bytes": total, "sha256": digest.hexdigest()}}


def _ends(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        first = file.read(_ENDS)
        file.seek(max(0, size - _ENDS))
        return first + file.read(_ENDS)


def _other_source(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before["name"] != now["name"]:
        return f"the source was {before['name']}, and is {now['name']}"
    sizes = [facts["facts"]["bytes"] if facts["facts"] else None for facts in (before, now)]
    if None in sizes:
        return f"the source {now['name']} is gone before all of it was read"
    changed = f"{sizes[0]:,} bytes, and has {sizes[1]:,}" if sizes[0] != sizes[1] else "another content"
    return f"the source {now['name']} had {changed}"


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested options as one level, "engines.sv.model"."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _told(value: Any) -> str:
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else repr(value)


def _is_own(name: str) -> bool:
    return name in _OWN or bool(_LEFT_OVER.fullmatch(name))
