"""The arrows of the product with s3:// at both ends (moto), by the API and by the command line."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import babelclip
from babelclip import storage
from babelclip.data.embed import embed_file
from babelclip.data.embed_images import embed_pictures
from babelclip.data.sources import read_all
from babelclip.errors import BabelclipError
from babelclip.models.preprocess import PictureError, open_picture
from babelclip.store import EmbeddingStore
from tests.conftest import make_clip
from tests.storage.conftest import babelclip as command
from tests.storage.conftest import files, objects, put_folder

TEXTS = ["a red circle", "två röd hundar", "a blue square", "katt", "狗 猫", "a green star", "dog", "красный"]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return make_clip().save(tmp_path_factory.mktemp("model") / "tiny")


def captions_table(rows=40):
    return pa.table(
        {
            "id": [f"c{row}" for row in range(rows)],
            "text": [f"{TEXTS[row % 8]} {row}" for row in range(rows)],
            "lang": ["sv" if row % 2 else "en" for row in range(rows)],
        }
    )


def put_folder_of(file: Path, url: str) -> None:
    storage.upload(file, f"{url}/{file.name}")


def put_captions(folder: Path, table=None) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(captions_table() if table is None else table, folder / "captions.parquet")
    return folder / "captions.parquet"


# -- captions ----------------------------------------------------------------------------------------------------


def test_every_form_of_captions_reads_from_s3_as_from_disk(s3, tmp_path):
    table = captions_table()
    put_captions(tmp_path / "parquet")
    (tmp_path / "parts").mkdir()
    for part in range(2):
        pq.write_table(table.slice(part * 20, 20), tmp_path / "parts" / f"{part:05d}.parquet")
    (tmp_path / "text").mkdir()
    rows = table.to_pylist()
    (tmp_path / "text" / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text" / "c.csv").write_text("id,text,lang\n" + "".join(f"{r['id']},{r['text']},en\n" for r in rows))
    (tmp_path / "text" / "train.sv").write_text("hund\nkatt\n")
    (tmp_path / "text" / "train.en").write_text("dog\ncat\n")
    put_folder(tmp_path, s3("data"))
    for name in ("parquet/captions.parquet", "parquet", "parts", "text/c.jsonl", "text/c.csv", "text/train.sv"):
        assert read_all(s3(f"data/{name}")).table.equals(read_all(tmp_path / name).table), name
    pair = "moses:{0}/text/train.en,{0}/text/train.sv"
    assert read_all(pair.format(s3("data"))).table.equals(read_all(pair.format(tmp_path)).table)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def shapes(picture_folder):
    """Pictures with a text beside each, and a tar of the same."""
    (picture_folder / "broken.jpg").unlink()
    pictures = [p for p in sorted(picture_folder.rglob("*.png")) if p.name.startswith("red")]
    for picture in set(picture_folder.rglob("*.png")) - set(pictures):
        picture.unlink()
    members = {}
    for picture in pictures:
        picture.with_suffix(".txt").write_text(f"a {picture.stem.replace('-', ' ')}")
        members |= {f"t-{picture.name}": picture.read_bytes(), f"t-{picture.stem}.txt": b"in a tar"}
    (picture_folder / "tars").mkdir()
    write_tar(picture_folder / "tars" / "00000.tar", members)
    return picture_folder


def test_pictures_with_texts_and_tars_give_the_same_captions_and_vectors(s3, shapes, tmp_path):
    put_folder(shapes, s3("shapes"))
    assert read_all(s3("shapes"), lang="en").table.equals(read_all(shapes, lang="en").table)
    assert read_all(s3("shapes/tars"), lang="en").table.equals(read_all(shapes / "tars", lang="en").table)
    clip = make_clip()
    shutil.rmtree(tmp_path / "cache")
    for name in ("", "/tars"):
        out = tmp_path / f"local{name.replace('/', '-')}"
        near, far = f"{shapes}{name}", f"{s3('shapes')}{name}"
        local = embed_pictures(clip, near, out, **({"lang": "en"} if name else {}))
        remote = embed_pictures(clip, far, s3(f"out{name}"), **({"lang": "en"} if name else {}))
        assert remote.ids == local.ids
        np.testing.assert_array_equal(remote.read(), local.read())
    # The loose pictures were read and not kept: only the tar takes room.
    kept = [p for p in (tmp_path / "cache").rglob("*.png") if p.stat().st_mode & 0o777]
    assert kept == []


def test_a_picture_is_opened_by_its_address(s3, shapes):
    put_folder(shapes, s3("shapes"))
    expected = np.asarray(open_picture(shapes / "red-circle.png"))
    np.testing.assert_array_equal(np.asarray(open_picture(s3("shapes/red-circle.png"))), expected)
    np.testing.assert_array_equal(
        np.asarray(open_picture(f"{s3('shapes/tars/00000.tar')}::t-red-circle.png")), expected
    )
    with pytest.raises(PictureError, match=r"shapes/none\.png does not exist"):
        open_picture(s3("shapes/none.png"))


# -- vectors -----------------------------------------------------------------------------------------------------


def test_captions_on_s3_become_a_store_on_s3_that_equals_the_local_one_to_the_byte(s3, model, tmp_path):
    captions = put_captions(tmp_path / "data")
    put_folder(tmp_path / "data", s3("data"))
    clip = babelclip.load(model)
    embed_file(clip, captions, tmp_path / "targets", shard_rows=16)
    embed_file(clip, s3("data/captions.parquet"), s3("by-api"), shard_rows=16)
    assert objects(s3("by-api")) == files(tmp_path / "targets")
    put_folder(model, s3("models/tiny"))
    arguments = ("embed", s3("data/captions.parquet"), "--model", s3("models/tiny"), "--shard-rows", 16)
    done = command(*arguments, "--out", s3("by-command"))
    assert done.returncode == 0, done.stderr
    assert objects(s3("by-command")) == files(tmp_path / "targets")
    assert "by-command: 40 vectors" in done.stdout
    assert len(EmbeddingStore.open(s3("by-command"))) == 40


# -- models ------------------------------------------------------------------------------------------------------


def test_a_model_is_saved_to_s3_and_loaded_from_there_and_one_tower_fetches_one(s3, model, tmp_path, monkeypatch):
    clip = babelclip.load(model)
    clip.save(s3("models/tiny"))
    assert objects(s3("models/tiny")) == files(model)
    texts = babelclip.load(s3("models/tiny"), towers="text")
    np.testing.assert_array_equal(texts.encode_text(TEXTS), clip.encode_text(TEXTS))
    waiting = [
        path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and not path.stat().st_mode & 0o777
    ]
    assert len(waiting) == 1  # the weights of the other tower
    with pytest.raises(BabelclipError, match=r"models/tony does not exist.*Did you mean s3://.*models/tiny\?"):
        babelclip.load(s3("models/tony"))


# -- training ----------------------------------------------------------------------------------------------------


def test_a_student_is_taught_from_s3_to_s3_and_goes_on_from_a_checkpoint_there(s3, model, tmp_path, monkeypatch):
    captions = put_captions(tmp_path / "data")
    put_folder(tmp_path / "data", s3("data"))
    embed_file(babelclip.load(model), captions, s3("targets"))
    make_clip(seed=7).save(s3("student"))
    recipe = (
        f'[train]\nkind = "distill"\nsteps = 4\nbatch_size = 8\nlr = 5e-3\nsave_every = 2\ndevice = "cpu"\n'
        f'[student]\nmodel = "{s3("student")}"\n[teacher]\ntargets = "{s3("targets")}"\n'
        f'[data]\ncaptions = ["{s3("data/captions.parquet")}"]\n'
    )
    storage.write_bytes(s3("recipe.toml"), recipe.encode())
    done = command("train", s3("recipe.toml"), "--out", s3("run"), "--set", "train.steps=2")
    assert done.returncode == 0, done.stderr
    there = storage.list_files(s3("run"))
    assert {"log.jsonl", "model/config.json"} <= {entry.name for entry in there}
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "another machine"))
    done = command("train", s3("recipe.toml"), "--out", s3("run"), "--resume")
    assert done.returncode == 0, done.stderr
    assert "finished at step 4" in done.stdout
    assert babelclip.load(s3("run/model")).space == "test/tiny"


def test_folders_of_classes_and_captions_with_pictures_are_found_on_s3(s3, picture_folder):
    from babelclip.train.class_inputs import read_class_folder
    from babelclip.train.pair_sources import open_pairs

    for number, picture in enumerate(sorted(picture_folder.rglob("*.png"))):
        put_folder_of(picture, s3(f"classes/{'ab'[number % 2]}"))
    pictures = read_class_folder(s3("classes"))
    assert len(pictures.labels) == 12
    table = pa.table({"text": ["a red circle"], "lang": ["en"], "image": ["a/blue-circle.png"]})
    put_captions(picture_folder / "captions", table)
    put_folder_of(picture_folder / "captions" / "captions.parquet", s3("classes"))
    _, paths = open_pairs([s3("classes/captions.parquet")], "data.captions", "")
    assert open_picture(paths["a/blue-circle.png"]).size == (40, 40)


# -- collections -------------------------------------------------------------------------------------------------


def test_pictures_on_s3_become_a_collection_on_s3_that_is_searched(s3, shapes, model):
    from babelclip.search.collection import open_collection
    from babelclip.search.index import index_pictures

    pytest.importorskip("lancedb")
    put_folder(shapes, s3("shapes"))
    clip = babelclip.load(model)
    report = index_pictures(clip, [s3("shapes")], s3("shapes.lance"))
    assert (report.added, report.skipped) == (6, 0)
    collection = open_collection(s3("shapes.lance"))
    assert dict(collection.roots) == {"shapes": s3("shapes")}
    again = index_pictures(clip, [s3("shapes")], s3("shapes.lance"))
    assert (again.added, again.updated, again.told, again.unchanged, again.gone) == (0, 0, 0, 6, 0)
    done = command("search", s3("shapes.lance"), "a red circle", "--model", model, "--json", "-k", 3, "--duplicates")
    assert done.returncode == 0, done.stderr
    hits = json.loads(done.stdout)[0]["hits"]
    assert len(hits) == 3
    assert all(hit["path"].startswith(f"{s3('shapes')}/") for hit in hits)
    like = command("search", s3("shapes.lance"), "--like", s3("shapes/red-circle.png"), "--model", model, "-k", 1)
    assert like.returncode == 0, like.stderr
    assert "red-circle.png" in like.stdout


# -- results -----------------------------------------------------------------------------------------------------


def test_results_exports_and_merges_are_written_to_s3(s3, shapes, model, tmp_path):
    captions = pa.table(
        {
            "text": ["a red circle", "a red square"],
            "lang": ["en", "en"],
            "image": ["red-circle.png", "red-square.png"],
        }
    )
    pq.write_table(captions, shapes / "captions.parquet")
    put_folder(shapes, s3("shapes"))
    done = command(
        "evaluate", model, "--dataset", f"captions={s3('shapes/captions.parquet')},name=two", "--out", s3("results")
    )
    assert done.returncode == 0, done.stderr
    (name,) = objects(s3("results"))
    assert json.loads(objects(s3("results"))[name])
    done = command("report", s3("results"), "--markdown", s3("table.md"))
    assert done.returncode == 0, done.stderr
    assert b"two" in storage.read_bytes(s3("table.md"))


# -- what goes wrong ---------------------------------------------------------------------------------------------


def test_wrong_names_keys_and_endpoints_are_told_in_one_line(s3, model, monkeypatch):
    storage.write_bytes(s3("data/captions.jsonl"), b"{}")
    arguments = ("--model", model, "--out", s3("out"))
    wrong = command("embed", s3("data/caption.jsonl"), *arguments)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1), wrong.stderr
    assert f"Did you mean {s3('data/captions.jsonl')}?" in wrong.stderr
    wrong = command("embed", "s3://no-such-bucket/c.jsonl", *arguments)
    assert "bucket 'no-such-bucket' does not exist" in wrong.stderr
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    wrong = command("search", s3("x.lance"), "a dog", "--model", model)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1), wrong.stderr
    assert "cannot be reached at http://127.0.0.1:9" in wrong.stderr
