"""What docs/ship.md says is run: its commands in their order, then its Python, on tiny models in the same folders."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.test_cli import call
from tests.conftest import draw_shape, make_clip

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ship.md").read_text(encoding="utf-8")
GOLDEN = ROOT / "tests" / "golden"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COPIES = {
    "AltCLIP": "altclip_hub",
    "XLM-Roberta-Large-Vit-L-14": "mclip_xlmr",
    "CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k": "openclip_xlmr",
}


def commands() -> list[str]:
    """Every line of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def modules_of(block: str) -> list[str]:
    """What a block imports, by the names of the packages."""
    return re.findall(r"^(?:from|import) (\w+)", block, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The folders of the page after all of its commands."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("ship")
    make_clip().save(folder / "demo" / "student")
    for name, golden in COPIES.items():
        shutil.copytree(GOLDEN / golden, folder / "copies" / name)
    for name in ("dog.jpg", "bird.jpg"):
        draw_shape("yellow", "square").save(folder / name)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in commands():
            program, *arguments = shlex.split(command)
            assert program == "babelclip", command
            code, out, error = call(*arguments)
            assert code == 0, (command, out, error)
    finally:
        os.chdir(before)
    return folder


def test_every_target_is_shown_and_every_shown_folder_exists(home):
    from babelclip.models.export import TARGETS

    shown = {re.search(r"--to (\S+)", command)[1] for command in commands() if "--to" in command}
    assert shown == TARGETS.keys() - {"diffusers"}  # its model is on nobody's machine
    assert "--preset altdiffusion-m9" in PAGE
    for command in commands():
        assert (home / re.search(r"--out (\S+)", command)[1]).is_dir(), command


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_python_of_the_page_runs(home, number):
    absent = [name for name in modules_of(BLOCKS[number]) if find_spec(name) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} is not installed here")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_running_an_exported_folder_imports_no_torch(home):
    block = next(block for block in BLOCKS if "open_exported" in block)
    code = block + "\nimport sys\nassert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
