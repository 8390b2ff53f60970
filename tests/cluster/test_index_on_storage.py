"""Index jobs whose pictures, collection and folder are in object storage, done by machines that share nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from babelclip.cluster.index import index_on
from babelclip.cluster.job import Means
from babelclip.search.index import index_pictures
from tests.cluster.pictures import make_model, make_pictures
from tests.cluster.rows import all_rows
from tests.storage.conftest import put_folder, s3, s3_server  # noqa: F401

pytest.importorskip("lance")
pytest.importorskip("moto")


def test_ranks_that_share_only_a_bucket_make_the_rows_of_the_plain_index(tmp_path: Path, s3, monkeypatch):  # noqa: F811
    import babelclip

    model = str(make_model(tmp_path / "model"))
    put_folder(make_pictures(tmp_path / "pictures", 24), s3("pictures"))
    plain = index_pictures(babelclip.load(model), [tmp_path / "pictures"], tmp_path / "plain.lance", batch_size=8)
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = []
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / f"machine-{rank}"))
        made.append(
            index_on(
                model, [s3("pictures")], s3("on.lance"), launcher="rank", means=Means(), batch_size=8, shard_rows=8
            )
        )
    assert made[0] is None
    assert made[1] is not None
    assert (made[1].added, made[1].skipped, made[1].groups) == (plain.added, plain.skipped, plain.groups)
    rows, wanted = all_rows(s3("on.lance")), all_rows(tmp_path / "plain.lance")
    differ = ["modified"]  # an object has the time of its upload
    assert rows.drop_columns(differ).equals(wanted.drop_columns(differ))
