"""OpenVINO files of tiny models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from babelclip.models.clip import Clip
from babelclip.models.export import parity
from babelclip.models.export.openvino import export_openvino
from tests.models.export.test_onnx import CLOSE, differences, small_clip


@pytest.fixture(scope="module")
def tiny() -> Clip:
    return small_clip()


@pytest.fixture(scope="module")
def exported(tiny: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_openvino(tiny, tmp_path_factory.mktemp("openvino") / "tiny")


def test_both_towers_equal_the_model_in_any_batch_and_length(tiny: Clip, exported: Path):
    assert max(differences(tiny, exported).values()) < CLOSE


def test_the_folder_holds_openvinos_files_and_no_leftover(exported: Path):
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md", "config.json", "image_encoder.bin", "image_encoder.xml",
        "text_encoder.bin", "text_encoder.xml", "tokenizer.json",
    ]  # fmt: skip


@pytest.mark.parametrize(("dtype", "share"), [("float16", 0.55), ("int8", 0.45)])
def test_compressed_weights_are_smaller_and_keep_the_direction(
    tiny: Clip, exported: Path, tmp_path: Path, dtype: str, share: float
):
    folder = export_openvino(tiny, tmp_path / dtype, dtype=dtype, towers="text")
    sizes = [(place / "text_encoder.bin").stat().st_size for place in (folder, exported)]
    assert sizes[0] < share * sizes[1]
    (compared,) = parity.check(tiny, folder, to="openvino", dtype=dtype)
    assert compared.passed
    assert compared.min_cosine > 0.99


SIGNALLED = """
import os, signal, sys, threading
from pathlib import Path
from babelclip.models.export.runtime import open_exported

box = [open_exported(Path(sys.argv[1]))]
freeing = threading.Thread(target=box.clear)
freeing.start()
freeing.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_the_model_was_freed_elsewhere_is_handled(exported: Path):
    done = subprocess.run([sys.executable, "-c", SIGNALLED, str(exported)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr
