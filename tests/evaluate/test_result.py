"""Every task states what its figures hang on; the record is refused without it."""

from __future__ import annotations

import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.result import (
    COMMON,
    FIELDS,
    TASKS,
    RunFacts,
    build_result,
    check_result,
    fields_of,
    model_facts,
    preprocess_id,
)
from babelclip.models.preprocess import Preprocess

FACTS = RunFacts(model="m", dataset="d", text_cleaning="lower", max_length=77, leaks=("its pictures",))
EXAMPLES = {str: "x", int: 3, bool: True, list: [1], dict: {"a": 1}}


def example(task, **changes):
    own = {field: EXAMPLES[kind[0] if isinstance(kind, tuple) else kind] for field, kind in TASKS[task].items()}
    return build_result(task, FACTS, language="sv", metrics={"acc1": 0.5}, **{**own, **changes})


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_the_common_fields_and_its_own_in_order(task):
    result = example(task, extra="kept")
    assert list(result)[: len(fields_of(task))] == list(fields_of(task))
    assert {*COMMON, *TASKS[task]} == set(fields_of(task))
    assert result["extra"] == "kept"
    assert result["leaks"] == ["its pictures"]


@pytest.mark.parametrize("task", TASKS)
def test_a_field_of_the_task_may_not_be_missing(task):
    for field in TASKS[task]:
        result = example(task)
        del result[field]
        with pytest.raises(BabelclipError, match=f"{field} is missing"):
            check_result(result)


def test_keys_hold_those_of_clip_benchmark_and_the_protocol_of_the_field():
    assert {"dataset", "model", "pretrained", "task", "language", "metrics"} <= set(COMMON)
    assert {"direction", "captions_per_image", "k", "split", "n_images", "n_captions", "leaks"} <= set(FIELDS)
    assert {"prompt_set", "n_templates", "prompt_source", "class_source"} <= set(TASKS["zeroshot_classification"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intervals": {"R@1": [0.1]}}, "interval R@1 is .* not two finite numbers"),
        ({"intervals": {"R@1": 0.1}}, "not two finite numbers"),
        ({"intervals": {"R@1": [0.1, "x"]}}, "not two finite numbers"),
        ({"notes": ["fine", None]}, "notes holds something else than texts"),
        ({"leaks": [["a"]]}, "leaks holds something else than texts"),
        ({"seed": -1}, "seed is -1, below 0"),
    ],
)
def test_what_a_report_would_stumble_over_is_named(change, message):
    with pytest.raises(BabelclipError, match=message):
        check_result({**example("sts"), **change})


def test_an_unknown_task_names_the_near_one():
    with pytest.raises(BabelclipError, match="Did you mean 'zeroshot_retrieval'"):
        build_result("zero_shot_retrieval", FACTS, language="en", metrics={})
    with pytest.raises(BabelclipError, match="task is missing"):
        check_result({"dataset": "d"})


def test_counts_are_no_booleans_and_flags_no_counts():
    with pytest.raises(BabelclipError, match="n_pairs is True, which is not of type int"):
        example("sts", n_pairs=True)
    with pytest.raises(BabelclipError, match="multilabel is 1, which is not of type bool"):
        example("zeroshot_classification", multilabel=1)


def test_facts_of_a_model_say_how_it_reads_texts_and_pictures(tiny_clip):
    facts = model_facts(tiny_clip)
    assert facts["dtype"] == "float32"
    assert facts["parameters"] > 1000
    assert facts["max_length"] > 1
    assert facts["padding"]
    assert facts["preprocess"].startswith(("crop-", "pad-", "squash-"))
    assert RunFacts(model="m", dataset="d", **facts).fields()["space"] == facts["space"]
    assert model_facts(object()) == {"revision": "", "space": ""}


def test_two_ways_to_prepare_a_picture_have_two_ids():
    assert preprocess_id(Preprocess()) == preprocess_id(Preprocess())
    assert preprocess_id(Preprocess()) != preprocess_id(Preprocess(crop_offset="floor"))
