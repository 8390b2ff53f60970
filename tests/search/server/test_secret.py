"""The secret of several replicas: made once, whoever comes first, and read by the others."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from babelclip.errors import BabelclipError
from babelclip.search.server.secret import shared_secret
from babelclip.search.server.tokens import Signer


def test_secret_is_made_once_and_only_this_user_reads_it(tmp_path):
    file = tmp_path / "shared" / "secret"
    made = shared_secret(file)
    assert len(made) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert shared_secret(file) == made
    assert [path.name for path in file.parent.iterdir()] == ["secret"]


def test_replicas_that_start_at_once_find_the_same_secret(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(shared_secret, [tmp_path / "secret"] * 64))
    assert len(found) == 1


def test_what_one_replica_signs_opens_at_another(tmp_path):
    one, other = (Signer(shared_secret(tmp_path / "secret")) for _ in range(2))
    assert other.unseal("cursor", one.seal("cursor", {"version": 7})) == {"version": 7}
    assert Signer(shared_secret(tmp_path / "another")).unseal("cursor", one.seal("cursor", {})) is None


def test_short_secret_is_refused_with_the_cure(tmp_path):
    (tmp_path / "secret").write_text("password\n")
    with pytest.raises(BabelclipError, match=r"8 characters; it must have 32 or more\. Remove the file"):
        shared_secret(tmp_path / "secret")


def test_secret_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BabelclipError, match="cannot be read or made"):
        shared_secret(tmp_path / "file" / "secret")
