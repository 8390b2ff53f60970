"""`--launcher` of embed and translate: what they say, and what they refuse before a model is loaded."""

import pytest

from babelclip.data.captions import Captions, write_captions
from babelclip.store import EmbeddingStore
from tests.cli.test_cli import call
from tests.conftest import draw_shape, make_clip
from tests.data.killed_embed import content

_RANKS = ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "SLURM_NTASKS", "JOB_COMPLETION_INDEX")


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch):
    for name in _RANKS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_clip().save(folder)
    return folder


@pytest.fixture
def captions(tmp_path):
    texts = [f"a dog {row % 9}" for row in range(30)]
    langs = ["de" if row % 10 == 9 else "en" for row in range(30)]
    write_captions(
        Captions.from_columns(text=texts, lang=langs, id=[f"c{row}" for row in range(30)]), tmp_path / "c.jsonl"
    )
    return tmp_path / "c.jsonl"


def test_embed_by_the_local_launcher_says_what_it_says_without_one(tmp_path, model, captions):
    plain = call("embed", captions, "--model", model, "--out", tmp_path / "a", "--shard-rows", 8)
    local = call("embed", captions, "--model", model, "--out", tmp_path / "b", "--shard-rows", 8, "--launcher", "local")
    assert plain[0] == local[0] == 0, local[2]
    assert local[1].replace("/b:", "/a:") == plain[1]
    assert "30 captions added to 0; 9 distinct texts encoded" in local[2]
    assert "warning: tiny was not trained on de, and its vectors of 3 captions may be poor" in local[2]
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_embed_by_ranks_is_finished_by_the_last_and_a_late_one_says_what_there_is(
    tmp_path, model, captions, monkeypatch
):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    command = ("embed", captions, "--model", model, "--out", tmp_path / "s", "--shard-rows", 8, "--launcher", "rank")
    monkeypatch.setenv("SLURM_PROCID", "1")
    code, out, error = call(*command)
    assert (code, out) == (0, "")
    assert "rank 1 of 2: its 2 of 4 shards are done, 2 of other ranks are not" in error
    assert len(EmbeddingStore.open(tmp_path / "s")) == 0
    monkeypatch.setenv("SLURM_PROCID", "0")
    code, out, error = call(*command)
    assert code == 0, error
    assert "30 vectors of 16 dimensions" in out
    code, out, error = call(*command)
    assert code == 0, error
    assert "0 captions added to 30" in error


def test_pictures_by_a_launcher_name_the_bad_ones(tmp_path, model):
    folder = tmp_path / "photos"
    folder.mkdir()
    draw_shape("red", "circle").save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"no picture")
    code, out, error = call("embed", folder, "--model", model, "--out", tmp_path / "s", "--launcher", "local")
    assert code == 0, error
    assert "1 vectors of 16 dimensions" in out
    assert "1 pictures added to 0; 1 skipped" in error
    assert "skipped: " in error
    assert "bad.png" in error


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--launcher", "slurm"), "--launcher slurm is not known. Allowed: local, rank, ray."),
        (("--ray-address", "auto"), "no launcher. An address belongs to Ray"),
        (("--ray-address", "auto", "--launcher", "local"), "--launcher local. An address belongs to Ray"),
        (("--launcher", "rank"), "does not say which rank this is"),
    ],
)
@pytest.mark.parametrize("verb", ["embed", "translate"])
def test_launchers_that_make_no_sense_are_refused(tmp_path, model, captions, verb, given, told):
    own = ("--model", model) if verb == "embed" else ("--to", "de", "--engine", "dictionary")
    code, out, error = call(verb, captions, *own, "--out", tmp_path / "s", *given)
    assert (code, out) == (1, "")
    assert told in " ".join(error.split())
    assert not (tmp_path / "s").exists()


def test_translate_by_ranks_ends_with_the_files_of_one_process(tmp_path, captions, monkeypatch):
    dictionary = tmp_path / "d.jsonl"
    rows = [(f"t{row}", f"a dog {row}", "en", None) for row in range(9)]
    rows += [(f"t{row}-de", f"ein Hund {row}", "de", f"t{row}") for row in range(9)]
    columns = dict(zip(("id", "text", "lang", "source_id"), map(list, zip(*rows, strict=True)), strict=True))
    write_captions(Captions.from_columns(**columns), dictionary)
    options = ("--to", "de", "--engine", "dictionary", "--dictionary", dictionary, "--no-filter", "all", "--rows", 8)
    code, plain, error = call("translate", captions, *options, "--out", tmp_path / "plain")
    assert code == 0, error
    said = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        code, out, error = call("translate", captions, *options, "--out", tmp_path / "ranks", "--launcher", "rank")
        assert code == 0, error
        said.append(out)
    assert said[0] == ""
    assert said[1].replace("/ranks", "/plain") == plain
    files = [
        {str(f.relative_to(tmp_path / name)): f.read_bytes() for f in (tmp_path / name).glob("translations/*/*")}
        for name in ("plain", "ranks")
    ]
    assert files[0] == files[1]
    assert files[0]
