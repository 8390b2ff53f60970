"""Keys that a storage does not know, buckets that are not there, storages that do not answer: one error each."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from babelclip import storage
from babelclip.cluster.embed import embed_on
from babelclip.cluster.job import Means
from babelclip.cluster.translate import translate_on
from babelclip.data.captions import Captions, write_captions
from babelclip.errors import BabelclipError
from babelclip.storage.filesystem import opened
from tests.conftest import make_clip
from tests.storage.conftest import babelclip as command
from tests.translate.fake import FAKE

VERBS = ("embed", "embed to", "embed by ranks", "index", "index by ranks", "translate", "translate by ranks", "train",
         "search", "store", "model")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip().save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def words(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[object]]:
    """The command line of each verb that has one end in a bucket."""
    write_captions(Captions.from_columns(text=["a dog", "a cat"], lang="en", id=["a", "b"]), tmp_path / "c.jsonl")
    (tmp_path / "photos").mkdir()
    (tmp_path / "r.toml").write_text('[train]\nkind = "distill"\n')
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    captions, ranks = tmp_path / "c.jsonl", ("--launcher", "rank")

    def of(verb: str, url: str) -> list[object]:
        embed = ("embed", captions, "--model", model, "--out", f"{url}/targets")
        index = ("index", tmp_path / "photos", "--model", model, "--out", f"{url}/photos.lance")
        translate = ("translate", captions, "--to", "sv", "--engine", "dictionary", "--out", f"{url}/translated")
        translate = (*translate, "--dictionary", captions)
        return list(
            {
                "embed": ("embed", f"{url}/c.jsonl", "--model", model, "--out", tmp_path / "targets"),
                "embed to": embed,
                "embed by ranks": (*embed, *ranks),
                "index": index,
                "index by ranks": (*index, *ranks),
                "translate": translate,
                "translate by ranks": (*translate, *ranks),
                "train": ("train", tmp_path / "r.toml", "--out", f"{url}/run"),
                "search": ("search", f"{url}/photos.lance", "a dog", "--model", model),
                "store": ("store", "info", f"{url}/targets"),
                "model": ("embed", captions, "--model", f"{url}/model", "--out", tmp_path / "targets"),
            }[verb]
        )

    return of


def refused(line: list[object], *told: str) -> None:
    """Runs a command and compares what it says: one line, with the address, what is wrong, and what to do."""
    began = time.monotonic()
    done = command(*line)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for part in told:
        assert part in done.stderr
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("verb", VERBS)
def test_bucket_that_is_not_there(words, s3, verb):
    refused(
        words(verb, "s3://no-such-bucket"),
        "bucket 'no-such-bucket' does not exist, or not for these credentials. ",
        "Objects are kept in a bucket that is there: ",
        "check its name, AWS_ENDPOINT_URL and AWS_REGION, or make it first.",
    )


@pytest.mark.parametrize("verb", VERBS)
def test_storage_that_does_not_answer(words, s3, monkeypatch, verb):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    refused(
        words(verb, s3("")[:-1]),
        "cannot be reached at http://127.0.0.1:9",
        "Check that the storage runs and that AWS_ENDPOINT_URL names it",
    )


@pytest.fixture
def strict(s3_server: str, s3: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The storage asks for keys that it knows; none of ours is."""
    storage.write_bytes(s3("c.jsonl"), b"{}")

    def ask(after: str) -> None:
        url, kind = f"{s3_server}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, after.encode(), kind), timeout=10).close()

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong-key")
    ask("0")
    yield
    ask("inf")


@pytest.mark.parametrize("verb", VERBS)
def test_keys_that_the_storage_does_not_know(words, strict, s3, s3_server, verb):
    refused(
        words(verb, s3("")[:-1]),
        f"was refused by {s3_server} for the key wron…. ",
        "The key must exist and be allowed to read, list and, for results, write there: ",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    )


def test_the_api_raises_the_same(words, strict, s3, tmp_path, model):
    words("embed", "")
    with pytest.raises(BabelclipError, match="was refused by"):
        embed_on("local", tmp_path / "c.jsonl", s3("targets"), model=str(model), means=Means())
    with pytest.raises(BabelclipError, match="was refused by"):
        translate_on("local", tmp_path / "c.jsonl", s3("out"), means=Means(), to=["sv"], engine=FAKE)
    with pytest.raises(BabelclipError, match="was refused by"):
        storage.list_files(s3("targets"))


def test_secrets_in_addresses_are_refused_and_not_told(monkeypatch):
    with pytest.raises(BabelclipError, match="before its bucket") as refused:
        opened("s3://AKIAKEY:verysecret@bucket/name")
    assert "verysecret" not in str(refused.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://someone:verysecret@127.0.0.1:9")
    with pytest.raises(BabelclipError) as unreachable:
        opened("s3://bucket-of-nobody/name")
    assert "verysecret" not in str(unreachable.value)
