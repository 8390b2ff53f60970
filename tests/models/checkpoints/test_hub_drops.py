"""Downloads from a hub that drops, falls silent or sends damaged bytes, and a process that is killed in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.hub import transfer as hub_transfer
from babelclip.models.checkpoints.hub.repository import open_repository

NAME, FILE = "org/large", "text.safetensors"
CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
ROOT = Path(__file__).parents[3]


def asked(hub) -> list[str]:
    """The Range of each request for the file."""
    return [part for _, path, part in hub.requests if path.endswith(FILE)]


def partial(tmp_path) -> Path:
    (found,) = (tmp_path / "cache").rglob("*.incomplete")
    return found


def test_a_server_that_drops_every_connection_is_asked_until_all_is_there(hub, tmp_path):
    hub.push(NAME, {FILE: CONTENT})
    hub.drops[FILE] = 100_000
    folder = open_repository(NAME).download([FILE])
    assert (folder / FILE).read_bytes() == CONTENT
    assert asked(hub) == ["", *(f"bytes={start}-" for start in range(100_000, 1_024_000, 100_000))]
    assert list((tmp_path / "cache").rglob("*.incomplete")) == []


def test_a_server_that_brings_nothing_more_is_given_up_and_the_next_run_goes_on(hub, tmp_path):
    hub.push(NAME, {FILE: CONTENT})
    # The first connection brings something and breaks; those that follow are answered and bring nothing.
    hub.cut[FILE], hub.drops[FILE] = 300_000, 0
    begun = time.monotonic()
    with pytest.raises(BabelclipError, match=r"not complete in the cache .* 0\.3 of 1\.0 MB are there"):
        open_repository(NAME).download([FILE])
    assert time.monotonic() - begun < 10
    assert partial(tmp_path).stat().st_size == 300_000
    assert asked(hub) == ["", *["bytes=300000-"] * len(hub_transfer.WAITS)]
    hub.drops.clear()
    folder = open_repository(NAME).download([FILE])
    assert (folder / FILE).read_bytes() == CONTENT
    assert asked(hub)[-1] == "bytes=300000-"


def test_silence_in_the_middle_of_a_file_is_a_lost_connection(hub, monkeypatch):
    monkeypatch.setattr(hub_transfer, "STALL", 0.3)
    hub.push(NAME, {FILE: CONTENT})
    hub.silent[FILE] = 400_000
    folder = open_repository(NAME).download([FILE])
    assert (folder / FILE).read_bytes() == CONTENT
    assert asked(hub) == ["", "bytes=400000-", "bytes=800000-"]


def test_bytes_that_were_damaged_on_the_disk_are_not_built_upon(hub, tmp_path):
    hub.push(NAME, {FILE: CONTENT})
    hub.cut[FILE], hub.drops[FILE] = 300_000, 0
    with pytest.raises(BabelclipError):
        open_repository(NAME).download([FILE])
    hub.drops.clear()
    partial(tmp_path).write_bytes(b"\0" * 300_000)
    with pytest.raises(BabelclipError, match=r"damaged on the way\. What came was dropped: run"):
        open_repository(NAME).download([FILE])
    assert not list((tmp_path / "cache").rglob("blobs/*"))
    folder = open_repository(NAME).download([FILE])
    assert (folder / FILE).read_bytes() == CONTENT


def test_a_download_that_is_killed_goes_on_where_it_was(hub, tmp_path):
    hub.push(NAME, {FILE: CONTENT})
    hub.silent[FILE] = 500_000
    code = (
        "from babelclip.models.checkpoints.hub.repository import open_repository; "
        f"open_repository({NAME!r}).download([{FILE!r}])"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    blobs = tmp_path / "cache"
    while sum(file.stat().st_size for file in blobs.rglob("*.incomplete")) < 500_000:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    hub.silent.clear()
    hub.requests.clear()
    folder = open_repository(NAME).download([FILE])
    assert (folder / FILE).read_bytes() == CONTENT
    assert asked(hub) == ["bytes=500000-"]
    assert list(blobs.rglob("*.incomplete")) == []
