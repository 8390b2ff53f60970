"""Texts through a tower in lanes: the same vectors, whatever the lanes, and no error is lost."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.models import encoding
from babelclip.models.encoding import encode_texts, in_lanes
from babelclip.models.text import TextEncoder, build_text_backbone
from tests.conftest import make_text_encoder

TEXTS = [f"{'the red dog ' * (n % 5)}{n}" for n in range(60)]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("devices", [None, ["cpu"], ["cpu", "cpu"], ["cpu", "cpu", "cpu"]])
@pytest.mark.parametrize("budget", [1, 16, 4096])
def test_lanes_and_budget_change_nothing_but_rounding(two_threads, devices, budget):
    tower = make_text_encoder()
    with torch.inference_mode():
        rows = [tower(torch.tensor([ids])).numpy()[0] for ids in tower.tokenize(TEXTS)]
    features = encode_texts(tower, TEXTS, token_budget=budget, devices=devices)
    np.testing.assert_allclose(features, np.stack(rows), atol=1e-5)
    assert torch.get_num_threads() == 2


def test_one_processor_becomes_a_lane_for_each_thread(two_threads):
    tower, seen, meet = make_text_encoder(), set(), threading.Barrier(2, timeout=20)

    def work(given, item):
        assert given is tower
        assert torch.is_inference_mode_enabled()
        seen.add((threading.get_ident(), torch.get_num_threads()))
        if item < 2:
            meet.wait()  # nobody passes unless two lanes work at once

    in_lanes(work, range(8), [tower])
    assert len(seen) == 2
    assert {threads for _, threads in seen} == {1}


def test_few_batches_share_the_cores_instead(two_threads):
    threads = []
    in_lanes(lambda _tower, _item: threads.append(threading.current_thread()), range(3), [make_text_encoder()])
    assert threads == [threading.main_thread()] * 3


def test_an_error_in_a_lane_stops_all_and_is_raised(two_threads):
    done = []

    def work(_tower, item):
        if item == 3:
            raise MemoryError("no room")
        done.append(item)

    with pytest.raises(MemoryError, match="no room"):
        in_lanes(work, range(10_000), [make_text_encoder()])
    assert len(done) < 10_000
    assert torch.get_num_threads() == 2


def test_ctrl_c_ends_the_lanes(two_threads, monkeypatch):
    started, joins = threading.active_count(), []
    original = threading.Thread.join

    def join(self, timeout=None):
        if not joins:
            joins.append(self)
            raise KeyboardInterrupt
        original(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(KeyboardInterrupt):
        in_lanes(lambda _tower, _item: None, range(100_000), [make_text_encoder()])
    assert threading.active_count() == started


@pytest.mark.parametrize("devices", [[], "cpu", ["cuda:7"], ["no such thing"]])
def test_devices_that_are_not_there_are_named(devices):
    with pytest.raises(BabelclipError, match=r"devices|Device"):
        encode_texts(make_text_encoder(), TEXTS, devices=devices)


def test_many_texts_are_tokenised_in_parts(monkeypatch):
    tower = make_text_encoder()
    whole = encode_texts(tower, TEXTS)
    monkeypatch.setattr(encoding, "_TOKENISE_AT_ONCE", 7)
    np.testing.assert_allclose(encode_texts(tower, TEXTS), whole, atol=1e-5)
    langs = ["en", "sv"] * 30
    np.testing.assert_allclose(encode_texts(tower, TEXTS, lang=langs), whole, atol=1e-5)


def test_a_batch_of_one_length_goes_without_mask(monkeypatch):
    tower, masks = make_text_encoder(), []
    forward = type(tower).forward
    monkeypatch.setattr(type(tower), "forward", lambda s, i, m=None: masks.append(m is None) or forward(s, i, m))
    encode_texts(tower, ["red dog", "blue dog"])
    encode_texts(tower, ["red dog", "dog dog dog dog"])
    assert masks == [True, False]


def test_a_tokenizer_of_another_model_is_named_before_torch_fails():
    tower = make_text_encoder()
    tower.backbone.config.vocab_size = 10
    with pytest.raises(BabelclipError, match=r"gave token \d+, and the text tower has rows for 10 tokens"):
        encode_texts(tower, TEXTS)


def test_encoding_puts_back_the_mode_of_every_part():
    tower = make_text_encoder()
    tower.train()
    tower.head.eval()
    modes = [part.training for part in tower.modules()]
    encode_texts(tower, ["two dogs"])
    assert [part.training for part in tower.modules()] == modes


def test_a_budget_of_no_tokens_is_refused_and_not_taken_for_the_default():
    with pytest.raises(BabelclipError, match="token_budget is 0"):
        make_text_encoder().encode(["a", "b"], token_budget=0)


# XLM-R counts positions from behind the padding id, which is 1 here: two of the table are never used.
@pytest.mark.parametrize(("model_type", "positions"), [("bert", 32), ("xlm-roberta", 30)])
def test_more_tokens_than_the_backbone_has_positions_are_named_with_the_limit(model_type, positions):
    like = make_text_encoder()
    config = like.backbone.config.to_dict() | {"model_type": model_type}
    tower = TextEncoder(build_text_backbone(config), pooling="mean", head=[], tokenizer=like.tokenizer)
    tower.tokenizer.max_length = positions
    assert tower.encode(["a dog " * 300]).shape == (1, 32)
    tower.tokenizer.max_length = positions + 1
    with pytest.raises(BabelclipError, match=f"{positions + 1} tokens.*positions for {positions}.*max_length"):
        tower.encode(["a dog " * 300])
