from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

from babelclip.errors import BabelclipError
from babelclip.translate import ctranslate, seq2seq
from babelclip.translate.engine import Engine, open_engine
from tests.translate.tiny import POSITIONS, TEXTS, make_marian

GREEDY = {"compute": "float32", "beam_size": 1, "threads": 1}


@pytest.fixture(scope="module")
def marian(tmp_path_factory) -> Path:
    return make_marian(tmp_path_factory.mktemp("models") / "opus-mt-en-gem")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ctranslate2"


def opus(folder: Path, **settings) -> Engine:
    return open_engine("opus", models={"*": str(folder)}, **{**GREEDY, **settings})


def by_transformers(folder: Path, tagged: list[str]) -> list[str]:
    """Greedy translations by the library itself, one text at a time."""
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    model = transformers.MarianMTModel.from_pretrained(folder).eval()
    batch = tokenizer(tagged, return_tensors="pt", padding=True)
    room = min(POSITIONS - 2, 3 * batch["input_ids"].shape[1] + 20)
    ids = model.generate(**batch, num_beams=1, do_sample=False, max_new_tokens=room, forced_eos_token_id=None)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def test_ctranslate2_translates_as_transformers_does(marian):
    engine = opus(marian)
    expected = by_transformers(marian, [f">>swe<< {text}" for text in TEXTS])
    assert engine.translate(TEXTS, "en", "sv") == expected
    assert len(set(expected)) > len(TEXTS) / 3, "the random model must not say the same to everything"


def test_the_target_tag_stands_before_the_text_with_a_space(marian):
    engine = opus(marian)
    german, swedish = (engine.translate(TEXTS, "en", lang) for lang in ("de", "sv"))
    assert german != swedish
    assert german == by_transformers(marian, [f">>deu<< {text}" for text in TEXTS])
    assert german != by_transformers(marian, TEXTS)


def test_weights_in_a_binary_file_are_read_as_well(tmp_path, marian):
    binary = make_marian(tmp_path / "binary", binary=True)
    assert opus(binary).translate(TEXTS[:5], "en", "de") == opus(marian).translate(TEXTS[:5], "en", "de")


def test_the_tag_is_the_users_or_is_found_in_the_vocabulary(tmp_path, marian):
    engine = open_engine("opus", models={"fr": f"{marian}:swe", "it": str(marian), "de": f"{marian}:sve"}, **GREEDY)
    assert engine.translate(TEXTS[:3], "en", "fr") == opus(marian).translate(TEXTS[:3], "en", "sv")
    with pytest.raises(BabelclipError, match=r"none of their tags is that of it \(Italian\): deu, swe.*it=MODEL:TAG"):
        engine.translate(["a dog"], "en", "it")
    with pytest.raises(BabelclipError, match="no target tag 'sve'; it has swe"):
        engine.translate(["a dog"], "en", "de")
    bilingual = make_marian(tmp_path / "bilingual", tags=())
    assert opus(bilingual).translate(TEXTS[:3], "en", "it") == by_transformers(bilingual, TEXTS[:3])


def test_a_batch_keeps_its_order_and_its_empty_texts(marian):
    engine = opus(marian)
    alone = [engine.translate([text], "en", "de")[0] for text in TEXTS[:6]]
    mixed = ["", TEXTS[4], "  ", TEXTS[0], "\n", TEXTS[4], TEXTS[2]]
    found = engine.translate(mixed, "en", "de")
    assert [found[place] for place in (0, 2, 4)] == ["", "", ""]
    shorter = min(map(len, alone))  # how long a hypothesis may be depends on the batch
    expected = [alone[4], alone[0], alone[4], alone[2]]
    assert [found[place][:shorter] for place in (1, 3, 5, 6)] == [text[:shorter] for text in expected]
    assert engine.translate([], "en", "de") == []
    assert engine.translate(["", " "], "en", "de") == ["", ""]


def test_equal_batches_give_equal_translations(marian):
    first = opus(marian, compute="int8", beam_size=4)
    texts = [*TEXTS, "😀 🐕", "zzz", *reversed(TEXTS)]
    once = first.translate(texts, "en", "de")
    first.translate(TEXTS[:7], "en", "sv")
    assert first.translate(texts, "en", "de") == once
    assert opus(marian, compute="int8", beam_size=4).translate(texts, "en", "de") == once


def test_a_text_longer_than_the_model_reads_is_translated_in_pieces(marian):
    engine = opus(marian)
    found = engine.translate([" ".join(TEXTS[:4]), "a dog. " * 400, "x" * 1000], "en", "de")
    assert all(found)
    pieces: list[list[str]] = []

    def encode(texts: list[str]) -> list[list[int]]:
        return [list(range(len(text.split()) + 1)) for text in texts]

    def generate(tokens, max_length):
        pieces.append([len(ids) for ids in tokens])
        return [list(ids) for ids in tokens]

    def decode(batch):
        return [str(len(ids) - 1) for ids in batch]

    text = "one two three. four five six. seven eight nine. " * 5
    counts = seq2seq.translate_texts(
        [text, "ten"], encode=encode, generate=generate, decode=decode, positions=20, target="de"
    )
    assert max(pieces[0]) <= 10
    assert sum(map(int, counts[0].split())) == 45, "no word is lost"
    assert counts[1] == "1"


def test_a_model_is_converted_once(monkeypatch, marian, cache):
    opus(marian).translate(["a dog"], "en", "de")
    monkeypatch.setattr(ctranslate, "_convert", lambda *given: pytest.fail("converted again"))
    opus(marian).translate(["a dog"], "en", "de")
    kept = [path.name for path in cache.iterdir() if not path.name.startswith(".")]
    assert len(kept) == 1
    assert kept[0].startswith("opus-mt-en-gem-float32-")


def test_what_decides_makes_a_copy_of_its_own(tmp_path, marian, cache):
    other = tmp_path / "opus-mt-en-gem"
    shutil.copytree(marian, other)
    for folder, compute in ((marian, "float32"), (marian, "int8"), (other, "int8")):
        opus(folder, compute=compute).translate(["a dog"], "en", "de")
    assert len([path for path in cache.iterdir() if not path.name.startswith(".")]) == 3


def test_a_killed_conversion_leaves_nothing_that_is_read(marian, cache, tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom babelclip.translate import ctranslate\n"
        "from babelclip.translate.engine import open_engine\n"
        "def stuck(checkpoint, tokenizer, compute, folder):\n"
        "    (folder / 'model.bin').write_bytes(b'half')\n    print('there', flush=True)\n    time.sleep(60)\n"
        "ctranslate._convert = stuck\n"
        "open_engine('opus', models={'*': sys.argv[1]}, compute='float32').translate(['a dog'], 'en', 'de')\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program, str(marian)], stdout=subprocess.PIPE, env={**os.environ}, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "there\n"
    started.send_signal(signal.SIGKILL)
    started.wait()
    left = [path for path in cache.glob(".*.part")]
    assert len(left) == 1
    assert not [path for path in cache.iterdir() if not path.name.startswith(".")]
    assert opus(marian).translate(TEXTS[:2], "en", "de") == by_transformers(
        marian, [f">>deu<< {text}" for text in TEXTS[:2]]
    )
    assert not [path for path in cache.glob(".*.part")], "the next conversion removes what the killed one left"


def test_a_model_that_the_converter_cannot_take_runs_through_transformers(monkeypatch, marian, caplog):
    expected = opus(marian).translate(TEXTS, "en", "de")

    def gives_up(*given):
        raise ctranslate.UnsupportedError("it is a test")

    monkeypatch.setattr(ctranslate, "converted", gives_up)
    for compute in ("float32", "int8"):
        assert opus(marian, compute=compute).translate(TEXTS, "en", "de") == expected
    assert "runs through transformers, which is slower: it is a test" in caplog.text


def test_two_vocabularies_are_left_to_transformers(marian, tmp_path, caplog):
    folder = tmp_path / "two"
    shutil.copytree(marian, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "share_encoder_decoder_embeddings": False}))
    with pytest.raises(BabelclipError, match=r"lacks .* tensors"):  # these weights have one vocabulary
        opus(folder).translate(["a dog"], "en", "de")
    assert "vocabularies of their own" in caplog.text


def test_random_weights_never_stand_in_for_missing_ones(marian, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(marian, folder)
    model = transformers.MarianMTModel.from_pretrained(folder)
    weights = {name: value.clone() for name, value in model.state_dict().items() if "layers.1.fc1" not in name}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(BabelclipError, match=r"lacks 4 tensors.*fc1"):
        opus(folder).translate(["a dog"], "en", "de")


def test_a_number_format_that_the_machine_lacks_is_named_with_those_it_has(marian):
    with pytest.raises(BabelclipError, match=r"compute='float16' is not available on this cpu.*float32, int"):
        opus(marian, compute="float16").translate(["a dog"], "en", "de")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error(marian):
    with pytest.raises(BabelclipError, match="device='cuda', but 0 GPUs are here"):
        opus(marian, device="cuda").translate(["a dog"], "en", "de")


def test_a_folder_that_is_no_translation_model_says_what_it_is(marian, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(marian, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "m2m_100"}))
    with pytest.raises(BabelclipError, match=r"of type 'm2m_100'; this engine takes marian.*nllb for m2m_100"):
        opus(folder).translate(["a dog"], "en", "de")
    shutil.copy(marian / "config.json", folder)
    (folder / "target.spm").unlink()
    with pytest.raises(BabelclipError, match=r"lacks target\.spm of its tokenizer"):
        opus(folder).translate(["a dog"], "en", "de")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BabelclipError, match="lacks the weights"):
        opus(folder).translate(["a dog"], "en", "de")


def test_without_a_network_a_missing_model_is_met_with_the_command_that_fetches_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.monotonic()
    with pytest.raises(BabelclipError, match="hf download Helsinki-NLP/opus-mt-en-de --revision main"):
        open_engine("opus").translate(["a dog"], "en", "de")
    assert time.monotonic() - start < 5
    with pytest.raises(BabelclipError, match="is no folder, and no name of a hub repository"):
        opus(Path("nowhere")).model("de")


def test_the_model_is_named_for_manifests(marian):
    assert opus(marian).model("de") == str(marian)


def test_a_vocabulary_that_does_not_spell_the_texts_is_told_once(marian, caplog):
    engine = opus(marian)
    engine.translate(["ゆきのなかのいぬ 狗 猫"], "en", "de")
    engine.translate(["ゆきのなかのいぬ 狗 猫"], "en", "de")
    assert caplog.text.count("has no entry for") == 1
    assert "vocabulary is broken" in caplog.text


def test_a_model_in_the_hubs_cache_works_without_a_network_and_is_named_by_its_commit(monkeypatch, marian, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "hub" / "models--Helsinki-NLP--opus-mt-en-sla"
    shutil.copytree(marian, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    engine = open_engine("opus", models={"sl": "Helsinki-NLP/opus-mt-en-sla:swe"}, **GREEDY)
    assert engine.model("sl") == f"Helsinki-NLP/opus-mt-en-sla@{commit}"
    assert engine.translate(TEXTS, "en", "sl") == opus(marian).translate(TEXTS, "en", "sv")
    (place / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(BabelclipError, match=r"hf download Helsinki-NLP/opus-mt-en-sla .*--revision 0123"):
        open_engine("opus", models={"sl": "Helsinki-NLP/opus-mt-en-sla:swe"}, **GREEDY).translate(["x"], "en", "sl")
