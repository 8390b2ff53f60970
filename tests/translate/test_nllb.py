from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from babelclip.errors import BabelclipError
from babelclip.translate import ctranslate
from babelclip.translate.engine import Engine, open_engine
from tests.translate.tiny import POSITIONS, TEXTS, make_many_language_model

GREEDY = {"compute": "float32", "beam_size": 1, "threads": 1}


@pytest.fixture(scope="module")
def nllb(tmp_path_factory) -> Path:
    tokens = ("eng_Latn", "deu_Latn", "swe_Latn", "nob_Latn", "por_Latn", "zho_Hant", "zho_Hans", "sat_Beng")
    return make_many_language_model(tmp_path_factory.mktemp("models") / "nllb-tiny", tokens)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def engine_of(folder: Path, **settings) -> Engine:
    return open_engine("nllb", models={"*": str(folder)}, **{**GREEDY, **settings})


def by_transformers(folder: Path, source: str, target: str) -> list[str]:
    """Greedy translations by the library itself, with its own way to set the languages, one text at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, src_lang=source)
    model = transformers.M2M100ForConditionalGeneration.from_pretrained(folder).eval()
    ids = model.generate(
        **tokenizer(TEXTS, return_tensors="pt", padding=True),
        num_beams=1,
        do_sample=False,
        max_new_tokens=POSITIONS - 2,
        forced_bos_token_id=tokenizer.convert_tokens_to_ids(target),
    )
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


@pytest.mark.parametrize(("lang", "token"), [("de", "deu_Latn"), ("zh-Hant", "zho_Hant"), ("sat", "sat_Beng")])
def test_ctranslate2_translates_as_transformers_does(nllb, lang, token):
    expected = by_transformers(nllb, "eng_Latn", token)
    assert engine_of(nllb).translate(TEXTS, "en", lang) == expected
    assert len(set(expected)) > 3


def test_source_and_target_decide(nllb):
    engine = engine_of(nllb)
    from_english, from_swedish = (engine.translate(TEXTS, source, "de") for source in ("en", "sv"))
    assert from_english != from_swedish
    assert from_english != engine.translate(TEXTS, "en", "sv")
    assert from_swedish == by_transformers(nllb, "swe_Latn", "deu_Latn")


def test_norwegian_and_regions_are_served_by_their_standard(nllb):
    engine = engine_of(nllb)
    assert {"no", "nb", "sat", "zh-Hant", "pt-BR", "ko"} <= set(engine.languages())
    assert engine.model("nb") == engine.model("no") == str(nllb)
    assert engine.translate(TEXTS[:3], "en", "no") == engine.translate(TEXTS[:3], "en", "nb")
    assert engine.translate(TEXTS[:3], "en", "pt-BR") == engine.translate(TEXTS[:3], "en", "pt")


def test_a_language_that_the_model_lacks_is_named(nllb):
    with pytest.raises(BabelclipError, match=r"does not have fr \(French\): its vocabulary lacks fra_Latn and __fr__"):
        engine_of(nllb).translate(["a dog"], "en", "fr")


def test_the_codes_of_m2m100_are_read_from_its_vocabulary(tmp_path):
    folder = make_many_language_model(tmp_path / "m2m100", ("__en__", "__de__", "__tl__"))
    engine = engine_of(folder)
    assert engine.translate(TEXTS[:4], "en", "de") != engine.translate(TEXTS[:4], "en", "fil")


def test_m2m100_serves_languages_beyond_flores_and_no_second_script(tmp_path):
    folder = make_many_language_model(tmp_path / "m2m100", ("__en__", "__br__", "__zh__", "__ns__"))
    engine = open_engine("nllb", models={"br": str(folder), "*": str(folder)}, **GREEDY)
    assert "br" in engine.languages()
    found = [engine.translate(TEXTS[:6], "en", lang) for lang in ("br", "nso", "zh")]
    assert len(set(map(tuple, found))) == 3
    with pytest.raises(BabelclipError, match=r"does not have zh-Hant \(.*\): its vocabulary lacks"):
        engine.translate(TEXTS[:2], "en", "zh-Hant")


def test_without_ctranslate2_support_transformers_says_the_same(monkeypatch, nllb):
    expected = engine_of(nllb).translate(TEXTS, "en", "de")

    def gives_up(*given):
        raise ctranslate.UnsupportedError("it is a test")

    monkeypatch.setattr(ctranslate, "converted", gives_up)
    assert engine_of(nllb).translate(TEXTS, "en", "de") == expected


def test_empty_texts_stay_empty_and_equal_batches_are_equal(nllb):
    engine = engine_of(nllb, compute="int8", beam_size=3)
    texts = ["", *TEXTS, " ", "😀"]
    found = engine.translate(texts, "en", "de")
    assert found[0] == found[-2] == ""
    assert engine.translate(texts, "en", "de") == found


def test_without_a_network_the_model_of_the_table_is_met_with_the_command_that_fetches_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BabelclipError, match="hf download facebook/nllb-200-distilled-600M --revision main"):
        open_engine("nllb").translate(["a dog"], "en", "ko")
