"""The table at the end of a run shows what was measured, whatever it was."""

from __future__ import annotations

from babelclip.evaluate.result import RunFacts, build_result
from babelclip.evaluate.summary import summary


def test_other_k_than_usual_are_shown():
    result = build_result(
        "zeroshot_retrieval",
        RunFacts(model="m", dataset="photos"),
        language="sv",
        metrics={"R@3": 0.25},
        direction="t2i",
        captions_per_image="all",
        relevance="own picture",
        n_images=4,
        n_captions=4,
        n_queries=4,
        n_excluded=0,
        k=[3],
    )
    assert "R@3, t2i" in summary([result])
    assert "| m | 25.0 |" in summary([result])
