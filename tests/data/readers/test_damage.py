"""Damaged files of every format end in an error of babelclip or in counted rows, never in anything else."""

from __future__ import annotations

import gzip
import random

import pytest

from babelclip.data.sources import open_captions
from babelclip.errors import BabelclipError
from tests.data.layouts import write_tar
from tests.data.readers.test_mclip import save
from tests.data.readers.test_tmx import tmx, unit
from tests.data.readers.test_webdataset import SAMPLES


def source(path):
    """Writes a whole file of the kind that the name tells."""
    if ".tmx" in path.name:
        content = tmx(unit(("en", "a <hi>big</hi> dog"), ("sv", "hund")) * 20).encode()
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
        return path
    if ".tar" in path.name:
        return write_tar(path, SAMPLES, "w:gz" if path.suffix == ".gz" else "w")
    return save(path)


def damaged(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return content[: chance.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(chance.choice((1, 3, 20))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("name", ["c.tmx", "c.tmx.gz", "c.tar", "c.tar.gz", "c.parquet", "c.jsonl", "c.feather"])
def test_damage_is_counted_or_named(tmp_path, name):
    chance = random.Random(name)
    content = source(tmp_path / name).read_bytes()
    outcomes, messages = [], []
    for _ in range(30):
        (tmp_path / name).write_bytes(damaged(content, chance))
        try:
            outcomes.append(sum(len(part) for part in open_captions(tmp_path / name, lang="en", rows=3)))
        except BabelclipError as error:
            outcomes.append(-1)
            messages.append(str(error))
    assert [message for message in messages if name not in message] == []
    assert min(outcomes) < 0 or max(outcomes) > min(outcomes)  # the damage was felt
