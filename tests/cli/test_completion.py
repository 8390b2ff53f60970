"""Tab in a real bash offers verbs, options and values."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from babelclip import languages, registry
from babelclip.cli import completion
from babelclip.cli.main import app

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed here")


def offered(*words: str, cwd=None) -> list[str]:
    """What typer's own class for bash answers to these words, the last of which is not finished."""
    environment = os.environ | {
        "_BABELCLIP_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["babelclip", *words]),
        "COMP_CWORD": str(len(words)),
    }
    code = "import sys; sys.argv = ['babelclip']; from babelclip.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@bash
def test_the_function_that_is_installed_answers_in_bash(tmp_path):
    program = tmp_path / "babelclip"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom babelclip.cli.main import main\nsys.argv[0] = 'babelclip'\nmain()\n"
    )
    program.chmod(0o755)
    script = (
        'eval "$(_BABELCLIP_COMPLETE=source_bash babelclip)"\n'
        "COMP_WORDS=(babelclip tra) COMP_CWORD=1; _babelclip_completion babelclip; echo ${COMPREPLY[*]}\n"
        "complete -p babelclip\n"
    )
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    replies, installed = done.stdout.splitlines()
    assert sorted(replies.split()) == ["train", "translate"], done.stderr
    assert "-o default" in installed  # files, where nothing else fits


def test_verbs_options_and_values_are_offered(tmp_path):
    start = time.perf_counter()
    assert sorted(offered("tra")) == ["train", "translate"]
    assert time.perf_counter() - start < 6  # 0.25 s each on an idle machine
    assert offered("evaluate", "--te") == ["--teacher"]
    assert "sv,de" in offered("translate", "x.jsonl", "--to", "sv,d")
    assert offered("evaluate", "--dataset", "xm") == ["xm3600="]
    assert "XLM-Roberta-Large-Vit-L-14" in offered("models", "XLM")
    assert offered("store", "v") == ["verify"]
    assert offered("starter", "--text", "h") == ["hundred"]
    assert offered("embed", "photos") == [""]  # nothing: bash offers files


def test_names_that_are_read_without_parsing_are_those_of_the_registry_and_the_catalogue():
    from babelclip.evaluate.benchmarks import benchmark_names

    assert set(completion.models("")) >= {card.name for card in registry.cards()}
    assert set(completion.families("")) == {card.family for card in registry.cards()}
    assert {name.removesuffix("=") for name in completion.datasets("")} >= set(benchmark_names())


def test_languages_keep_what_was_typed_before_the_comma():
    offers = dict(completion.languages("en,sv,d"))
    assert offers["en,sv,de"] == languages.name("de")
    assert all(offer.startswith("en,sv,") for offer in offers)


def test_every_entry_of_the_table_names_a_parameter_that_exists(monkeypatch):
    verbs = dict(completion._verbs(app))
    parameters = {(verb, name) for verb, function in verbs.items() for name in completion.parameters_of(function)}
    names = {name for _verb, name in parameters}
    for verb, name in completion.OFFERED:
        assert (verb, name) in parameters or (verb == "*" and name in names), (verb, name)


def test_the_values_of_options_are_those_that_the_library_takes():
    from babelclip.models.export import TARGETS
    from babelclip.models.precision import DTYPES

    assert set(completion.OFFERED["export", "to"]("")) == TARGETS.keys()
    assert set(completion.OFFERED["*", "dtype"]("")) == set(DTYPES)


def test_a_model_that_was_made_here_is_offered_first(tmp_path, monkeypatch):
    (tmp_path / "demo" / "student").mkdir(parents=True)
    (tmp_path / "demo" / "student" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert next(iter(completion.models(""))) == "demo/student"
