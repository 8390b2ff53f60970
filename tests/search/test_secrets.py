"""No password that stands in an address comes back in a message."""

from __future__ import annotations

import pytest

from babelclip.errors import BabelclipError
from babelclip.search.collection import open_collection


@pytest.mark.parametrize("address", ["milvus://anna:s3cret@127.0.0.1:1/x", "milvus://anna:s3c@ret@host/x"])
def test_a_password_in_an_address_of_milvus_is_not_told(address):
    pytest.importorskip("pymilvus")
    with pytest.raises(BabelclipError) as caught:
        open_collection(address)
    assert "s3c" not in str(caught.value)
    assert "MILVUS_TOKEN" in str(caught.value)
