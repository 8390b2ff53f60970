"""What docs/search.md says is run: its commands in their order, then its Python, on a tiny model in the same places."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelclip.search.collection import open_collection
from tests.cli.test_cli import call
from tests.conftest import COLOURS, EMBED_DIM, draw_shape, make_clip

pytest.importorskip("lancedb")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def commands() -> list[str]:
    """Every line of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def jpeg(colour: str) -> bytes:
    file = io.BytesIO()
    draw_shape(colour, "square", 60).save(file, "JPEG")
    return file.getvalue()


def fill(folder: Path) -> None:
    """The files that the page's commands name."""
    make_clip().save(folder / "demo" / "student")
    (folder / "photos").mkdir()
    for number, colour in enumerate(COLOURS):
        for shape in ("circle", "square", "triangle"):
            draw_shape(colour, shape, 40 + number).save(folder / "photos" / f"{colour}-{shape}.png")
    (folder / "photos" / "red-circle.txt").write_text("a red circle\n")
    (folder / "dog.jpg").write_bytes(jpeg("yellow"))
    (folder / "captions.csv").write_text("image,text,licence\nblue-square.png,a blue square,cc0\n")
    (folder / "translations.csv").write_text(
        "id,text,lang,source_id\n1,a red circle,en,\n2,en röd cirkel,sv,1\n3,ein roter Kreis,de,1\n", encoding="utf-8"
    )
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "00000.tar", "w") as tar:
        for key, colour in enumerate(COLOURS):
            members = {"jpg": jpeg(colour), "txt": colour.encode(), "json": b'{"url": "http://e/1", "year": 2001}'}
            for ending, content in members.items():
                facts = tarfile.TarInfo(f"{key:09d}.{ending}")
                facts.size = len(content)
                tar.addfile(facts, io.BytesIO(content))
    art = {"id": ["a", "b"], "image": [jpeg("red"), jpeg("blue")], "artist": ["Klee", "Klein"]}
    pq.write_table(pa.table(art), folder / "art.parquet")
    for name in ("img_emb", "metadata"):
        (folder / "laion" / name).mkdir(parents=True)
    vectors = np.random.default_rng(0).standard_normal((5, EMBED_DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "laion" / "img_emb" / "img_emb_0.npy", vectors.astype(np.float16))
    metadata = {"image_path": [f"{n}.jpg" for n in range(5)], "caption": ["x"] * 5}
    pq.write_table(pa.table(metadata), folder / "laion" / "metadata" / "metadata_0.parquet")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder of the page after all of its commands, and what each printed."""
    folder = tmp_path_factory.mktemp("search")
    fill(folder)
    printed = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in commands():
            program, *arguments = shlex.split(command)
            assert program == "babelclip", command
            code, out, error = call(*arguments, BABELCLIP_CACHE=str(folder / "cache"))
            assert code == 0, (command, out, error)
            printed[command] = out
    finally:
        os.chdir(before)
    return folder, printed


def test_the_commands_do_what_the_page_says(home):
    folder, printed = home
    assert {name: open_collection(folder / f"{name}.lance").count() for name in ("photos", "web", "art", "laion")} == {
        "photos": 12,
        "web": 4,
        "art": 2,
        "laion": 5,
    }
    assert open_collection(folder / "photos.lance").columns["licence"] == "text"
    assert open_collection(folder / "web.lance").columns["year"] == "int"
    assert (folder / "sheet.png").stat().st_size > 1000
    shown = next(out for command, out in printed.items() if "--where" in command)
    assert re.search(r"(circle|square)\.png .*width=4\d", shown), shown
    compared = next(out for command, out in printed.items() if "--as" in command)
    assert re.match(r"overlap@\d with en", compared)
    assert "红圆" in compared


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_python_of_the_page_runs(home, number):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]], cwd=home[0], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "similar)" in done.stdout
