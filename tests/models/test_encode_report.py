"""What encoding pictures says about its speed: the limit that was measured, and a cure that fits the machine."""

from __future__ import annotations

import pytest

from babelclip.models import decoding
from babelclip.models.decoding import EncodeReport

DECODE = EncodeReport(pictures=50, skipped=1, seconds=10.0, decode_wait=6.0, model_seconds=2.0)
MODEL = EncodeReport(pictures=50, skipped=0, seconds=10.0, decode_wait=1.0, model_seconds=9.0)


def test_reports_of_two_calls_add_up():
    both = DECODE + MODEL
    assert both == EncodeReport(pictures=100, skipped=1, seconds=20.0, decode_wait=7.0, model_seconds=11.0)
    assert both.bottleneck == "model"


@pytest.mark.parametrize(
    ("report", "workers", "cores", "told"),
    [
        (MODEL, 0, 2, "(5.0/s): the model was the limit, busy 90% of its time; a GPU would help"),
        (DECODE, 2, 8, "decoding was the limit (the model waited 75% of its time); take more workers, 8"),
        (DECODE, 0, 16, "try workers (16, as this machine has cores)"),
        (DECODE, 0, 2, "all 2 cores decoded: take a machine with more, or smaller copies"),
        (DECODE, 8, 8, "all 8 cores decoded"),
    ],
)
def test_advice_names_the_limit_and_a_cure(monkeypatch, report, workers, cores, told):
    monkeypatch.setattr(decoding, "_cores", lambda: cores)
    assert told in report.advice(workers)
    assert report.advice(workers).startswith("50 pictures in 10.0 s")


def test_a_call_without_pictures_has_no_speed_and_divides_by_nothing():
    assert "0 pictures in 0.0 s (0.0/s)" in EncodeReport(0, 0, 0.0, 0.0, 0.0).advice()
