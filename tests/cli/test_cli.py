from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest

import babelclip
from babelclip.cli.main import main
from babelclip.data.captions import Captions, write_captions
from babelclip.evaluate.report import read_results
from babelclip.store import EmbeddingStore
from tests.conftest import COLOURS, draw_shape, make_clip


@pytest.fixture
def model(tmp_path):
    return make_clip().save(tmp_path / "model")


@pytest.fixture
def captions(tmp_path):
    """Eight pictures with captions in English and Swedish; the paths are relative to the file."""
    rows = []
    for colour in COLOURS:
        for shape in ("circle", "square"):
            draw_shape(colour, shape).save(tmp_path / f"{colour}-{shape}.png")
            for lang, text in (("en", f"a {colour} {shape}"), ("sv", f"en {colour} {shape} två")):
                rows.append((f"{colour}-{shape}:{lang}", text, lang, f"{colour}-{shape}:en", f"{colour}-{shape}.png"))
    ids, texts, langs, sources, images = (list(column) for column in zip(*rows, strict=True))
    path = tmp_path / "captions.jsonl"
    write_captions(Captions.from_columns(text=texts, lang=langs, id=ids, source_id=sources, image=images), path)
    return path


def call(*arguments, cwd=None, **environment):
    """Runs the command line in this process: code, stdout and stderr as a shell would see them."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(error):
        patched.setattr(sys, "argv", ["babelclip", *map(str, arguments)])
        if cwd is not None:
            patched.chdir(cwd)
        for name, value in environment.items():
            patched.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code or 0, out.getvalue(), error.getvalue()


def test_the_installed_program_fails_without_a_traceback(tmp_path):
    arguments = [
        sys.executable,
        "-m",
        "babelclip.cli.main",
        "embed",
        tmp_path / "absent.jsonl",
        "--model",
        "x",
        "--out",
        "y",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_every_verb_has_examples_in_its_help():
    code, out, _ = call("--help")
    assert code == 0
    for verb in ("demo", "starter", "search", "translate", "embed", "train", "evaluate", "trim", "export", "models"):
        assert verb in out
        code, text, _ = call(verb, "--help")
        assert code == 0
        assert "Examples:" in text
        assert f"  babelclip {verb}" in text


def test_a_full_disk_is_one_line(tmp_path, model, monkeypatch):
    def full(*_given, **_settings):
        raise OSError(errno.ENOSPC, "No space left on device", "x.npy")

    monkeypatch.setattr(babelclip, "load", full)
    code, out, error = call("search", "--in", tmp_path, "--model", model, "a dog")
    assert (code, out) == (1, "")
    assert error.startswith("error: the disk is full ([Errno 28] No space left on device: 'x.npy').")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "out"), "the system does not allow this ([Errno 30] Read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "the system does not allow this ([Errno 13] Perm"),
        (
            RuntimeError("lance error: LanceError(IO): No space left (os error 28), src/w.rs:258:9"),
            "the disk is full (lance error: LanceError(IO): No space left (os error 28)). What was finished is kept.",
        ),
        (OSError("8000 requested and 1984 written"), "the disk is full (8000 requested and 1984 written)."),
        (RuntimeError("Permission denied (os error 13)"), "the system does not allow this (Permission denied"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."), "memory has run out (Default"),
        (OSError(errno.EISDIR, "Is a directory", ".out.7.part", None, "out"), "out is not what is asked for there (Is"),
        (MemoryError(), "memory has run out (no more of it). What was finished is kept."),
    ],
)
def test_what_the_machine_refuses_is_one_line(tmp_path, model, monkeypatch, failure, said):
    def refused(*_given, **_settings):
        raise failure

    monkeypatch.setattr(babelclip, "load", refused)
    code, out, error = call("search", "--in", tmp_path, "--model", model, "a dog")
    assert (code, out) == (1, "")
    assert error.startswith(f"error: {said}")
    assert len(error.splitlines()) == 1


def test_a_failure_of_another_kind_keeps_its_trace(tmp_path, model, monkeypatch):
    for failure in (OSError(errno.EIO, "Input/output error", "out"), RuntimeError("of ours"), KeyError(3)):

        def failed(*_given, failure=failure, **_settings):
            raise failure

        monkeypatch.setattr(babelclip, "load", failed)
        with pytest.raises(type(failure)) as raised:
            call("search", "--in", tmp_path, "--model", model, "a dog")
        assert raised.value is failure


def test_exit_codes_tell_failure_from_wrong_use(tmp_path, model):
    assert call("search")[0] == 2
    assert call("no-such-verb")[0] == 2
    code, out, error = call("search", "--in", tmp_path / "absent", "--model", model, "a dog")
    assert (code, out) == (1, "")
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert call("--version")[1].strip() == f"babelclip {babelclip.__version__}"


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(monkeypatch, tmp_path):
    def interrupted(*_arguments, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("babelclip.starter.demo.run_demo", interrupted)
    code, _, error = call("demo", "--out", tmp_path / "demo")
    assert code == 130
    assert "Run the same command again" in error


def test_search_ranks_a_folder_counts_the_unreadable_and_remembers(tmp_path, model, picture_folder):
    arguments = ("search", "--in", picture_folder, "--model", model, "--json", "-k", 3, "två hundar", "a red circle")
    code, out, error = call(*arguments, BABELCLIP_CACHE=str(tmp_path / "cache"))
    assert code == 0, error
    content = json.loads(out)
    assert [one["query"] for one in content] == ["två hundar", "a red circle"]
    scores = [hit["score"] for hit in content[0]["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert "12 pictures (12 encoded now, 1 skipped as unreadable)" in error
    assert "broken.jpg" in error
    _, again, error = call(*arguments, BABELCLIP_CACHE=str(tmp_path / "cache"))
    assert again == out
    assert "12 pictures (0 encoded now" in error


def test_search_without_a_model_says_how_to_get_one(tmp_path, picture_folder):
    code, _, error = call("search", "--in", picture_folder, "a dog", cwd=tmp_path, BABELCLIP_CACHE=str(tmp_path / "c"))
    assert code == 1
    assert "babelclip starter" in error


def test_search_takes_the_model_of_the_demo_in_this_folder(tmp_path, picture_folder):
    make_clip().save(tmp_path / "demo" / "student")
    code, out, _ = call("search", "--in", picture_folder, "a dog", cwd=tmp_path, BABELCLIP_CACHE=str(tmp_path / "c"))
    assert code == 0
    assert out.splitlines()[0] == "a dog"
    assert len(out.splitlines()) == 11


def test_embed_train_and_evaluate_from_caption_file_to_table(tmp_path, model, captions):
    code, out, error = call("embed", captions, "--lang", "en", "--model", model, "--out", tmp_path / "targets")
    assert code == 0, error
    store = EmbeddingStore.open(tmp_path / "targets")
    assert (len(store), store.space, store.normalized) == (8, "test/tiny", False)
    assert "8 vectors of 16 dimensions" in out

    make_clip(seed=7).save(tmp_path / "student")
    (tmp_path / "recipe.toml").write_text(
        f'[train]\nkind = "distill"\nsteps = 60\nbatch_size = 16\nlr = 5e-3\n'
        f'[student]\nmodel = "{tmp_path}/student"\ntrainable = "last 2 layers"\n'
        f'[teacher]\ntargets = "{tmp_path}/targets"\n[data]\ncaptions = ["{captions}"]\nvalidation = ["{captions}"]\n'
    )
    train = ("train", tmp_path / "recipe.toml", "--out", tmp_path / "run", "--image", model)
    code, out, error = call(*train, "--set", "train.log_every=5")
    assert code == 0, error
    assert "finished at step 60" in out
    code, _, error = call(*train)
    assert code == 1
    assert "--resume" in error

    clip, teacher = babelclip.load(tmp_path / "run" / "model"), babelclip.load(model)
    target = teacher.encode_text("a red circle", normalize=False)
    before = babelclip.load(tmp_path / "student").encode_text("en red circle två", normalize=False)
    after = clip.encode_text("en red circle två", normalize=False)
    assert np.square(after - target).mean() < 0.25 * np.square(before - target).mean()
    assert (clip.space, clip.languages) == ("test/tiny", ("en", "sv"))

    results = tmp_path / "results.json"
    evaluate = ("evaluate", model, tmp_path / "run" / "model", "--captions", captions, "--out", results)
    code, out, error = call(*evaluate)
    assert code == 0, error
    assert len(read_results(results)) == 2 * 2 * 2
    assert "R@10, t2i" in out
    code, _, error = call(*evaluate)
    assert code == 1
    assert "overwrite" in error


def test_unknown_settings_and_languages_name_the_closest(tmp_path, model, captions):
    (tmp_path / "recipe.toml").write_text('[train]\nkind = "distill"\n')
    code, _, error = call("train", tmp_path / "recipe.toml", "--out", tmp_path / "run", "--set", "train.stepz=3")
    assert code == 1
    assert "steps" in error
    code, _, error = call("evaluate", model, "--captions", captions, "--lang", "swedish")
    assert code == 1
    assert "sv" in error
