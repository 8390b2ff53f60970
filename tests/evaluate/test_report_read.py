"""Results of every tool become rows of one kind, and what is none is named."""

from __future__ import annotations

import json

import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.dataset_names import dataset_key
from babelclip.evaluate.leaks import leak_notes
from babelclip.evaluate.report_read import read_all_results, read_file
from babelclip.evaluate.result import RunFacts, build_result

OF_CLIP_BENCHMARK = {
    "dataset": "crossmodal3600",
    "model": "xlm-roberta-base-ViT-B-32",
    "pretrained": "laion5b_s13b_b90k",
    "task": "zeroshot_retrieval",
    "metrics": {"image_retrieval_recall@5": 0.62, "text_retrieval_recall@5": 0.7},
    "language": "jp",
}


def own(model="m", dataset="photos", language="sv", direction="t2i", r10=0.5, **changes):
    fields = {
        "direction": direction,
        "captions_per_image": "all",
        "relevance": "own picture",
        "n_images": 3,
        "n_captions": 3,
        "n_queries": 3,
        "n_excluded": 0,
        "k": [1, 10],
    }
    facts = RunFacts(model=model, dataset=dataset, **changes.pop("facts", {}))
    metrics = {"R@1": r10 / 2, "R@10": r10}
    return build_result("zeroshot_retrieval", facts, language=language, metrics=metrics, **{**fields, **changes})


def saved(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_our_list_gives_a_row_a_result(tmp_path):
    rows = read_file(saved(tmp_path / "r.json", [own(), own(direction="i2t")]))
    assert [row.conditions.direction for row in rows] == ["t2i", "i2t"]
    assert rows[0].conditions.protocol == "all captions"
    assert rows[0].metrics["R@10"] == 0.5


def test_an_older_result_without_the_later_fields_is_read_and_a_damaged_one_is_not(tmp_path):
    old = {name: value for name, value in own().items() if name not in ("padding", "leaks", "parameters")}
    assert len(read_file(saved(tmp_path / "old.json", [old]))) == 1
    del old["split"]
    with pytest.raises(BabelclipError, match=r"bad.json: .*split is missing"):
        read_file(saved(tmp_path / "bad.json", [old]))


def test_clip_benchmark_mixes_directions_in_one_record_and_we_do_not(tmp_path):
    text, image = read_file(saved(tmp_path / "cb.json", OF_CLIP_BENCHMARK))
    assert (text.conditions.direction, text.metrics) == ("t2i", {"R@5": 0.62})
    assert (image.conditions.direction, image.metrics) == ("i2t", {"R@5": 0.7})
    assert text.language == "ja"
    assert text.conditions.dataset == "xm3600"
    assert text.conditions.protocol == "first caption of a picture"
    assert text.model == "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"


def test_a_nan_of_clip_benchmark_is_no_figure(tmp_path):
    record = {**OF_CLIP_BENCHMARK, "dataset": "pcam", "task": "zeroshot_classification"}
    [row] = read_file(saved(tmp_path / "cb.json", {**record, "metrics": {"acc1": 0.5, "acc5": float("nan")}}))
    assert row.metrics == {"acc1": 0.5}
    assert row.conditions.protocol == "prompts"
    [row] = read_file(saved(tmp_path / "big.json", {**record, "metrics": {"acc1": 0.5, "acc5": 1e308, "x": 10**400}}))
    assert row.metrics == {"acc1": 0.5}
    assert row.conditions.split == "test"
    of_imagenet = {**record, "dataset": "imagenet1k", "metrics": {"acc1": 0.5}}
    assert read_file(saved(tmp_path / "in.json", of_imagenet))[0].conditions.split == "val"
    probe = {**record, "task": "linear_probe", "metrics": {"lp_acc1": 0.5}}
    assert read_file(saved(tmp_path / "lp.json", probe))[0].conditions.protocol == ""


@pytest.mark.parametrize("form", [json.dumps, repr])
def test_flagai_states_no_model_and_its_train_split_is_said(tmp_path, form):
    content = form({"dataset": "cifar10", "metrics": {"acc1": 0.954, "acc5": 0.996, "mean_per_class_recall": 0.954}})
    [row] = read_file(saved(tmp_path / "AltCLIP" / "result.txt", content))
    assert (row.model, row.origin, row.conditions.split) == ("AltCLIP", "FlagAI", "train")
    assert any("train split" in note for note in row.notes)


def test_answers_of_chinese_clip_are_scored_against_the_texts_beside_them(tmp_path):
    texts = [{"text_id": 1, "text": "狗", "image_ids": [7]}, {"text_id": 2, "text": "猫", "image_ids": [8, 9]}]
    saved(tmp_path / "Flickr30k-CN" / "test_texts.jsonl", "\n".join(map(json.dumps, texts)))
    lists = [{"text_id": 1, "image_ids": [8, 7, 9, 5, 4]}, {"text_id": 2, "image_ids": [9, 1, 2, 3, 4]}]
    [row] = read_file(saved(tmp_path / "Flickr30k-CN" / "test_predictions.jsonl", "\n".join(map(json.dumps, lists))))
    assert row.metrics == {"R@1": 0.5, "R@5": 1.0}
    assert (row.conditions.dataset, row.conditions.direction, row.language) == ("flickr30kcn", "t2i", "zh")
    lists = [{"image_id": 8, "text_ids": [2, 1]}, {"image_id": 7, "text_ids": [2, 1]}]
    path = tmp_path / "Flickr30k-CN" / "test_tr_predictions.jsonl"
    [row] = read_file(saved(path, "\n".join(map(json.dumps, lists))))
    assert (row.conditions.direction, row.metrics) == ("i2t", {"R@1": 0.5})
    assert "1 of 3 queries have no answers here and are left out: figures do not compare" in row.notes
    saved(path, "\n".join(map(json.dumps, [*lists, {"text_id": 1, "image_ids": [8]}])))
    with pytest.raises(BabelclipError, match="lines without image_id and a list of text_ids"):
        read_file(path)


def test_answers_without_texts_or_of_unknown_queries_say_so(tmp_path):
    path = saved(tmp_path / "a" / "b" / "p.jsonl", json.dumps({"text_id": 1, "image_ids": [1]}))
    with pytest.raises(BabelclipError, match=r"no \*_texts.jsonl"):
        read_file(path)
    saved(tmp_path / "a" / "b" / "test_texts.jsonl", json.dumps({"text_id": 2, "text": "x", "image_ids": [1]}))
    with pytest.raises(BabelclipError, match="answers text_id 1"):
        read_file(path)


def test_a_task_result_of_mteb_is_read_by_subset(tmp_path):
    scores = [{"hf_subset": "de", "languages": ["deu-Latn"], "hit_rate_at_1": 0.4, "ndcg_at_10": 0.5}]
    record = {"task_name": "XM3600T2IRetrieval", "mteb_version": "2.26.24", "scores": {"test": scores}}
    [row] = read_file(saved(tmp_path / "results" / "google__siglip" / "rev" / "XM3600T2IRetrieval.json", record))
    assert (row.model, row.language, row.conditions.dataset, row.conditions.direction) == (
        "google/siglip",
        "de",
        "xm3600",
        "t2i",
    )
    assert row.metrics == {"R@1": 0.4, "nDCG@10": 0.5}


def test_older_and_damaged_scores_of_mteb_are_read_as_far_as_they_are_scores(tmp_path):
    scores = [{"hf_subset": "de", "cv_recall_at_1": 0.4}, {"languages": 3, "hit_rate_at_1": 0.5}, "none", 7]
    record = {"task_name": "XM3600T2IRetrieval", "scores": {"test": scores, "dev": 3}}
    found = read_file(saved(tmp_path / "results" / "model" / "rev" / "XM3600T2IRetrieval.json", record))
    assert [(row.language, row.metrics) for row in found] == [("de", {"R@1": 0.4}), ("", {"R@1": 0.5})]


def test_half_a_surrogate_becomes_a_question_mark_and_a_pair_stays(tmp_path):
    text = json.dumps({**OF_CLIP_BENCHMARK, "model": "m\ud800", "pretrained": "\U0001f600"})
    text_row, _ = read_file(saved(tmp_path / "cb.json", text))
    assert text_row.model == "m?/\U0001f600"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "no JSON"),
        (b"\xff\xfe", "cannot be read as text"),
        ('{"steps": 3}', "records with steps, which are no results"),
        ("[1, 2]", "int entries"),
        ('{"dataset": "d", "metrics": {}, "model": "m"}', "no results"),
    ],
)
def test_what_holds_no_results_is_named(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BabelclipError, match=message):
        read_file(path)


def test_a_folder_is_searched_and_other_files_in_it_are_counted(tmp_path):
    saved(tmp_path / "in" / "r.json", [own()])
    saved(tmp_path / "in" / "deep" / "log.json", {"steps": 3})
    rows, passed = read_all_results([tmp_path])
    assert len(rows) == 1
    assert len(passed) == 1
    assert "log.json" in passed[0]
    with pytest.raises(BabelclipError, match="does not exist"):
        read_all_results([tmp_path / "nothing.json"])
    with pytest.raises(BabelclipError, match="No result was found"):
        read_all_results([tmp_path / "in" / "deep"])


def test_one_set_has_one_key_in_all_spellings():
    assert {dataset_key(name) for name in ("XTD10", "xtd10", "multilingual_mscoco_captions", "XTD-10")} == {"xtd10"}
    assert dataset_key("mine") == "mine"
    assert dataset_key("babel-imagenet-label") == dataset_key("Babel-ImageNet")


def test_leaks_are_those_of_the_family_and_the_set():
    assert "MSCOCO" in leak_notes("M-CLIP/XLM-Roberta-Large-Vit-B-32", "XTD10")[0]
    assert leak_notes("M-CLIP/XLM-Roberta-Large-Vit-B-32", "xm3600") == ()
    assert leak_notes("openai/clip-vit-base-patch32", "XTD10") == ()
    assert "share pictures" in leak_notes("a model of mine", "multi30k")[0]
