"""What docs/scale.md says is run; its tables are those of the recorded plans, and its files are what they say."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from babelclip.data.captions import Captions, write_captions
from babelclip.data.sources import open_captions
from babelclip.search.collection import open_collection
from babelclip.store import EmbeddingStore
from tests.cli.test_cli import call
from tests.conftest import COLOURS, draw_shape, make_clip
from tests.data.killed_embed import content

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "docs" / "examples"
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with what the page's commands name."""
    folder = tmp_path_factory.mktemp("scale")
    clip = make_clip()
    clip.save(folder / "demo" / "student")
    clip.save(folder / "demo" / "teacher")
    (folder / "photos").mkdir()
    for number, colour in enumerate(COLOURS):
        draw_shape(colour, "circle", 40 + number).save(folder / "photos" / f"{colour}.png")
    write_captions(Captions.from_columns(text=["red dog", "blue cat"] * 3, lang="en"), folder / "captions.jsonl")
    pairs = [("red dog", "röd hund"), ("blue cat", "blå katt")]
    rows = [f"{number}\t{text}\t{lang}\t{source}" for number, (text, lang, source) in enumerate(
        row for n, (english, swedish) in enumerate(pairs) for row in ((english, "en", ""), (swedish, "sv", 2 * n))
    )]  # fmt: skip
    (folder / "dictionary.tsv").write_text("\n".join(["id\ttext\tlang\tsource_id", *rows]) + "\n", encoding="utf-8")
    return folder


def run(line: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a line of the page, with the variables before it, and returns all it said."""
    words = shlex.split(line)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    code, out, error = call(*words[1:], cwd=home)
    assert code == 0, (line, out, error)
    return out + error


def test_jobs_on_several_processes_make_what_one_makes(home, monkeypatch):
    launched = [line for line in LINES if "--launcher local" in line]
    assert [line.split()[1] for line in launched] == ["embed", "index", "translate"]
    for line in launched:
        run(line, home, monkeypatch)
        alone = line.replace(" --launcher local --workers 2", "")
        run(re.sub(r"--out (\S+?)(\.lance)?(?= |$)", r"--out \1-alone\2", alone), home, monkeypatch)
    assert content(home / "targets") == content(home / "targets-alone")
    rows = [open_collection(home / f"photos{end}.lance").scan(with_vectors=True) for end in ("", "-alone")]
    assert [batch.to_pylist() for batch in rows[0]] == [batch.to_pylist() for batch in rows[1]]
    names = ("translated", "translated-alone")
    translated = [[text for part in open_captions(home / name) for text in part.texts] for name in names]
    assert "röd hund" in translated[0]
    assert translated[0] == translated[1]


def test_ranks_make_the_same_store_and_the_last_one_commits(home, monkeypatch):
    ranks = [line for line in LINES if line.startswith("RANK=")]
    said = [run(line, home, monkeypatch) for line in ranks]
    assert len(said) == 2
    assert len(EmbeddingStore.open(home / "ranked")) == 6
    run(ranks[0].partition(" babelclip")[1].strip() + LINES[0].partition("babelclip")[2].replace(
        " --launcher local --workers 2", "").replace("--out targets", "--out one"), home, monkeypatch)  # fmt: skip
    assert content(home / "ranked") == content(home / "one")


def test_plans_are_computed_as_the_page_says(monkeypatch, capsys):
    (line,) = [line for line in LINES if line.startswith("python ")]
    words = shlex.split(line)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scale = importlib.import_module("scale")
    scale.main(words[2:])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(record["plans"]) == ["1e8"]
    assert record["rates"]["gpu_price"]["value"] == 1.5


def test_tables_are_those_of_the_newest_record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scale = importlib.import_module("scale")
    newest = max((ROOT / "results").glob("scale-[0-9]*core*.json"), key=lambda path: path.stem[-10:])
    tables = scale.scale_page.tables(json.loads(newest.read_text(encoding="utf-8")), scale.shown)
    assert f"{scale.scale_page.BEGIN}\n{tables}\n{scale.scale_page.END}" in PAGE


def test_tables_are_put_into_a_page_and_nothing_else_changes(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("scale").scale_page
    file = tmp_path / "page.md"
    file.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.put_into(file, "| new |")
    assert file.read_text() == f"before\n{page.BEGIN}\n| new |\n{page.END}\nafter\n"
    file.write_text("no place\n")
    with pytest.raises(ValueError, match="has no lines"):
        page.put_into(file, "| new |")


def test_python_of_the_page_makes_an_application(home, monkeypatch):
    served: list[tuple[object, dict]] = []
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    serve = pytest.importorskip("ray.serve", reason="needs ray[serve]", exc_type=ImportError)
    monkeypatch.setattr(serve, "run", lambda application, **given: served.append((application, given)))
    (home / "keys.txt").write_text("")
    exec(block.replace("/shared", str(home)), {})
    assert served[0][1] == {"name": "babelclip", "route_prefix": "/"}


def test_files_that_the_page_names_are_there_and_so_are_its_tests():
    named = re.findall(r"\]\((examples/[\w.-]+)\)", PAGE)
    assert {Path(name).name for name in named} == {path.name for path in EXAMPLES.iterdir()}
    for test in re.findall(r"tests/[\w/]+\.py", PAGE):
        assert (ROOT / test).exists(), test
    for anchor_page in re.findall(r"\]\(([\w-]+\.md)", PAGE):
        assert (ROOT / "docs" / anchor_page).exists(), anchor_page


def test_batch_script_and_indexed_job_run_a_command_that_the_verb_knows():
    script = (EXAMPLES / "embed.sbatch").read_text(encoding="utf-8")
    assert script.startswith("#!/bin/sh\n")
    job = yaml.safe_load((EXAMPLES / "embed-job.yaml").read_text(encoding="utf-8"))
    pods = job["spec"]["template"]["spec"]["containers"][0]
    assert job["spec"]["completionMode"] == "Indexed"
    assert {"name": "JOB_COMPLETIONS", "value": str(job["spec"]["completions"])} in pods["env"]
    shown = call("embed", "--help")[1]
    for command in (script.partition("\nexec ")[2], " ".join(pods["command"])):
        assert "babelclip embed" in command
        for option in re.findall(r"--[a-z][a-z-]+", command):
            assert option in shown, option


def test_file_for_ray_up_fits_the_schema_of_ray():
    ray = pytest.importorskip("ray")
    validate = pytest.importorskip("jsonschema").validate
    cluster = yaml.safe_load((EXAMPLES / "ray-cluster.yaml").read_text(encoding="utf-8"))
    validate(cluster, json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text()))
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_only_what_needs_other_machines_is_not_run():
    fenced = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert {line.split()[0] for block in fenced for line in block.splitlines()} == {
        "sbatch",
        "scontrol",
        "ray",
        "babelclip",
    }
