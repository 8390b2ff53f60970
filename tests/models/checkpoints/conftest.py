"""A hub on this machine that babelclip takes for the real one."""

from __future__ import annotations

import pytest

from babelclip.models.checkpoints.hub import transfer as hub_transfer
from tests.models.checkpoints.local_hub import LocalHub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    server = LocalHub()
    # The suite runs with HF_HUB_OFFLINE=1, which huggingface_hub reads when it is imported.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "babelclip"))
    monkeypatch.setattr(hub_transfer, "WAITS", (0.01, 0.01, 0.01))
    close_session()
    yield server
    close_session()
    server.close()
