"""`run`: several models and benchmarks, one file each, resumed, never overwritten in silence, failures kept apart."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest

import babelclip
from babelclip.data.captions import Captions, write_captions
from babelclip.errors import BabelclipError
from babelclip.evaluate import features, run, tasks
from babelclip.evaluate.benchmarks import open_benchmark
from babelclip.evaluate.report import read_results
from babelclip.evaluate.result import check_result
from babelclip.evaluate.run import Plan
from babelclip.evaluate.summary import summary
from babelclip.evaluate.tasks import Settings
from tests.cli.test_cli import call
from tests.conftest import COLOURS, draw_shape, make_clip

SHAPES = ("circle", "square")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two models, captions in two languages, a folder of classes in two splits, sentence pairs, parallel texts."""
    home = tmp_path_factory.mktemp("home")
    for seed, name in ((0, "one"), (5, "two")):
        clip = make_clip(seed)
        clip.name = name
        clip.save(home / name)
    rows = []
    for colour in COLOURS:
        for shape in SHAPES:
            draw_shape(colour, shape).save(home / f"{colour}-{shape}.png")
            rows += [(f"a {colour} {shape}", "en", f"{colour}-{shape}.png")]
            rows += [(f"en {colour} {shape} två", "sv", f"{colour}-{shape}.png")]
        for split, size in (("train", 40), ("train", 44), ("train", 52), ("test", 48), ("test", 56)):
            folder = home / "colours" / split / colour
            folder.mkdir(parents=True, exist_ok=True)
            draw_shape(colour, "square", size).save(folder / f"{size}.png")
    texts, langs, images = (list(column) for column in zip(*rows, strict=True))
    write_captions(Captions.from_columns(text=texts, lang=langs, image=images), home / "captions.jsonl")
    names = {"class-folders": ["blå", "grön", "röd", "gul"], "colours": ["blå", "grön", "röd", "gul"]}
    (home / "colours" / "sv_classnames.json").write_text(json.dumps(names), encoding="utf-8")
    (home / "sts-test.csv").write_text(
        "".join(f"a\tb\tc\t1\t{n}\ta dog\t{'a ' * n}cat\n" for n in range(6)), encoding="utf-8"
    )
    for lang, words in (("en", ["dog", "cat", "red"]), ("sv", ["hund", "katt", "röd"])):
        (home / f"mini.{lang}").write_text("\n".join(words) + "\n", encoding="utf-8")
    return home


def plan_of(home, *datasets, models=("one", "two"), **changes):
    specs = datasets or (f"captions={home}/captions.jsonl,name=mine",)
    facts = {"out": None, "cache": None, "dtype": "float32"}
    return Plan(models=[str(home / model) for model in models], datasets=list(specs), **{**facts, **changes})


def test_pictures_are_decoded_once_for_all_models_and_languages_and_never_again(home, tmp_path, monkeypatch):
    opened = []
    original = features._read
    monkeypatch.setattr(features, "_read", lambda *given: opened.append(str(given[-1])) or original(*given))
    outcome = run.run(plan_of(home, out=tmp_path / "results", cache=tmp_path / "cache"))
    assert len(opened) == len(set(opened)) == 8
    assert len(outcome.results) == 2 * 2 * 2
    assert outcome.failures == []
    assert [path.name for path in outcome.written] == ["one--mine-test.json", "two--mine-test.json"]
    again = run.run(plan_of(home, out=tmp_path / "other", cache=tmp_path / "cache", languages=["sv"]))
    assert len(opened) == 8
    by_key = {(r["model"], r["language"], r["direction"]): r["metrics"] for r in outcome.results}
    assert all(result["metrics"] == by_key[result["model"], "sv", result["direction"]] for result in again.results)


def test_every_result_is_complete_and_says_which_weights_it_is_of(home, tmp_path):
    outcome = run.run(plan_of(home, out=tmp_path / "results"))
    for result in outcome.results:
        check_result(result)
        assert result["revision"] == result["weights"] != ""
        assert result["n_images"] == 8
    assert len({result["weights"] for result in outcome.results}) == 2
    assert read_results(outcome.written[0]) == outcome.results[:4]


def test_what_is_complete_is_left_and_what_was_stopped_goes_on(home, tmp_path, monkeypatch):
    plan, measured = plan_of(home, out=tmp_path / "results"), []
    original = tasks.measure

    def stopped(clip, *given, **named):
        measured.append(clip.name)
        if measured == ["one", "two"]:
            raise KeyboardInterrupt
        return original(clip, *given, **named)

    monkeypatch.setattr(run, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.run(plan)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["one--mine-test.json"]
    outcome = run.run(plan)
    assert measured == ["one", "two", "two"]
    assert [path.name for path in outcome.kept] == ["one--mine-test.json"]
    assert len(outcome.results) == 8


def test_results_of_other_settings_or_weights_are_not_overwritten_in_silence(home, tmp_path):
    out = tmp_path / "results"
    run.run(plan_of(home, out=out, models=("one",)))
    before = (out / "one--mine-test.json").read_bytes()
    with pytest.raises(BabelclipError, match=r"other weights or settings.*--overwrite"):
        run.run(plan_of(home, out=out, models=("one",), languages=["sv"]))
    changed = make_clip(seed=8)
    changed.name = "one"
    changed.save(tmp_path / "one")
    with pytest.raises(BabelclipError, match="other weights or settings"):
        run.run(dataclasses.replace(plan_of(home, out=out), models=[str(tmp_path / "one")]))
    assert (out / "one--mine-test.json").read_bytes() == before
    run.run(plan_of(home, out=out, models=("one",), languages=["sv"], overwrite=True))
    assert {result["language"] for result in read_results(out / "one--mine-test.json")} == {"sv"}


def test_results_of_other_captions_or_templates_are_not_taken_for_finished_ones(home, tmp_path):
    out, plain = tmp_path / "results", f"captions={home}/captions.jsonl"
    run.run(plan_of(home, plain, out=out, models=("one",)))
    assert run.run(plan_of(home, plain, out=out, models=("one",))).kept
    fewer = (home / "captions.jsonl").read_text(encoding="utf-8").splitlines()[:-1]
    (tmp_path / "other.jsonl").write_text("\n".join(fewer), encoding="utf-8")
    with pytest.raises(BabelclipError, match=r"other captions, classes or pictures under this name.*--overwrite"):
        run.run(plan_of(home, f"captions={tmp_path}/other.jsonl,images={home}", out=out, models=("one",)))
    colours = f"class-folders={home}/colours,name=colours"
    run.run(plan_of(home, colours, out=out, models=("one",), languages=["sv"]))
    (tmp_path / "mine.json").write_text('["ett foto av {}"]', encoding="utf-8")
    with pytest.raises(BabelclipError, match="other captions, classes or pictures"):
        run.run(plan_of(home, f"{colours},templates={tmp_path}/mine.json", out=out, models=("one",), languages=["sv"]))
    moved = tmp_path / "moved"
    shutil.copytree(home / "colours", moved)
    there = plan_of(home, f"class-folders={moved},name=colours", out=out, models=("one",), languages=["sv"])
    assert run.run(there).kept


def test_a_model_that_fails_takes_only_its_own_results_with_it(home, tmp_path, monkeypatch):
    original = tasks.measure

    def failing(clip, *given, **named):
        if clip.name == "one":
            raise RuntimeError("out of memory")
        return original(clip, *given, **named)

    monkeypatch.setattr(run, "measure", failing)
    plan = plan_of(home, out=tmp_path / "results")
    outcome = run.run(dataclasses.replace(plan, models=[str(tmp_path / "absent"), *plan.models]))
    assert {result["model"] for result in outcome.results} == {"two"}
    assert [path.name for path in outcome.written] == ["two--mine-test.json"]
    assert "absent could not be loaded" in outcome.failures[0]
    assert outcome.failures[1] == "one on mine: out of memory"
    with pytest.raises(BabelclipError, match="No model could be measured"):
        run.run(plan_of(home, models=("absent",)))


def test_a_benchmark_whose_pictures_are_broken_does_not_stop_the_others(home, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    write_captions(Captions.from_columns(text=["a dog"], lang=["en"], image=["broken.png"]), tmp_path / "broken.jsonl")
    plan = plan_of(home, f"captions={tmp_path}/broken.jsonl,name=broken", f"stsb={home}", models=("one",))
    outcome = run.run(plan)
    assert {result["task"] for result in outcome.results} == {"sts"}
    assert outcome.failures[0].startswith("broken: None of the 1 pictures can be read")
    with pytest.raises(BabelclipError, match="does not decode"):
        run.run(dataclasses.replace(plan, strict=True))


def test_a_model_whose_pictures_do_not_fit_takes_no_other_with_it(home, monkeypatch):
    original = features.encode_pictures

    def small(clips, *given, **named):
        if any(clip.name == "two" for clip in clips):
            raise RuntimeError("out of memory")
        return original(clips, *given, **named)

    monkeypatch.setattr(features, "encode_pictures", small)
    outcome = run.run(plan_of(home))
    assert {result["model"] for result in outcome.results} == {"one"}
    assert outcome.failures == ["two on mine: out of memory"]


def test_two_models_of_one_name_are_told_apart_by_where_they_lie(home, tmp_path):
    (tmp_path / "one").symlink_to(home / "one")
    plan = plan_of(home, f"stsb={home}")
    outcome = run.run(dataclasses.replace(plan, models=[str(home / "one"), str(tmp_path / "one")]))
    assert [result["model"] for result in outcome.results] == ["one", f"one ({tmp_path / 'one'})"]


def test_a_language_that_a_model_cannot_read_costs_that_language_alone(home, monkeypatch):
    def refusing(_clip, code):
        def encode(_texts):
            if code == "sv":
                raise BabelclipError("no token for sv")

        return encode

    monkeypatch.setattr(tasks, "encoder_in", refusing)
    told = SimpleNamespace(text=SimpleNamespace(tokenizer=SimpleNamespace(language="en")))
    mine = open_benchmark(f"captions={home}/captions.jsonl")
    assert tasks.readable_languages(told, mine, None) == (["en"], ["sv: no token for sv"])
    with pytest.raises(BabelclipError, match="it can read none of the languages: sv: no token for sv"):
        tasks.readable_languages(told, mine, ["sv"])


def test_a_text_tower_is_measured_on_texts_and_fails_on_pictures(home, tmp_path):
    clip = babelclip.load(home / "one", towers="text")
    clip.save(tmp_path / "text")
    plan = plan_of(home, f"captions={home}/captions.jsonl", f"stsb={home}")
    outcome = run.run(dataclasses.replace(plan, models=[str(tmp_path / "text")]))
    assert {result["task"] for result in outcome.results} == {"sts"}
    assert "has no picture tower" in outcome.failures[0]


def test_each_kind_of_benchmark_gets_its_tasks(home):
    outcome = run.run(
        plan_of(
            home,
            f"class-folders={home}/colours,name=colours",
            models=("one",),
            settings=Settings(probe=True, shots=(None, 1), probe_seeds=2),
        )
    )
    assert outcome.failures == []
    assert [result["task"] for result in outcome.results] == ["zeroshot_classification"] * 2 + ["linear_probe"] * 2
    assert [result["language"] for result in outcome.results] == ["en", "sv", "zxx", "zxx"]
    # Four colours of one form: with three pictures each a line tells them apart.
    assert outcome.results[2]["metrics"]["lp_acc1"] == 1
    texts = run.run(
        plan_of(home, f"parallel={home}/mini.en,{home}/mini.sv", models=("two",), teacher=str(home / "one"))
    )
    assert {result["task"] for result in texts.results} == {"translation_retrieval", "fidelity"}
    table = summary([*outcome.results, *texts.results])
    for words in (
        "acc1; zero-shot classification",
        "lp_acc1; linear probe",
        "R@1; translation",
        "| en->sv | sv->en | mean |",
        "cosine; fid",
    ):
        assert words in table, table
    assert "| one |" in table
    with pytest.raises(BabelclipError, match="No metric is called 'accuraccy'"):
        summary(outcome.results, "accuraccy")


def test_a_seed_below_zero_is_refused_before_anything_is_measured():
    with pytest.raises(BabelclipError, match="seed is -1"):
        Settings(seed=-1)


def test_a_probe_never_learns_from_what_it_is_measured_on(home):
    spec = f"class-folders={home}/colours,name=colours"
    with pytest.raises(BabelclipError, match="shares pictures with the one it is measured on"):
        run.run(plan_of(home, spec, settings=Settings(probe=True), train_split="test", split="test"))
    with pytest.raises(BabelclipError, match="no single class a picture"):
        run.run(plan_of(home, settings=Settings(probe=True)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": []}, "0 benchmarks"),
        ({"datasets": ["xm3600"]}, "does not say where"),
        ({"languages": ["de"]}, "no usable caption"),
    ],
)
def test_a_wrong_plan_costs_no_model(home, monkeypatch, change, message):
    monkeypatch.setattr(babelclip, "load", lambda *_given, **_named: pytest.fail("a model was loaded"))
    with pytest.raises(BabelclipError, match=message):
        run.run(dataclasses.replace(plan_of(home), **change))


def test_the_command_line_prints_tables_and_says_what_failed(home, tmp_path):
    cache = {"BABELCLIP_CACHE": str(tmp_path / "cache")}
    given = (
        "evaluate",
        home / "one",
        "--dataset",
        f"captions={home}/captions.jsonl",
        "--lang",
        "sv",
        "--metric",
        "R@1",
    )
    code, out, error = call(*given, "--out", tmp_path / "results", **cache)
    assert code == 0, error
    assert "R@1, t2i" in out
    assert (tmp_path / "cache" / "evaluate").is_dir()
    code, _, error = call(*given, "--out", tmp_path / "results", **cache)
    assert code == 0
    assert "complete already" in error
    code, out, error = call(given[0], f"best={home / 'one'}", *given[2:], "--out", tmp_path / "results", **cache)
    assert code == 0, error
    assert "| best |" in out
    assert (tmp_path / "results" / "best--captions-test.json").is_file()
    code, out, error = call(*given[:1], tmp_path / "absent", *given[1:], "--cache", "none")
    assert code == 1
    assert "R@1, t2i" in out
    assert "failed: " in error
    code, out, _ = call("evaluate", "--list-datasets")
    assert code == 0
    assert "xm3600  (retrieval)" in out
    assert "captions.jsonl" in out
    (tmp_path / "cache" / "builtin").mkdir()
    (tmp_path / "cache" / "builtin" / "captions.parquet").write_bytes(b"no table")
    code, _, error = call("evaluate", home / "one", "--dataset", "builtin", **cache)
    assert (code, "captions.parquet" in error) == (1, True)
    code, _, error = call(*given, "--shots", "few")
    assert (code, "--shots 'few'" in error) == (1, True)
