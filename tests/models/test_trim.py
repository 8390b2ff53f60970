from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import babelclip
from babelclip.errors import BabelclipError
from babelclip.languages import UnknownLanguageError
from babelclip.models.text import TextEncoder, build_text_backbone
from babelclip.models.tokenization import TextTokenizer
from babelclip.models.trim import tokens_to_keep, trim, trim_text
from babelclip.models.trim_report import held_out, largest_difference, measure, texts_of_pieces, trim_report
from babelclip.models.vocabulary import read_vocabulary
from babelclip.scripts import scripts_of
from tests.conftest import make_clip
from tests.golden.inputs import GIVEN

GOLDEN = Path(__file__).parents[1] / "golden"
# One of each kind of tokenizer and of each rule about ids: positions counted from padding (XLM-R, NLLB), pooling at an
# end token (CLIP, MetaCLIP 2), rows filled with a padding that is read (SigLIP), a language token (NLLB).
PUBLISHED = (
    "mclip_xlmr", "clip", "openclip_vit", "siglip", "siglip2_fixed", "openclip_nllb_siglip", "metaclip2",
    "contrastive_tension_bert", "contrastive_tension_roberta", "mclip_distilbert", "openclip_worldwide",
)  # fmt: skip
CAPTIONS = {"en": ["a dog in the snow!", "The DOG's tail"], "sv": ["hundar i snön"]}


def tower(tokenizer: Tokenizer, pad_id: int = 0, model_type: str = "bert") -> TextEncoder:
    """A narrow random encoder around any tokenizer."""
    text_tokenizer = TextTokenizer(tokenizer, max_length=32, pad_id=pad_id)
    torch.manual_seed(0)
    config = {
        "model_type": model_type, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "vocab_size": text_tokenizer.vocabulary_size, "max_position_embeddings": 32,
        "pad_token_id": pad_id,
    }  # fmt: skip
    return TextEncoder(build_text_backbone(config), pooling="mean", head=[], tokenizer=text_tokenizer).eval()


def segments(text: TextEncoder, texts: list[str]) -> list[list[str]]:
    """The pieces of texts as written in the vocabulary, which do not depend on ids."""
    pieces = read_vocabulary(text.tokenizer).pieces
    return [[pieces[index] for index in row] for row in text.tokenize(texts)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_covered_text_keeps_its_vectors_bit_for_bit_in_every_published_form(name, tmp_path):
    clip = babelclip.load(GOLDEN / name, towers="text", device="cpu")
    small = trim(clip, tokens_to_keep(clip.text, ["en", "sv"], CAPTIONS), ["en", "sv"])
    covered = [text for texts in CAPTIONS.values() for text in texts] + [""]
    before = clip.encode_text(covered, normalize=False)
    np.testing.assert_array_equal(small.encode_text(covered, normalize=False), before)
    assert segments(small.text, covered) == segments(clip.text, covered)
    assert len(small.text.backbone.get_input_embeddings().weight) < len(
        clip.text.backbone.get_input_embeddings().weight
    )

    small.save(tmp_path / "small")
    again = babelclip.load(tmp_path / "small", device="cpu")
    np.testing.assert_array_equal(again.encode_text(covered, normalize=False), before)
    np.testing.assert_array_equal(clip.encode_text(covered, normalize=False), before)


@pytest.mark.parametrize("name", PUBLISHED)
def test_any_text_in_the_scripts_keeps_its_vectors_without_captions(name):
    clip = babelclip.load(GOLDEN / name, towers="text", device="cpu")
    small = trim(clip, tokens_to_keep(clip.text, ["ru", "ko", "ja"]), ["ru", "ko", "ja"])
    texts = ["две собаки", "두 마리 개", "二匹の犬", "犬 12, 개! ...", "собаки犬개"]
    assert segments(small.text, texts) == segments(clip.text, texts)
    assert largest_difference(clip, small, texts) == (len(texts), 0.0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_special_tokens_keep_their_roles(name):
    clip = babelclip.load(GOLDEN / name, towers="text", device="cpu")
    old, new = clip.text, trim_text(clip.text, tokens_to_keep(clip.text, ["ko"]))
    was, now = read_vocabulary(old.tokenizer), read_vocabulary(new.tokenizer)
    assert now.pieces[new.tokenizer.pad_id] == was.pieces[old.tokenizer.pad_id]
    assert sorted(now.pieces[i] for i in now.added) == sorted(was.pieces[i] for i in was.added)
    assert (now.unknown is None) == (was.unknown is None)
    if was.unknown is not None:
        assert now.pieces[now.unknown] == was.pieces[was.unknown]
    if old.tokenizer.eos_id is not None:
        assert now.pieces[new.tokenizer.eos_id] == was.pieces[old.tokenizer.eos_id]
    assert new.backbone.config.vocab_size == len(new.backbone.get_input_embeddings().weight)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        index = getattr(old.backbone.config, key, None)
        if index in was.pieces:
            assert now.pieces[getattr(new.backbone.config, key)] == was.pieces[index], key
    if "XLM" in type(old.backbone).__name__ or "M2M" in type(old.backbone).__name__:
        assert new.backbone.config.pad_token_id == old.backbone.config.pad_token_id, "positions count from it"


def test_the_language_token_of_nllb_still_leads():
    clip = babelclip.load(GOLDEN / "openclip_nllb_siglip", towers="text", device="cpu")
    small = trim(clip, tokens_to_keep(clip.text, ["sv"], {"sv": CAPTIONS["sv"]}), ["sv"])
    for lang in ("en", "sv"):
        wanted = clip.encode_text(CAPTIONS["sv"], normalize=False, lang=lang)
        np.testing.assert_array_equal(small.encode_text(CAPTIONS["sv"], normalize=False, lang=lang), wanted)


def test_rows_are_the_same_and_everything_else_is_shared():
    clip = make_clip()
    keep = tokens_to_keep(clip.text, ["zh"])
    small = trim(clip, keep, ["zh"])
    old, new = (one.text.backbone.get_input_embeddings().weight for one in (clip, small))
    assert torch.equal(new, old[torch.from_numpy(keep)])
    shared = dict(clip.text.named_parameters())
    for name, parameter in small.text.named_parameters():
        assert (parameter is shared[name]) == ("word_embeddings" not in name), name
    assert small.image is clip.image
    assert (small.space, small.logit_scale, small.embed_dim) == (clip.space, clip.logit_scale, clip.embed_dim)
    assert len(old) == clip.text.tokenizer.vocabulary_size


def test_a_new_word_is_cut_into_letters_and_never_unknown():
    clip = make_clip()
    small = trim(clip, tokens_to_keep(clip.text, ["en", "sv"], {"en": ["a red dog"], "sv": ["röd"]}))
    assert segments(small.text, ["blue"]) == [["<s>", "▁", "b", "l", "u", "e", "</s>"]]
    assert segments(clip.text, ["blue"]) == [["<s>", "▁blue", "</s>"]]
    assert segments(small.text, ["狗"])[0] == ["<s>", "▁", "<unk>", "</s>"]


def test_ascii_letters_and_digits_stay_whatever_the_language():
    clip = make_clip()
    small = trim(clip, tokens_to_keep(clip.text, ["zh"]), ["zh"])
    assert "<unk>" not in segments(small.text, ["qwertz 2026 狗!"])[0]
    assert "▁dog" not in read_vocabulary(small.text.tokenizer).pieces.values()


def test_name_languages_and_attribution_say_what_was_done():
    clip = dataclasses.replace(make_clip(), languages=("en", "sv", "zh", "ar"))
    small = trim(clip, tokens_to_keep(clip.text, ["sv"]), ["sv"])
    assert (small.name, small.languages) == ("tiny-trimmed", ("en", "sv")), "all of Latin stayed"
    assert small.attribution[-1].startswith("Vocabulary trimmed by babelclip to ")
    assert small.attribution[-1].endswith("for sv")
    narrow = trim(clip, tokens_to_keep(clip.text, ["sv"], {"sv": ["två hundar"]}), ["sv"])
    assert narrow.languages == ("sv",), "English has lost pieces"
    assert clip.attribution == ()


def test_trimming_again_changes_nothing_and_is_reported():
    clip = make_clip()
    once = trim(clip, tokens_to_keep(clip.text, ["sv"]), ["sv"])
    twice = trim(once, tokens_to_keep(once.text, ["sv"]), ["sv"])
    report = trim_report(once, twice)
    assert report["pieces"] == report["pieces_before"]
    assert (report["trimmed_before"], trim_report(clip, once)["trimmed_before"]) == (True, False)
    assert twice.name == "tiny-trimmed"


def test_the_prefix_is_kept_for_any_language():
    text = make_clip().text
    text.tokenizer = TextTokenizer(
        Tokenizer.from_str(text.tokenizer.to_json()), max_length=16, pad_id=1, prefix="the dog: "
    )
    small = trim_text(text, tokens_to_keep(text, ["zh"]))
    assert segments(small, ["狗"]) == segments(text, ["狗"])
    assert segments(small, ["狗"])[0][1:3] == ["▁the", "▁dog"]


def test_captions_longer_than_the_model_reads_are_covered_to_their_end():
    clip = make_clip()
    keep = tokens_to_keep(clip.text, ["en"], {"en": ["a " * 40 + "star"]})
    assert "▁star" in read_vocabulary(trim_text(clip.text, keep).tokenizer).pieces.values()


def test_rare_pieces_go_with_min_count():
    clip = make_clip()
    captions = {"en": ["a red dog", "a red cat", "a dog"]}
    kept = read_vocabulary(trim_text(clip.text, tokens_to_keep(clip.text, ["en"], captions, min_count=2)).tokenizer)
    assert {"▁a", "▁red", "▁dog"} <= set(kept.pieces.values())
    assert "▁cat" not in kept.pieces.values()


def test_a_language_without_captions_keeps_its_script_beside_one_with():
    clip = make_clip()
    pieces = read_vocabulary(trim_text(clip.text, tokens_to_keep(clip.text, ["en", "ru"], {"en": ["a dog"]})).tokenizer)
    assert "▁красный" in pieces.pieces.values()
    assert "▁square" not in pieces.pieces.values()


LETTERS = "abcd"
WORDS = st.text(LETTERS, min_size=1, max_size=8)
SENTENCES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def unigram(scores: dict[str, float], byte_fallback: bool = False) -> Tokenizer:
    pieces = [("<pad>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *scores.items()]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def bpe(merges: list[tuple[int, int]], suffix: str = "") -> Tokenizer:
    """A BPE tokenizer whose merges join any two symbols made so far, in any order of ranks."""
    symbols = ["▁", *LETTERS, *([letter + suffix for letter in LETTERS] if suffix else [])]
    pairs: dict[tuple[str, str], None] = {}
    for left, right in merges:
        first, second = symbols[left % len(symbols)], symbols[right % len(symbols)]
        if not (suffix and first.endswith(suffix)) and not second.startswith("▁"):
            pairs[first, second] = None
            symbols.append(first + second)
    ranked = sorted(pairs, key=lambda pair: hash_of("".join(pair)))
    vocabulary = {piece: index for index, piece in enumerate(["<pad>", "<unk>", *dict.fromkeys(symbols)])}
    marks = {"end_of_word_suffix": suffix} if suffix else {}
    model = models.BPE(vocab=vocabulary, merges=ranked, unk_token="<unk>", **marks)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if suffix else pre_tokenizers.Metaspace()
    return tokenizer


def hash_of(text: str) -> int:
    """An order that has nothing to do with how pieces were built, the same in every run."""
    return sum(ord(c) * 7919**at for at, c in enumerate(text)) % 10007


def wordpiece(pieces: list[str]) -> Tokenizer:
    """A WordPiece tokenizer that lacks letters, so that words end as unknown."""
    vocabulary = {piece: index for index, piece in enumerate(["[PAD]", "[UNK]", *dict.fromkeys(pieces)])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def assert_covered_texts_are_cut_alike(tokenizer: Tokenizer, covered: list[str]) -> None:
    text = tower(tokenizer)
    small = trim_text(text, tokens_to_keep(text, ["en"], {"en": covered}))
    assert segments(small, covered) == segments(text, covered)
    vectors = text.encode(covered, normalize=False)
    np.testing.assert_array_equal(small.encode(covered, normalize=False), vectors)


@QUICK
@given(
    st.dictionaries(st.text(LETTERS + "▁", min_size=1, max_size=5), st.integers(-40, -1), min_size=1, max_size=25),
    st.lists(SENTENCES, min_size=1, max_size=4),
)
def test_unigram_cuts_covered_texts_alike_ties_and_missing_letters_included(scores, covered):
    # Scores of few values make equal sums; "d" is often missing and becomes unknown.
    assert_covered_texts_are_cut_alike(unigram({p: s / 4 for p, s in scores.items() if p != "▁"}), covered)


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=25),
    st.lists(SENTENCES, min_size=1, max_size=4),
    st.sampled_from(["", "</w>"]),
)
def test_bpe_cuts_covered_texts_alike_whatever_the_order_of_merges(merges, covered, suffix):
    assert_covered_texts_are_cut_alike(bpe(merges, suffix), covered)


@QUICK
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "##"]), st.text(LETTERS, min_size=1, max_size=4)).map("".join), max_size=25
    ),
    st.lists(SENTENCES, min_size=1, max_size=4),
)
def test_wordpiece_cuts_covered_texts_alike_unknown_words_included(pieces, covered):
    assert_covered_texts_are_cut_alike(wordpiece([*pieces, "a", "##a"]), covered)


def test_a_unigram_piece_of_the_lowest_score_stays_so_that_unknown_costs_the_same():
    # "xbcd" is xb + cd (-30): an unknown x before "bcd" costs -50 - 10 - 1. Without "low" it would be -15 - 10 - 1.
    text = tower(unigram({"xb": -15.0, "cd": -15.0, "bcd": -1.0, "low": -50.0}))
    covered = ["xbcd", "bcd"]
    small = trim_text(text, tokens_to_keep(text, ["en"], {"en": covered}))
    assert segments(small, covered) == segments(text, covered) == [["▁", "xb", "cd"], ["▁", "bcd"]]


def test_bpe_keeps_the_merges_on_the_way_and_drops_those_of_other_words():
    # "abc" is a + bc, and bc must stay; "abd" went ab + d, and without ab it falls apart but stays known.
    tokenizer = Tokenizer(
        models.BPE(
            vocab={p: i for i, p in enumerate(["<pad>", "a", "b", "c", "d", "bc", "abc", "ab", "abd"])},
            merges=[("b", "c"), ("a", "bc"), ("a", "b"), ("ab", "d")],
        )
    )
    text = tower(tokenizer)
    small = trim_text(text, tokens_to_keep(text, ["en"], {"en": ["abc"]}))
    assert segments(text, ["abc", "abd"]) == [["abc"], ["abd"]]
    assert segments(small, ["abc", "abd"]) == [["abc"], ["a", "b", "d"]]
    content = json.loads(small.tokenizer.to_json())
    assert content["model"]["merges"] == [["b", "c"], ["a", "bc"]]


def test_wordpiece_keeps_the_pieces_of_a_dead_end():
    # "abcd" takes "abc", and nothing fits the rest; without "abc" it would be cut into "ab" and "##cd".
    text = tower(wordpiece(["a", "b", "c", "d", "ab", "abc", "##cd"]))
    covered = ["abcd", "ab", "bcd"]
    assert segments(text, covered) == [["[UNK]"], ["ab"], ["b", "##cd"]]
    small = trim_text(text, tokens_to_keep(text, ["en"], {"en": covered}))
    assert segments(small, covered) == segments(text, covered)


def test_positions_that_count_from_the_padding_stay_where_they_were():
    tokenizer = Tokenizer(models.Unigram([("ж", -2.0), ("я", -2.0), ("<pad>", 0.0), ("<unk>", 0.0), ("a", -1.0)], 3))
    text = tower(tokenizer, pad_id=2, model_type="xlm-roberta")
    small = trim_text(text, tokens_to_keep(text, ["en"]))
    assert (small.tokenizer.pad_id, small.backbone.config.pad_token_id) == (2, 2)
    texts = ["a", "aaa"]
    np.testing.assert_array_equal(small.encode(texts, normalize=False), text.encode(texts, normalize=False))


def test_bytes_of_a_byte_level_tokenizer_always_stay():
    clip = babelclip.load(GOLDEN / "clip", towers="text", device="cpu")
    small = trim(clip, tokens_to_keep(clip.text, ["en"], {"en": ["a dog"]}), ["en"])
    ids = small.text.tokenize(list(GIVEN))
    assert all(0 <= index < small.text.tokenizer.vocabulary_size for row in ids for index in row)
    decoded = Tokenizer.from_str(small.text.tokenizer.to_json()).decode(small.text.tokenize(["개"])[0])
    assert "�" not in decoded


def test_tokens_added_behind_the_vocabulary_follow_it():
    tokenizer = unigram({"a": -1.0, "b": -1.0, "ж": -2.0, "▁ж": -2.0})
    tokenizer.add_special_tokens(["<x>"])
    tokenizer.post_processor = processors.BertProcessing(("<x>", 7), ("<pad>", 0))
    text = tower(tokenizer)
    small = trim_text(text, tokens_to_keep(text, ["en"]))
    assert segments(small, ["ab"]) == segments(text, ["ab"]) == [["<pad>", "▁", "a", "b", "<x>"]]
    assert small.tokenize(["ab"])[0][-1] == 5
    assert len(small.backbone.get_input_embeddings().weight) == 6


def test_measure_counts_changed_texts_words_and_unknown_tokens_by_language():
    clip = make_clip()
    small = trim_text(clip.text, tokens_to_keep(clip.text, ["en"], {"en": ["a red dog"]}))
    found = measure(clip.text.tokenizer, small.tokenizer, {"en": ["a red dog", "a red cat"], "zh": ["狗"]})
    english = found["en"]
    assert (english["texts"], english["texts_changed"], english["words"], english["words_changed"]) == (2, 1, 6, 1)
    assert (english["unknown_share_before"], english["unknown_share"]) == (0.0, 0.0)
    assert (found["zh"]["texts_changed_share"], found["zh"]["unknown_share_before"]) == (1.0, 0.0)
    assert found["zh"]["unknown_share"] > 0


def test_held_out_captions_are_not_those_that_decide():
    clip = make_clip()
    captions = {"en": ["cat", *["a red dog", "a dog", "red", "the dog", "dog a", "a", "the", "dog", "the red"]]}
    found = held_out(clip.text, ["en"], captions)["en"]
    assert (found["texts"], found["texts_changed"]) == (1, 1), "every tenth from the first on"
    assert held_out(clip.text, ["en"], {"en": ["a dog"]}) == {}


def test_the_report_adds_up():
    clip = make_clip()
    small = trim(clip, tokens_to_keep(clip.text, ["ru"]), ["ru"])
    report = trim_report(clip, small)
    assert report["tokenizer"] == "Unigram"
    assert sum(row["before"] for row in report["by_script"].values()) == report["pieces_before"]
    assert sum(row["kept"] for row in report["by_script"].values()) == report["pieces"]
    assert report["by_script"]["Cyrl"]["before"] == report["by_script"]["Cyrl"]["kept"]
    assert report["by_script"]["Arab"]["kept"] == 0
    dropped = report["embedding_bytes_before"] - report["embedding_bytes"]
    assert dropped == (report["pieces_before"] - report["pieces"]) * 32 * 4
    assert report["text_tower_bytes_before"] - report["text_tower_bytes"] == dropped
    assert largest_difference(clip, small, texts_of_pieces(small.text.tokenizer))[1] == 0.0


def test_scripts_of_mixed_writing_are_taken_apart():
    assert scripts_of("ja") == ("Hira", "Kana", "Hani")
    assert scripts_of("zh-Hant") == ("Hani", "Bopo")
    assert scripts_of("sr-Latn") == ("Latn",)


def test_wrong_input_is_named():
    clip = make_clip()
    with pytest.raises(UnknownLanguageError, match="swedish"):
        tokens_to_keep(clip.text, ["swedish"])
    with pytest.raises(BabelclipError, match="at least one"):
        tokens_to_keep(clip.text, [])
    with pytest.raises(BabelclipError, match="empty"):
        tokens_to_keep(clip.text, ["sv"], {"sv": [" "]})
    with pytest.raises(BabelclipError, match="Name de among"):
        tokens_to_keep(clip.text, ["sv"], {"de": ["ein Hund"]})
    with pytest.raises(BabelclipError, match=r"another script.*sr-Latn"):
        tokens_to_keep(clip.text, ["sr"], {"sr": ["dva psa u snegu"]})
    with pytest.raises(BabelclipError, match=r"no piece in the script of Thai \(th: Thai\)"):
        tokens_to_keep(clip.text, ["en", "th"])
    with pytest.raises(BabelclipError, match="min_count is 0"):
        tokens_to_keep(clip.text, ["en"], min_count=0)
    with pytest.raises(BabelclipError, match="no tokens, the first is 999"):
        trim(clip, [0, 1, 999])
    with pytest.raises(BabelclipError, match="no text tower"):
        trim(dataclasses.replace(clip, text=None), [0])


def test_a_tokenizer_of_another_kind_is_refused():
    words = Tokenizer(models.WordLevel({"<pad>": 0, "dog": 1}, unk_token="<pad>"))
    with pytest.raises(BabelclipError, match=r"WordLevel model.*Unigram, BPE, WordPiece"):
        tokens_to_keep(tower(words), ["en"])
    marked = models.BPE(vocab={"a": 0, "##a": 1}, merges=[], continuing_subword_prefix="##")
    with pytest.raises(BabelclipError, match="inside of words"):
        tokens_to_keep(tower(Tokenizer(marked)), ["en"])


def test_a_quantised_table_is_refused():
    clip = make_clip()
    clip.text.backbone.set_input_embeddings(torch.nn.Identity())
    with pytest.raises(BabelclipError, match="before quantising"):
        trim(clip, [0])


@pytest.mark.real
def test_the_real_xlmr_vocabulary_keeps_every_latin_text_and_shrinks_twentyfold_with_captions():
    from babelclip.starter.parts import XLMR_TOKENIZER, PartError, locate

    try:
        path = locate(XLMR_TOKENIZER)
    except PartError as error:
        pytest.skip(str(error).splitlines()[0])
    text = tower(Tokenizer.from_file(str(path)), pad_id=1)
    rng = np.random.default_rng(0)
    latin = trim_text(text, tokens_to_keep(text, ["sv", "en"]))
    assert latin.tokenizer.vocabulary_size == 114_592
    letters = list("abcdefghijklmnopqrstuvwxyzåäöéßñçøğłžABCÅÄÖ 0123456789 .,!?-()😀 ")
    drawn = ["".join(rng.choice(letters, size=40)) for _ in range(500)]
    found = measure(text.tokenizer, latin.tokenizer, {"sv": [*drawn, *texts_of_pieces(latin.tokenizer, 200)]})["sv"]
    assert (found["texts"], found["texts_changed"]) == (700, 0)

    captions = {"sv": ["två hundar i snön", "en röd bil"], "ru": ["две собаки на снегу"]}
    small = trim_text(text, tokens_to_keep(text, ["sv", "ru"], captions))
    assert small.tokenizer.vocabulary_size < 250_002 / 20
    unseen = ["Blåbärssoppa och älgstek", "Мороженое с клубникой"]
    found = measure(text.tokenizer, small.tokenizer, {**captions, "fi": unseen})
    assert [found[code]["texts_changed_share"] for code in ("sv", "ru", "fi")] == [0.0, 0.0, 1.0]
    assert found["fi"]["unknown_share"] == 0.0
