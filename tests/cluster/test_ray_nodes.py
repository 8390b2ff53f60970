"""2,000 pictures on Ray: a node, or the driver, is killed, and the result is that of one undisturbed process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.on_ray import RAY_ENVIRONMENT, SHARD
from tests.cluster.pictures import digests, make_model, make_pictures
from tests.cluster.rows import all_rows

pytestmark = pytest.mark.cluster
pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("BABELCLIP_PICTURES", "2000"))
BROKEN = len(range(7, COUNT, 50))


def on_ray(folder: Path, what: str, out: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.cluster.on_ray", str(folder), what, str(out), how]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **RAY_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`pictures/`, `model/`, and what one process makes of them: `store/`, `plain.lance/`."""
    import babelclip
    from babelclip.data.embed_images import embed_pictures
    from babelclip.search.index import index_pictures

    folder = tmp_path_factory.mktemp("job")
    make_pictures(folder / "pictures", COUNT)
    clip = babelclip.load(make_model(folder / "model"))
    embed_pictures(clip, folder / "pictures", folder / "store", shard_rows=SHARD)
    index_pictures(clip, [folder / "pictures"], folder / "plain.lance")
    return folder


def check(folder: Path, what: str, out: Path) -> None:
    if what == "embed":
        assert digests(out) == digests(folder / "store")
    else:
        rows = all_rows(out)
        assert len(rows) == COUNT - BROKEN
        assert rows.equals(all_rows(folder / "plain.lance"))
        assert not (out / ".babelclip" / "job" / "plan.json").exists()


@pytest.mark.parametrize("what", ["embed", "index"])
def test_node_that_is_killed_in_the_middle_of_a_shard_changes_no_byte(folder, tmp_path, what):
    found = told(on_ray(folder, what, tmp_path / "out.lance", "node"))
    assert found["nodes"] == 2
    assert found["killed"]
    assert found["begun"] > found["shards"] >= COUNT // SHARD
    check(folder, what, tmp_path / "out.lance")


@pytest.mark.parametrize("what", ["embed", "index"])
def test_driver_that_is_killed_between_fragments_and_commit_goes_on_with_what_is_there(folder, tmp_path, what):
    out = tmp_path / "out.lance"
    assert on_ray(folder, what, out, "driver").returncode == -signal.SIGKILL
    lines = (tmp_path / "out.lance.log").read_text().splitlines()
    before = [line.split()[1] for line in lines if line.startswith("finished")]
    assert len(before) >= 8
    found = told(on_ray(folder, what, out, "whole"))
    after = (tmp_path / "out.lance.log").read_text().splitlines()[len(lines) :]
    again = {line.split()[1] for line in after if line.startswith("begun")}
    assert not again & set(before), "finished shards were done again"
    assert found["shards"] >= COUNT // SHARD
    check(folder, what, out)


def test_nothing_is_left_in_tmp(folder, tmp_path):
    before = {path.name for path in Path("/tmp").glob("bc-ray-*")}
    told(on_ray(folder, "embed", tmp_path / "out", "whole"))
    assert {path.name for path in Path("/tmp").glob("bc-ray-*")} <= before
