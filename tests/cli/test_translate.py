"""`babelclip translate` from the command line: real output, choices, wrong use, Ctrl-C, and Apertium where it is."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from babelclip.data.captions import Captions, write_captions
from babelclip.data.sources import read_all
from babelclip.starter.parts import EMOJI_NAMES, PartError, locate
from babelclip.translate import choices, pipeline
from babelclip.translate.choices import EngineChoice, engine_choices
from babelclip.translate.report import read_report
from tests.cli.test_cli import call
from tests.translate.fake import open_fake, open_interrupted

SENTENCES = {
    "en": ["A dog runs in the snow", "Two children eat an apple", "A red house by the sea"],
    "sv": ["En hund springer i snön", "Två barn äter ett äpple", "Ett rött hus vid havet"],
    "de": ["Ein Hund läuft im Schnee", "Zwei Kinder essen einen Apfel", "Ein rotes Haus am Meer"],
}


@pytest.fixture
def dictionary(tmp_path):
    """Captions in three languages; the English ones are translated by looking them up in the others."""
    rows = [(lang, n, text) for lang, texts in SENTENCES.items() for n, text in enumerate(texts)]
    captions = Captions.from_columns(
        text=[text for _lang, _n, text in rows],
        lang=[lang for lang, _n, _text in rows],
        id=[f"{n}:{lang}" for lang, n, _text in rows],
        source_id=[None if lang == "en" else f"{n}:en" for lang, n, _text in rows],
    )
    write_captions(captions, tmp_path / "captions.jsonl")
    return tmp_path / "captions.jsonl"


def arguments(source, out, *more, to="sv,de"):
    return ("translate", source, "--to", to, "--engine", "dictionary", "--dictionary", source, "--out", out, *more)


def test_captions_are_translated_reported_and_ready_to_embed(tmp_path, dictionary):
    code, out, error = call(*arguments(dictionary, tmp_path / "out", "--plan", "all", "--keep-english", "0.25"))
    assert code == 0, error
    assert "8 of 8 rows kept, from 3 captions (left out: 6 another language)" in out
    assert "rejected: none" in out
    assert f"babelclip embed {tmp_path / 'out'}" in out
    assert "sv: 3 of 3 kept" in error
    found = {row["id"]: row["text"] for row in read_all(tmp_path / "out").table.to_pylist()}
    for lang in ("sv", "de"):
        assert [found[f"{n}:en-{lang}"] for n in range(3)] == SENTENCES[lang]
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| sv (Swedish) | 3 | 100.0% | dictionary | dictionary of 3 texts |" in report
    assert read_report(tmp_path / "out").languages["en"].kept == 2
    assert call(*arguments(dictionary, tmp_path / "out", "--plan", "all", "--keep-english", "0.25"))[1] == out


def test_filters_are_switched_on_the_command_line(tmp_path, dictionary):
    rows = [json.loads(line) for line in dictionary.read_text(encoding="utf-8").splitlines()]
    rows[3]["text"], rows[4]["text"], rows[5]["text"] = "A dog runs in the snow", "…", "Дом"
    dictionary.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = ("--plan", "all", "--keep-english", "0")
    code, out, error = call(*arguments(dictionary, tmp_path / "all", *given, to="sv"))
    assert code == 0, error
    assert "rejected: 1 copy, 1 empty, 1 script" in out
    _, out, _ = call(
        *arguments(dictionary, tmp_path / "some", *given, "--no-filter", "copy", "--no-filter", "script", to="sv")
    )
    assert "rejected: 1 empty" in out
    _, out, _ = call(*arguments(dictionary, tmp_path / "none", *given, "--no-filter", "all", to="sv"))
    assert "rejected: none" in out
    lines = (tmp_path / "all" / "rejected" / "sv" / "00000.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["copy", "empty", "script"]


def test_weights_and_seeds_come_from_the_command_line(tmp_path, dictionary):
    given = ("--plan", "weights", "--weight", "sv=2", "--keep-english", "0", "--seed", "3")
    assert call(*arguments(dictionary, tmp_path / "out", *given))[0] == 0
    options = json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]["plan"]
    assert (options["plan"], options["weights"], options["seed"]) == ("weights", {"sv": 2.0}, 3)
    assert {lang: one.planned for lang, one in read_report(tmp_path / "out").languages.items()} == {
        "sv": 2,
        "de": 1,
        "en": 0,
    }


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path, dictionary, monkeypatch):
    def choose(opener):
        made = EngineChoice("fake", opener=opener)
        monkeypatch.setattr(choices, "engine_choices", lambda to, *_, **__: dict.fromkeys(to, made))

    choose(open_interrupted)
    code, _, error = call(*arguments(dictionary, tmp_path / "out", "--rows", "1", "--plan", "all"))
    assert code == 130
    assert f"{tmp_path / 'out'} keeps 3 rows in 3 finished shards." in error
    assert "Run the same command again" in error
    choose(open_fake)
    assert call(*arguments(dictionary, tmp_path / "out", "--rows", "1", "--plan", "all"))[0] == 0


def test_wrong_use_ends_in_one_error_that_says_what_to_do(tmp_path, dictionary):
    cases = {
        ("--to", "sv,swedish"): "Did you mean sv",
        ("--to", ","): "names no language",
        ("--to", "en"): "no language to translate into",
        ("--to", "sv", "--engine", "opuss"): "Did you mean 'opus'",
        ("--to", "sv", "--engine", "dictionary"): "dictionary",
        ("--to", "sv", "--choose", "sv"): "is not of the form LANG=VALUE",
        ("--to", "sv", "--choose", "sv=opus", "--choose", "sv=nllb"): "given twice for sv",
        ("--to", "sv", "--choose", "de=opus"): "not among the languages sv",
        ("--to", "sv", "--choose", "sv=opsu:x"): "Did you mean 'opus'",
        ("--to", "sv", "--choose", "sv=apertium:x"): "names a model",
        ("--to", "sv", "--plan", "weights", "--weight", "sv=two"): "is no number",
        ("--to", "sv", "--plan", "shared"): "Allowed: all, split, weights",
        ("--to", "sv", "--keep-english", "1.5"): "from 0 to below 1",
        ("--to", "sv", "--no-filter", "copys"): "Did you mean 'copy'",
        ("--to", "sv", "--filter", "round-trip"): "without its bound",
        ("--to", "sv", "--min-similarity", "0.3"): "each needs the other",
        ("--to", "sv", "--devices", ","): "names no device",
    }
    for given, message in cases.items():
        code, out, error = call("translate", dictionary, "--out", tmp_path / "out", *given)
        assert (code, out) == (1, ""), given
        assert message in error, (given, error)
        assert error.count("error: ") == 1
    code, _, error = call(*arguments(tmp_path / "captoins.jsonl", tmp_path / "out"))
    assert (code, "captions.jsonl" in error) == (1, True)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_each_language_gets_the_best_engine_known_unless_told_otherwise():
    made = engine_choices(["sv", "ko", "fi", "zh-Hant"], choose={"fi": "opus:my/model", "*": "nllb:big"})
    assert {lang: choice.name for lang, choice in made.items()} == {
        "sv": "nllb",
        "ko": "nllb",
        "fi": "opus",
        "zh-Hant": "nllb",
    }
    assert made["fi"].facts("fi")["model"] == "my/model"
    assert made["sv"] is made["ko"]
    plain = engine_choices(["sv", "zh-Hant", "ko"])
    assert plain["sv"].name == "opus"
    assert plain["zh-Hant"].facts("zh-Hant")["model"].endswith(":cmn_Hant")
    assert plain["sv"] is plain["zh-Hant"]


def test_the_help_has_examples():
    code, out, _ = call("translate", "--help")
    assert code == 0
    assert "Examples:" in out
    assert "  babelclip translate" in out


def has_apertium():
    program = shutil.which("apertium")
    modes = subprocess.run([program, "-l"], capture_output=True, text=True, check=False).stdout if program else ""
    return "eng-spa" in modes.split()


@pytest.mark.skipif(not has_apertium(), reason="needs the program Apertium with its pair eng-spa")
def test_apertium_translates_and_translates_back(tmp_path, dictionary):
    given = ("--to", "es", "--engine", "apertium", "--plan", "all", "--keep-english", "0")
    code, out, error = call("translate", dictionary, *given, "--round-trip", "0.3", "--out", tmp_path / "out")
    assert code == 0, error
    assert "of 3 rows kept" in out
    texts = dict(zip(read_all(tmp_path / "out").ids, read_all(tmp_path / "out").texts, strict=True))
    assert "perro" in texts["0:en-es"]
    assert "niños" in texts["1:en-es"]
    assert read_report(tmp_path / "out").languages["es"].model.startswith("apertium-eng-spa")
    assert pipeline.kept_so_far(tmp_path / "out") == (1, 3)


def test_captions_that_come_again_are_left_out_where_asked(tmp_path, dictionary):
    again = [json.loads(line) for line in dictionary.read_text(encoding="utf-8").splitlines()]
    again += [{**row, "id": row["id"] + "b"} for row in again if row["lang"] == "en"]
    dictionary.write_text("\n".join(json.dumps(row) for row in again), encoding="utf-8")
    code, out, error = call(*arguments(dictionary, tmp_path / "out", "--plan", "all", "--drop-duplicates"))
    assert code == 0, error
    assert "from 3 captions (left out: 6 another language, 3 duplicate row)" in out
    assert "from 6 captions" in call(*arguments(dictionary, tmp_path / "twice", "--plan", "all"))[1]


@pytest.mark.real
def test_the_dictionary_that_is_built_in_has_the_names_of_emoji(tmp_path):
    try:
        locate(EMOJI_NAMES)
    except PartError as error:
        pytest.skip(str(error))
    (tmp_path / "names.txt").write_text("dog face\nno such emoji\n", encoding="utf-8")
    code, _out, error = call(
        "translate", tmp_path / "names.txt", "--lang", "en", "--to", "de", "--engine", "dictionary",
        "--out", tmp_path / "out", "--no-filter", "length", "--keep-english", "0", "--plan", "all",
        BABELCLIP_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert code == 0, error
    assert read_all(tmp_path / "out").texts == ["hundegesicht"]
