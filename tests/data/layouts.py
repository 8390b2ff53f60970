"""Miniature layouts of other tools, made as those tools make them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from babelclip.data.sources import open_captions


def rows_of(source, **options):
    """Returns (rows without nulls, what was left out by reason) of a source."""
    rows, skipped = [], {}
    for part in open_captions(source, **options):
        rows += [{k: v for k, v in row.items() if v is not None} for row in part.table.to_pylist()]
        for reason, count in part.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return rows, skipped


def ids_of(source, **options):
    return [row["id"] for row in rows_of(source, **options)[0]]


def jpeg() -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(packed, "JPEG")
    return packed.getvalue()


def write_tar(path: Path, members, mode: str = "w") -> Path:
    """Writes (name, bytes) as files; (name, type, target) as something else."""
    with tarfile.open(path, mode) as archive:
        for name, *content in members:
            info = tarfile.TarInfo(name)
            if len(content) == 2:
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content[0])
                archive.addfile(info, io.BytesIO(content[0]))
    return path


def img2dataset(folder: Path, *, into: str, shards=(("000000000", "000000001"), ("000010000",))) -> Path:
    """Writes what `img2dataset --output_format webdataset|files` leaves; the last row of each shard failed."""
    folder.mkdir()
    for number, keys in enumerate(shards):
        name = f"{number:05d}"
        rows = [
            {"url": f"http://x/{key}", "caption": f"caption {key}", "key": key, "status": "success", "width": 4}
            for key in keys
        ]
        failed = {"status": "failed_to_download", "error_message": "404", "key": f"{number}9999", "caption": "gone"}
        pq.write_table(
            pa.Table.from_pylist([{"error_message": None, **row} for row in [*rows, failed]]),
            folder / f"{name}.parquet",
        )
        (folder / f"{name}_stats.json").write_text(json.dumps({"count": len(rows) + 1}))
        members = []
        for row in rows:
            facts = json.dumps(row).encode()
            for suffix, content in (("jpg", jpeg()), ("json", facts), ("txt", row["caption"].encode())):
                members.append((f"{row['key']}.{suffix}", content))
        if into == "webdataset":
            write_tar(folder / f"{name}.tar", members)
        else:
            (folder / name).mkdir()
            for member, content in members:
                (folder / name / member).write_bytes(content)
    return folder


def clip_retrieval(folder: Path, parts=(("a", "b"), ("c",)), vectors=(0, 1)) -> Path:
    """Writes clip-retrieval's metadata beside (empty) vectors."""
    (folder / "metadata").mkdir(parents=True)
    (folder / "img_emb").mkdir()
    for number, captions in enumerate(parts):
        rows = [
            {"image_path": f"/data/{c}.jpg", "caption": c and f"caption {c}", "key": c, "url": "u"} for c in captions
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata" / f"metadata_{number}.parquet")
    for number in vectors:
        (folder / "img_emb" / f"img_emb_{number}.npy").write_bytes(b"")
    return folder
