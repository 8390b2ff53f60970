from __future__ import annotations

import pytest

from babelclip import languages
from babelclip.errors import BabelclipError
from babelclip.translate import table


def test_the_original_has_48_rows_47_codes_36_models_and_19_tags():
    rows = table.original()
    assert [row.number for row in rows] == list(range(48))
    assert len({row.code for row in rows}) == 47
    assert len({row.model for row in rows if row.model}) == 36
    assert sum(bool(row.tag) for row in rows) == 19
    assert [row.name for row in rows if not row.model] == ["english"]


def test_rows_are_those_of_the_original():
    rows = {row.name: row for row in table.original()}
    assert rows["polish"][2:] == ("pl", "pl", "Helsinki-NLP/opus-mt-en-sla", "pol")
    assert rows["uyghur"][2:] == ("ug", "ug", "Helsinki-NLP/opus-mt-en-trk", "uig_Arab")
    assert rows["japanese"][2:] == ("ja", "ja", "Helsinki-NLP/opus-mt-en-jap", "")
    assert rows["tagalog"][2:] == ("tl", "fil", "Helsinki-NLP/opus-mt-en-tl", "")


def test_both_chinese_scripts_are_languages_of_their_own():
    rows = {row.name: (row.lang, row.tag) for row in table.original() if row.code == "zh"}
    assert rows == {"chinese_simplified": ("zh", "cmn_Hans"), "chinese_traditional": ("zh-Hant", "cmn_Hant")}
    assert table.recommended("zh_TW").tag == "cmn_Hant"


def test_48_stands_for_the_rows_of_the_original_without_english():
    assert table.targets("48") == [row.lang for row in table.original() if row.name != "english"]
    assert table.targets(" ko, 48 ,swe_Latn")[:2] == ["ko", "af"]
    assert len(table.targets("ko,48,sv")) == 48


def test_targets_are_canonical_and_each_once():
    assert table.targets("deu_Latn,de,zh_TW,jp") == ["de", "zh-Hant", "ja"]
    with pytest.raises(languages.UnknownLanguageError):
        table.targets("sv,swedisch")
    with pytest.raises(BabelclipError, match="names no language"):
        table.targets(" , ")


def test_every_code_of_the_table_is_canonical_and_has_a_model():
    for lang in table.known():
        choice = table.recommended(lang)
        assert choice.lang == lang == languages.normalize(lang)
        assert choice.engine in ("opus", "nllb")
        assert choice.model.count("/") == 1
        assert not choice.tag or choice.engine == "opus"


def test_what_the_original_missed_is_there():
    missed = "ko th fa ka kk lv ms ps he fi nb no lt ta ne gu kn pa si my km lo mn ky tg hy be gl eu cy ga".split()
    first = {row.lang for row in table.original()}
    assert not first & set(missed)
    assert {table.recommended(lang).engine for lang in missed} == {"opus", "nllb"}
    assert table.recommended("fi").model == "Helsinki-NLP/opus-mt-tc-big-en-fi"
    assert table.recommended("bem").engine == "nllb"  # in no table, but one of FLORES-200


def test_a_better_model_comes_with_its_reason():
    assert "scripture" in table.recommended("ja").why
    assert table.recommended("ja").model != "Helsinki-NLP/opus-mt-en-jap"
    assert "nonsense" in table.recommended("ko").why
    assert table.recommended("de").model == "Helsinki-NLP/opus-mt-en-de"
    assert table.recommended("de").why == ""


def test_the_engine_opus_can_be_wanted_where_another_is_recommended():
    assert table.recommended("am").engine == "nllb"
    assert table.opus_model("am")[2:4] == ("Helsinki-NLP/opus-mt-en-mul", "amh")
    assert table.opus_model("sv") == table.recommended("sv")
    assert table.opus_model("th") is None


def test_a_language_without_a_model_is_an_error():
    with pytest.raises(BabelclipError, match=r"No model is known.*give a model of your own"):
        table.recommended("vo")
    with pytest.raises(BabelclipError, match="No model is known"):
        table.recommended("en")
