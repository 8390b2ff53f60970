"""Codes of every source the project meets lead to one canonical code."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelclip import languages
from babelclip.languages import UnknownLanguageError

TUX_PAINT = """sk pt ja is gl fr cs ca@valencia ca uk sv son sl ru pt_BR pl nl ka hr gu gd ga ff es en_GB el de da an
vec lv ko it id hy hu fi eo am sq eu nn nb en_AU sr af tr sr@latin ml hi bg be ast iu ro ach vi ar zh_TW zh_CN th ms
km zu he kab fa mk sw cy lt ku shs ta nso ak oc""".split()
EMOJI = "en ar de es fa fr id it ja ko pt ru tr zh".split()
XM3600 = """ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi
zh""".split()
MCLIP = """af sq am ar az bn bs bg ca zh hr cs da nl en et fr de el hi hu is id it ja mk ml mr pl pt ro ru sr sl es sw
sv tl te tr tk uk ur ug uz vi xh""".split()
XTD = "en de fr es it ko pl ru tr zh jp".split()
FURTHER = "ko th fa ka kk lv ms ps he fi no nb lt ta ne".split()
FLORES_SAMPLE = """ace_Arab ace_Latn als_Latn arb_Arab azj_Latn ckb_Arab deu_Latn eng_Latn est_Latn gaz_Latn kas_Arab
kas_Deva khk_Cyrl kmr_Latn knc_Arab knc_Latn kor_Hang lvs_Latn mni_Beng npi_Deva ory_Orya pbt_Arab pes_Arab plt_Latn
sat_Olck srp_Cyrl swh_Latn tgl_Latn twi_Latn aka_Latn uzn_Latn ydd_Hebr yue_Hant zho_Hans zho_Hant zsm_Latn""".split()


@pytest.mark.parametrize("code", [*TUX_PAINT, *EMOJI, *XM3600, *MCLIP, *XTD, *FURTHER])
def test_every_code_of_the_data_sets_is_known_and_canonical_after_one_step(code):
    canonical = languages.normalize(code)
    assert languages.normalize(canonical) == canonical
    assert canonical in languages.known()


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("jp", "ja"),
        ("cn", "zh"),
        ("iw", "he"),
        ("in", "id"),
        ("tl", "fil"),
        ("no", "no"),
        ("zh_CN", "zh"),
        ("zh_TW", "zh-Hant"),
        ("zh-Hans-CN", "zh"),
        ("zh_hk", "zh-Hant-HK"),
        ("pt_BR", "pt-BR"),
        ("pt-Latn-BR", "pt-BR"),
        ("ca@valencia", "ca-valencia"),
        ("sr@latin", "sr-Latn"),
        ("sr_RS@latin", "sr-Latn"),
        ("sv_SE.UTF-8", "sv"),
        ("de_DE@euro", "de"),
        ("GER", "de"),
        ("deu_latn", "de"),
        ("kor_Hang", "ko"),
        ("sat_Beng", "sat"),
        ("FR-be", "fr-BE"),
        ("ru_Latn", "ru-Latn"),
        (" sv ", "sv"),
    ],
)
def test_aliases_lead_to_the_canonical_code(given, canonical):
    assert languages.normalize(given) == canonical


def test_flores_codes_come_back_as_they_went_in_and_never_collide():
    for code in FLORES_SAMPLE:
        assert languages.flores(code) == code
    codes = [languages.flores(code) for code in languages.known()]
    present = [code for code in codes if code]
    assert len(present) == len(set(present)) == 204
    assert languages.flores("shs") is None


def test_scripts_and_directions_are_those_of_the_language():
    scripts = {"ja": "Jpan", "ko": "Kore", "zh": "Hans", "zh_TW": "Hant", "sr": "Cyrl", "sr@latin": "Latn"}
    assert {code: languages.script(code) for code in scripts} == scripts
    right_to_left = {code for code in languages.known() if languages.is_rtl(code)}
    assert {"ar", "fa", "he", "ur", "ug", "ps", "yi", "ckb", "sd", "dv", "ks", "azb"} <= right_to_left
    assert not {"en", "hi", "ku", "az", "ms", "am", "ks-Deva"} & right_to_left
    assert languages.is_rtl("he_IL")


def test_names_are_english_and_native_ones_are_their_own():
    assert languages.name("zh_TW") == "Chinese (Traditional)"
    assert languages.name("quz") == "Cusco Quechua"
    assert languages.native_name("ja") == "日本語"
    assert languages.native_name("sv") == "svenska"


def test_every_row_of_the_table_is_complete():
    for code in languages.known():
        facts = languages.lookup(code)
        assert facts.code == code
        assert facts.name
        assert facts.native
        assert len(facts.script) == 4
        assert facts.script.istitle()
    assert len(languages.known()) > 400
    assert list(languages.known()) == sorted(languages.known())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("swedish", "sv (Swedish)"),
        ("deutsch", "de (German)"),
        ("chinese", "zh (Chinese (Simplified))"),
        ("cz", "cs (Czech)"),
        ("dk", "da (Danish)"),
        ("ua", "uk (Ukrainian)"),
        ("norweigan", "no (Norwegian)"),
        ("sv-XX", "sv (Swedish)"),
        ("swe_Latm", "sv (Swedish)"),
        ("ukk", "uk (Ukrainian)"),
    ],
)
def test_an_unknown_code_names_the_language_that_was_meant(given, expected):
    with pytest.raises(UnknownLanguageError) as error:
        languages.normalize(given)
    message = str(error.value)
    assert repr(given) in message
    assert "Allowed" in message
    assert expected in message


@pytest.mark.parametrize("given", ["", "-", "@", "klingon!", None, 7, "sv-se-no", "zh-Foo"])
def test_nonsense_is_an_error_of_the_library(given):
    with pytest.raises(UnknownLanguageError, match="not a language code"):
        languages.normalize(given)


@given(st.sampled_from(languages.known()), st.booleans(), st.booleans())
def test_case_and_separator_do_not_matter(code, upper, underscore):
    spelled = code.upper() if upper else code.lower()
    assert languages.normalize(spelled.replace("-", "_") if underscore else spelled) == code


@given(st.text(max_size=12))
def test_any_text_is_either_a_known_code_or_a_clear_error(text):
    try:
        canonical = languages.normalize(text)
    except UnknownLanguageError:
        return
    assert languages.normalize(canonical) == canonical


def test_a_declared_language_covers_its_regions_but_not_another_script():
    assert languages.covers(["pt"], "pt_BR")
    assert languages.covers(["ca"], "ca@valencia")
    assert languages.covers(["deu_Latn"], "de-AT")
    assert languages.covers(["no"], "nb")
    assert languages.covers(["nb"], "no")
    assert languages.covers(["tl"], "fil")
    assert languages.covers(["jp"], "ja")
    assert not languages.covers(["zh"], "zh-Hant")
    assert not languages.covers(["sr"], "sr-Latn")
    assert not languages.covers(["pt-BR"], "pt")
    assert not languages.covers([], "en")


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("sv", "sv"),
        ("pt-BR", "pt"),
        ("zh-HK", "zh-Hant"),
        # XM3600 has Norwegian and Cusco Quechua, FLORES has Bokmål and Ayacucho Quechua.
        ("no", "nb"),
        ("nn", "nn"),
        ("quz", "quy"),
        ("qu", "quy"),
        ("sr-Latn", None),
        ("br", None),
    ],
)
def test_a_language_that_flores_lacks_is_read_as_its_kin_in_the_same_script(code, read):
    assert languages.read_as(code) == read
    assert languages.flores(code) is None or read == languages.normalize(code)


def test_importing_the_module_loads_neither_torch_nor_the_table():
    code = (
        "import sys; from babelclip import languages; "
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules); "
        "assert languages._table.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
