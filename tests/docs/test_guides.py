"""What docs/index.md, choose.md and migrate.md say is run: commands and Python in the order of the page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import babelclip.search.server.run as server
from babelclip.search.server.service import open_service
from babelclip.search.server.settings import check_settings
from tests.cli.test_cli import call
from tests.conftest import COLOURS, EMBED_DIM, draw_shape, make_clip

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
PAGES = ("index", "choose", "migrate")
COPIES = {
    "XLM-Roberta-Large-Vit-L-14": "mclip_xlmr",
    "AltCLIP": "altclip_hub",
    "clip-ViT-B-32-multilingual-v1": "sentence_transformers_2021",
}
# What the old program wrote, in its own keys.
CLIP_BENCHMARK = {
    "dataset": "multilingual_mscoco_captions",
    "model": "ViT-B-32",
    "pretrained": "openai",
    "task": "zeroshot_retrieval",
    "metrics": {"image_retrieval_recall@5": 0.5, "text_retrieval_recall@5": 0.6},
    "language": "fr",
}


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str) -> list[tuple[str, str]]:
    """The blocks of a page that are run, in order: (sh or python, content)."""
    return re.findall(r"```(sh|python)\n(.*?)```", page(name), flags=re.DOTALL)


def xtd10(folder: Path) -> None:
    """A benchmark in its authors' layout: four pictures instead of a thousand."""
    (folder / "XTD10").mkdir(parents=True)
    (folder / "MIC").mkdir()
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(len(COLOURS))]
    for name, colour in zip(names, COLOURS, strict=True):
        draw_shape(colour, "circle").save(folder / name)
    (folder / "XTD10" / "test_image_names.txt").write_text("\n".join(names) + "\n")
    for place, lang in (("XTD10", "es"), ("MIC", "fr")):
        text = "".join(f"{lang} {colour}\n" for colour in COLOURS)
        (folder / place / f"test_1kcaptions_{lang}.txt").write_text(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with everything that the pages name."""
    pytest.importorskip("lancedb")
    folder = tmp_path_factory.mktemp("guides")
    make_clip().save(folder / "demo" / "teacher")
    make_clip(seed=3).save(folder / "demo" / "student")
    for name, golden in COPIES.items():
        shutil.copytree(GOLDEN / golden, folder / "copies" / name)
    for name, space in (("clip-vit-large-patch14", "openai/ViT-L-14"), ("clip-vit-base-patch32", "openai/ViT-B-32")):
        pictures = make_clip()
        pictures.space = space
        pictures.save(folder / "copies" / name)
    (folder / "photos").mkdir()
    lines = []
    for colour in COLOURS:
        draw_shape(colour, "circle").save(folder / "photos" / f"{colour}.png")
        draw_shape(colour, "circle").save(folder / f"{colour}.jpg")
        for lang in ("sv", "en"):
            lines.append(json.dumps({"text": f"{lang} {colour}", "lang": lang, "image": f"{colour}.jpg"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    for name in ("dog.jpg", "bird.jpg"):
        draw_shape("yellow", "square").save(folder / name)
    for name in ("img_emb", "metadata"):
        (folder / "laion" / name).mkdir(parents=True)
    np.save(folder / "laion" / "img_emb" / "img_emb_0.npy", np.eye(5, EMBED_DIM, dtype=np.float16))
    table = pa.table({"image_path": [f"{n}.jpg" for n in range(5)], "caption": ["x"] * 5})
    pq.write_table(table, folder / "laion" / "metadata" / "metadata_0.parquet")
    xtd10(folder / "xtd10")
    (folder / "clip_benchmark").mkdir()
    (folder / "clip_benchmark" / "fr.json").write_text(json.dumps(CLIP_BENCHMARK))
    return folder


def run_line(line: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, verb, *arguments = shlex.split(line)
    assert program == "babelclip", line
    asked: list[server.Settings] = []
    # A service would not end: what it would be is looked at instead.
    monkeypatch.setattr(server, "run", lambda settings, *_said: asked.append(settings))
    code, out, error = call(verb, *arguments, cwd=home, BABELCLIP_CACHE=str(home / "cache"))
    assert code == 0, (line, out, error)
    if verb == "serve":
        check_settings(asked[0])
        monkeypatch.chdir(home)
        open_service(asked[0])
    elif "--out" not in arguments and "--markdown" not in arguments:
        assert out, line


@pytest.mark.parametrize("name", PAGES)
def test_everything_on_a_page_runs_in_its_order(name, home, monkeypatch):
    monkeypatch.setenv("BABELCLIP_CACHE", str(home / "cache"))
    names: dict = {}
    shown = 0
    for language, content in blocks(name):
        if language == "python":
            monkeypatch.chdir(home)
            exec(content, names)
            continue
        for line in content.splitlines():
            run_line(line, home, monkeypatch)
            shown += 1
    assert shown >= 5
    if name == "migrate":
        assert names["raw"].shape == (2, EMBED_DIM)
        assert names["embeddings"].shape == (1, EMBED_DIM)
        assert "0.5" in (home / "benchmark.csv").read_text()
        assert (home / "laion.lance").is_dir()


def test_the_old_ways_are_shown_beside_the_new_ones():
    for section in page("migrate").split("\n## ")[1:]:
        assert "**Before" in section
        assert "**Now" in section
        assert "| differs | why |" in section


def test_links_of_the_guides_lead_somewhere():
    for name in (*PAGES, "security"):
        for target, _, anchor in re.findall(r"\]\(([^)#:]+\.md)(#([\w-]+))?\)", page(name)):
            place = ROOT / "docs" / target
            assert place.is_file(), (name, target)
            if anchor:
                heads = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), flags=re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
                assert anchor in slugs, (name, target, anchor)
