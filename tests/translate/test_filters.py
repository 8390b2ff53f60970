"""What is broken is rejected with its reason, and what a person would write is kept, in many scripts."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.translate import filters as module
from babelclip.translate.filters import ALWAYS, NAMES, Sieve, make_filters, overlap, reason_to_reject

ENGLISH = "Two young dogs play with a red ball in the snow."
GOOD = {
    "sv": "Två unga hundar leker med en röd boll i snön.",
    "de": "Zwei junge Hunde spielen mit einem roten Ball im Schnee.",
    "fr": "Deux jeunes chiens jouent avec une balle rouge dans la neige.",
    "ru": "Две молодые собаки играют с красным мячом на снегу.",
    "sr": "Два млада пса играју се црвеном лоптом у снегу.",
    "sr-Latn": "Dva mlada psa igraju se crvenom loptom u snegu.",
    "el": "Δύο νεαρά σκυλιά παίζουν με μια κόκκινη μπάλα στο χιόνι.",
    "ar": "كلبان صغيران يلعبان بكرة حمراء في الثلج.",
    "he": "שני כלבים צעירים משחקים עם כדור אדום בשלג.",
    "fa": "دو سگ جوان با یک توپ قرمز در برف بازی می‌کنند.",
    "ur": "دو نوجوان کتے برف میں سرخ گیند سے کھیل رہے ہیں۔",
    "hi": "दो युवा कुत्ते बर्फ में लाल गेंद से खेलते हैं।",
    "bn": "দুটি ছোট কুকুর তুষারে একটি লাল বল নিয়ে খেলছে।",
    "ta": "இரண்டு இளம் நாய்கள் பனியில் சிவப்புப் பந்துடன் விளையாடுகின்றன.",
    "ml": "രണ്ട് ചെറിയ നായ്ക്കൾ മഞ്ഞിൽ ഒരു ചുവന്ന പന്തുമായി കളിക്കുന്നു.",
    "th": "สุนัขสองตัวเล่นลูกบอลสีแดงในหิมะ",
    "ka": "ორი ახალგაზრდა ძაღლი წითელი ბურთით თამაშობს თოვლში.",
    "am": "ሁለት ወጣት ውሾች በበረዶው ውስጥ በቀይ ኳስ ይጫወታሉ።",
    "ko": "어린 개 두 마리가 눈 속에서 빨간 공을 가지고 놀고 있다.",
    "ja": "二匹の若い犬が雪の中で赤いボールで遊んでいる。",
    "zh": "两只小狗在雪地里玩红色的球。",
    "zh-Hant": "兩隻小狗在雪地裡玩紅色的球。",
    "vi": "Hai chú chó con chơi với quả bóng đỏ trong tuyết.",
    "my": "ခွေးလေးနှစ်ကောင် နှင်းထဲတွင် ဘောလုံးနီဖြင့် ကစားနေသည်။",
}


def reason(source, text, lang, **given):
    found = reason_to_reject(source, text, lang, **given)
    return None if found is None else found.reason


@pytest.mark.parametrize("lang", GOOD)
def test_a_good_translation_is_kept(lang):
    assert reason(ENGLISH, GOOD[lang], lang) is None


@pytest.mark.parametrize("lang", [lang for lang in GOOD if lang not in ("sr-Latn", "sv", "de", "fr", "vi")])
def test_english_in_the_place_of_another_script_is_rejected(lang):
    assert reason(ENGLISH, "A pair of puppies runs after a toy outdoors.", lang) == "script"


def test_a_character_that_hong_kong_shares_with_simplified_texts_decides_nothing():
    for lang in ("zh-Hant", "yue", "zh"):
        assert reason_to_reject("A man wears a white top", "他穿着白色上衣", lang) is None
    found = reason_to_reject("A dog wears a red hat in the snow", "一只狗在雪地里戴着红色的帽子", "zh-Hant")
    assert found is not None
    assert found.reason == "script"


@pytest.mark.parametrize(
    ("lang", "written_in"),
    [
        ("sr", "sr-Latn"),
        ("sr-Latn", "sr"),
        ("zh", "zh-Hant"),
        ("zh-Hant", "zh"),
        ("ja", "ko"),
        ("ko", "ja"),
        ("zh", "ja"),
        ("ja", "zh"),
        ("hi", "bn"),
        ("ru", "el"),
        ("sv", "ru"),
        ("he", "ar"),
    ],
)
def test_a_text_in_the_script_of_another_language_is_rejected(lang, written_in):
    found = reason_to_reject(ENGLISH, GOOD[written_in], lang)
    assert found is not None
    assert found.reason == "script"
    assert 0 <= found.value < 0.5


@pytest.mark.parametrize(
    ("source", "text", "lang"),
    [
        ("A Coca-Cola bottle and a BMW", "Бутылка Coca-Cola и BMW", "ru"),
        ("BMW X5", "BMW X5", "ru"),
        ("Coca-Cola", "Coca-Cola", "ja"),
        ("Mount Fuji", "富士山", "ja"),
        ("The National Museum of Western Art", "国立西洋美術館の建物", "ja"),
        ("a supermarket", "スーパーマーケット", "ja"),
        ("2019", "2019", "he"),
        ("A girl in Seoul", "서울의 소녀", "ko"),
    ],
)
def test_names_and_numbers_keep_their_own_script(source, text, lang):
    assert reason(source, text, lang) is None


@pytest.mark.parametrize(
    ("source", "text", "rejected"),
    [
        (ENGLISH, ENGLISH, True),
        (ENGLISH, ENGLISH.upper().rstrip("."), True),
        ("a man riding a wave", "a man riding a wave", True),
        ("Golden Gate Bridge in San Francisco", "Golden Gate Bridge in San Francisco", False),
        ("Taj Mahal", "Taj Mahal", False),
        ("hot dog", "hot dog", False),
        (ENGLISH, GOOD["de"], False),
    ],
)
def test_a_copy_is_rejected_unless_it_is_a_name(source, text, rejected):
    assert (reason(source, text, "de") == "copy") is rejected


@pytest.mark.parametrize("text", ["", " ", "\n", "...", "?!", "@@", "¿?"])
def test_an_empty_translation_is_rejected(text):
    assert reason(ENGLISH, text, "es") == "empty"


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("Hund.", "de"),
        (" ".join([GOOD["sv"]] * 2 + ["Barnen tittar på medan solen går ner bakom bergen och kvällen kommer."]), "sv"),
        ("狗。", "zh"),
        ("犬", "ja"),
        ("개", "ko"),
        ("สุนัข", "th"),
    ],
)
def test_a_much_shorter_or_longer_text_is_rejected(text, lang):
    assert reason(ENGLISH, text, lang) == "length"


@pytest.mark.parametrize(
    ("source", "text", "lang"), [("A dog", "собака", "ru"), ("A dog", "狗", "zh"), ("An ox", "buey", "es")]
)
def test_short_captions_may_differ_in_length(source, text, lang):
    assert reason(source, text, lang) is None


@pytest.mark.parametrize(
    ("text", "lang", "times"),
    [
        ("Två hundar leker leker leker leker med en boll.", "sv", 4),
        ("Der Hund im Schnee, der Hund im Schnee, der Hund im Schnee.", "de", 3),
        ("Собаки играют, играют, играют, играют.", "ru", 4),
        ("两只狗在雪地里玩雪地里玩雪地里玩雪地里玩。", "zh", 4),
        ("二匹の犬がががががが雪の中で遊んでいる", "ja", 6),
        ("สุนัขเล่นในหิมะในหิมะในหิมะในหิมะ", "th", 4),
        ("Kaksi koiraa leikkiileikkiileikkiileikkiileikkii lumessa", "fi", 5),
    ],
)
def test_a_loop_is_rejected_with_how_often_it_comes(text, lang, times):
    assert reason_to_reject(ENGLISH, text, lang) == ("repetition", times)


@pytest.mark.parametrize(
    ("source", "text", "lang"),
    [
        ("No, no, no, no, says the sign", "Nej, nej, nej, nej, står det på skylten", "sv"),
        ("A very very very old car", "En väldigt väldigt väldigt gammal bil", "sv"),
        ("Two by two by two", "Två och två och två", "sv"),
        ("A sign that reads 1000000000", "En skylt med 1000000000", "sv"),
        ("He laughs .......", "Han skrattar .......", "sv"),
        ("A laughing baby boy", "哈哈哈笑的男婴", "zh"),
    ],
)
def test_what_may_come_again_is_kept(source, text, lang):
    assert reason(source, text, lang) is None


def test_every_filter_can_be_switched_off_and_the_first_that_rejects_gives_the_reason():
    text = "do do do do"
    assert reason(ENGLISH, text, "ru") == "length"
    assert reason(ENGLISH, text, "ru", names=[n for n in ALWAYS if n != "length"]) == "script"
    assert reason(ENGLISH, text, "ru", names=["repetition"]) == "repetition"
    assert reason(ENGLISH, text, "ru", names=["copy", "empty"]) is None
    assert make_filters(off=["length", "script"]).names == ("empty", "copy", "repetition")
    assert make_filters(off=["all"]).names == ()
    assert make_filters(on=["language"], round_trip=0.3).names == (*ALWAYS, "language", "round-trip")
    assert make_filters(round_trip=0.3, off=["round-trip"]) == make_filters()


def test_a_sieve_gives_one_verdict_for_each_row_in_order():
    texts = [GOOD["sv"], "", ENGLISH, GOOD["sv"]]
    found = Sieve(make_filters()).rejections([ENGLISH] * 4, texts, "sv", list)
    assert [None if one is None else one.reason for one in found] == [None, "empty", "copy", None]


def test_a_translation_that_does_not_come_back_is_rejected():
    back = {"rätt": ENGLISH, "fel": "A woman cooks soup in the kitchen."}
    sieve = Sieve(make_filters(off=["length"], round_trip=0.3))
    found = sieve.rejections([ENGLISH] * 3, ["rätt", "fel", ""], "sv", lambda texts: [back[text] for text in texts])
    assert [one and one.reason for one in found] == [None, "round-trip", "empty"]
    assert 0 < found[1].value < 0.3


def test_overlap_is_one_for_the_same_and_nothing_for_strangers():
    assert overlap(ENGLISH, ENGLISH.upper()) == pytest.approx(1)
    assert overlap("abc", "xyz") == 0
    assert overlap("", "") == 0
    # By hand: n = 1: 2 of 3 and 2 of 2; n = 2: 1 of 2 and 1 of 1; n = 3: 0 of 1 and 0 of none.
    precision, recall = (1 + 1 + 0) / 3, (2 / 3 + 1 / 2 + 0) / 3
    assert overlap("abc", "ab") == pytest.approx(5 * precision * recall / (4 * precision + recall))


class Teacher:
    """Vectors that know only whether a text speaks of dogs."""

    def encode_text(self, texts, lang):
        assert lang == ("en" if any("the" in text for text in texts) else "sv")
        return np.array([[1.0, 0.0] if "dog" in text or "hund" in text else [0.0, 1.0] for text in texts], np.float32)


def test_a_translation_far_from_its_source_is_rejected(monkeypatch):
    loaded = []
    monkeypatch.setattr("babelclip.load", lambda *given, **settings: loaded.append((given, settings)) or Teacher())
    sieve = Sieve(make_filters(similarity=0.5, teacher="some/model"), device="cpu")
    for _ in range(2):
        found = sieve.rejections([ENGLISH] * 2, [GOOD["sv"], "Två katter leker med en röd boll i snön."], "sv", list)
        assert [one and one.reason for one in found] == [None, "similarity"]
        assert found[1].value == 0.0
    assert [given for given, _settings in loaded] == [("some/model",)]


def test_language_identification_tells_languages_of_one_script_apart():
    pytest.importorskip("py3langid")
    sieve = Sieve(make_filters(on=["language"]))
    for lang, text in GOOD.items():
        assert sieve.rejections([ENGLISH], [text], lang, list) == [None], lang
    for lang, written_in in (("sv", "de"), ("fr", "vi"), ("fa", "ur"), ("ru", "sr"), ("de", "sv")):
        (found,) = sieve.rejections([ENGLISH], [GOOD[written_in]], lang, list)
        assert found is not None, (lang, written_in)
        assert found.reason == "language"
    for lang, text in (("sv", "Taj Mahal"), ("hr", GOOD["sr-Latn"]), ("tlh", GOOD["sv"])):
        assert sieve._languages([(ENGLISH, text)], lang) == [None]


def test_language_identification_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(MissingExtraError, match=r"babelclip\[langid\]"):
        Sieve(make_filters(on=["language"])).rejections([ENGLISH], [GOOD["sv"]], "sv", list)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"off": ["repetitions"]}, "Did you mean 'repetition'"),
        ({"on": ["all"]}, "not known"),
        ({"on": ["round-trip"]}, "round_trip=0.2"),
        ({"round_trip": 30.0}, "at most 1"),
        ({"similarity": 0.3}, "each needs the other"),
        ({"teacher": "m"}, "each needs the other"),
    ],
)
def test_settings_that_are_not_allowed_are_named(given, message):
    with pytest.raises(BabelclipError, match=message):
        make_filters(**given)


def test_the_names_are_those_of_the_table():
    rows = [line.split("|")[1].strip() for line in module.__doc__.splitlines() if line.startswith("| ")]
    assert tuple(rows[1:]) == NAMES
