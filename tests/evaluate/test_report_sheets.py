"""A sheet holds only what compares; means, differences and published figures say what they are over."""

from __future__ import annotations

import csv
import html
import io

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.hits import pack_hits
from babelclip.evaluate.published import inequalities, published_rows
from babelclip.evaluate.report_compare import PAIRED, UNPAIRED, differences, tally
from babelclip.evaluate.report_page import render_report
from babelclip.evaluate.report_plots import frontier
from babelclip.evaluate.report_rows import row_of
from babelclip.evaluate.report_sheets import base_first, make_sheets
from babelclip.evaluate.report_text import report_csv, report_markdown
from tests.evaluate.test_report_read import own

LANGUAGES = ("en", "sv", "th", "te")


def sheet_of(results, metric="R@10"):
    [sheet], doubled = make_sheets([row_of(result) for result in results], metric)
    assert doubled == []
    return sheet


def two_models(dataset="photos", **changes):
    return [
        own(model=model, dataset=dataset, language=code, r10=base + at / 100, declared=code != "te", **changes)
        for model, base in (("weak", 0.3), ("org/strong", 0.6))
        for at, code in enumerate(LANGUAGES)
    ]


def test_a_metric_that_no_result_has_is_told():
    with pytest.raises(BabelclipError, match="R@10"):
        sheet_of(two_models(), metric="R@100")


def test_other_directions_splits_and_protocols_stand_in_other_sheets():
    results = [
        own(),
        own(direction="i2t"),
        own(captions_per_image="first"),
        own(facts={"split": "val"}),
        own(dataset="b"),
    ]
    sheets, _ = make_sheets([row_of(result) for result in results])
    assert len(sheets) == 5


def test_english_stands_first_and_the_asked_metric_opens():
    sheet = sheet_of(two_models(), "R@1")
    assert sheet.languages == ("en", "sv", "te", "th")
    assert sheet.metrics == ("R@1", "R@10")


def test_means_are_over_all_declared_and_resource_groups_and_gaps_are_no_zeros():
    results = two_models()
    means = {mean.name: mean for mean in sheet_of(results).means("weak", "R@10")}
    assert {name: mean.n for name, mean in means.items()} == {"all": 4, "declared": 3, "high": 2, "mid": 1, "low": 1}
    assert means["all"].value == pytest.approx(0.315)
    assert means["declared"].value == pytest.approx((0.30 + 0.31 + 0.32) / 3)
    assert means["low"].value == pytest.approx(0.33)
    partial = {mean.name: mean for mean in sheet_of(results[:-1]).means("org/strong", "R@10")}
    assert partial["all"].value is None
    assert partial["low"].value is None
    assert partial["high"].value is not None


def test_a_doubled_cell_is_said():
    sheets, doubled = make_sheets([row_of(own(r10=0.2)), row_of(own(r10=0.4))])
    assert sheets[0].value("m", "sv", "R@10") == 0.4
    assert doubled == ["two results are of m, photos, sv t2i: the one read last is shown"]


def test_paired_intervals_are_narrower_than_unpaired_ones():
    random = np.random.default_rng(0)
    first = (random.random(2000) < 0.5).astype(float)
    second = np.where(random.random(2000) < 0.04, 1.0, first)
    results = []
    for model, hits in (("base", first), ("new", second)):
        spread = 1.96 * hits.std() / len(hits) ** 0.5
        packed = pack_hits({"R@10": hits}, queries="same")
        ends = {"R@10": [hits.mean() - spread, hits.mean() + spread]}
        results.append(own(model=model, r10=hits.mean(), per_query=packed, intervals=ends))
    [paired] = differences(sheet_of(results), "base", "new", "R@10")
    assert paired.kind == PAIRED
    assert paired.real
    assert paired.interval[0] < second.mean() - first.mean() < paired.interval[1]
    results[1]["per_query"]["key"] = "others"
    [unpaired] = differences(sheet_of(results), "base", "new", "R@10")
    assert unpaired.kind == UNPAIRED
    assert unpaired.interval[1] - unpaired.interval[0] > 3 * (paired.interval[1] - paired.interval[0])
    assert tally([paired]) == {"mean": paired.value, "above": 1, "below": 0, "languages": 1}


def test_without_intervals_a_difference_is_bare():
    [found, *_] = differences(sheet_of(two_models()), "weak", "org/strong", "R@10")
    assert (found.interval, found.real) == (None, False)
    assert found.value == pytest.approx(0.3)


def test_the_base_comes_first_and_an_unknown_one_names_the_near():
    rows = [row_of(result) for result in two_models()]
    assert make_sheets(base_first(rows, "strong"))[0][0].models[0] == "org/strong"
    with pytest.raises(BabelclipError, match="Did you mean 'weak'"):
        base_first(rows, "wek")


def test_the_frontier_holds_those_that_no_other_beats():
    points = {"small": (1.0, 50.0), "large": (9.0, 80.0), "bad": (5.0, 40.0), "middle": (5.0, 70.0)}
    assert frontier(points, less=True) == ["small", "middle", "large"]
    assert frontier(points, less=False) == ["large"]


def test_published_figures_hold_the_anchors_of_the_field():
    found = {
        (row.model, *row.conditions[1:2], row.conditions.direction, row.conditions.protocol, row.language, name): value
        for row in published_rows()
        for name, value in row.metrics.items()
    }
    all_, first = "all captions", "first caption of a picture"
    anchors = {
        ("BAAI/AltCLIP-m9", "xtd10", "i2t", all_, "en", "R@10"): 0.954,
        ("M-CLIP/XLM-Roberta-Large-Vit-B-16Plus", "xtd10", "t2i", all_, "ja", "R@10"): 0.842,
        ("M-CLIP/XLM-Roberta-Large-Vit-L-14", "xm3600", "t2i", all_, "mean", "R@10"): 0.726,
        ("visheratin/nllb-clip-large-siglip", "xm3600", "i2t", first, "mean", "R@1"): 0.5053,
        ("visheratin/nllb-clip-large-siglip", "xm3600", "i2t", all_, "mean", "R@1"): 0.6011,
        ("visheratin/nllb-siglip-mrl-large", "xtd10", "t2i", all_, "mean", "R@1"): 0.70,
        ("M-CLIP/XLM-Roberta-Large-Vit-L-14", "babelimagenet", "", "prompts", "mean", "acc1"): 0.346,
        ("unum-cloud/uform-vl-multilingual-v2", "xtd10", "t2i", all_, "tr", "R@10"): 0.952,
        ("BAAI/AltCLIP", "imagenetr", "", "prompts", "zh", "acc1"): 0.825,
    }
    for key, value in anchors.items():
        assert found[key] == pytest.approx(value, abs=5e-4), key


def test_unequal_protocols_and_leaks_are_said_of_published_figures():
    sheet = sheet_of([own(model="mine", dataset="xm3600", language=code) for code in ("en", "de")])
    rows = {(row.model, row.conditions.protocol): row for row in sheet.published if row.language == "mean"}
    equal = rows["M-CLIP/XLM-Roberta-Large-Vit-L-14", "all captions"]
    assert sheet.unequal(equal) == ()
    other = rows["visheratin/nllb-siglip-mrl-large", "first caption of a picture"]
    assert sheet.unequal(other) == ("published with first caption of a picture, measured with all captions",)
    t2i = [row for row in published_rows() if row.conditions.dataset == "xtd10" and row.conditions.direction == "t2i"]
    leaked = next(row for row in t2i if row.model.startswith("M-CLIP"))
    assert any(reason.startswith("leak: ") for reason in inequalities(leaked, leaked.conditions))
    turned = inequalities(leaked, leaked.conditions._replace(direction="i2t"))
    assert turned[0] == "published text to picture, measured picture to text"


def test_a_published_figure_is_of_the_usual_split_and_of_the_whole_set():
    row = next(row for row in published_rows() if row.conditions.dataset == "flickr30k")
    other = inequalities(row, row.conditions._replace(split="val"))
    assert "published on the test split, measured on val" in other
    assert not any("split" in reason for reason in inequalities(row, row.conditions._replace(split="test")))
    train = next(row for row in published_rows() if "train split" in row.notes[0])
    on_test = inequalities(train, train.conditions._replace(split="test"))
    assert "published on the train split, measured on test" in on_test
    assert not any("split" in reason for reason in inequalities(train, train.conditions._replace(split="train")))
    note = "test has 1000 pictures as published and 2 here: figures do not compare"
    whole, part = (sheet_of(two_models("flickr30k", notes=notes)) for notes in ((), (note,)))
    assert "measured on a set of another size" in part.unequal(row)
    assert "measured on a set of another size" not in whole.unequal(row)


def test_a_published_figure_of_the_other_direction_never_stands_beside():
    for direction in ("t2i", "i2t"):
        sheet = sheet_of([own(dataset="xtd10", direction=direction)])
        assert sheet.published
        assert {row.conditions.direction for row in sheet.published} == {direction}


def test_markdown_marks_the_best_the_undeclared_and_the_published():
    text = report_markdown([sheet_of(two_models("xm3600"))])
    assert "| org/strong | **60.0** | **61.0** | **63.0**\\* | **62.0** |" in text
    assert "published, not measured here" in text
    assert "no: published with first caption of a picture" in text
    assert "published" not in report_markdown([sheet_of(two_models("xm3600"))], published=False)


def test_csv_tells_published_from_measured_and_no_cell_is_a_formula():
    results = [*two_models("xm3600"), own(model="=cmd()", dataset="xm3600", language="en")]
    rows = list(csv.DictReader(io.StringIO(report_csv([sheet_of(results)]))))
    measured = [row for row in rows if row["published"] == "false"]
    assert len(measured) == 2 * len(results)
    assert any(row["model"] == "'=cmd()" for row in measured)
    assert {row["resource"] for row in measured} == {"high", "mid", "low"}
    assert all("first caption" in row["notes"] for row in rows if row["protocol"] == "first caption of a picture")


def test_the_page_is_one_file_that_escapes_what_it_is_given():
    results = two_models("xm3600", facts={"parameters": 5})
    results += [own(model="<script>alert(1)</script>", dataset="xm3600", notes=["<b>bold</b>"])]
    page = render_report([sheet_of(results)], warnings=["two & more"], command="babelclip report <x>")
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "<b>bold" not in page
    assert "two &amp; more" in page
    outside = page.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in outside
    assert "https://" not in outside
    assert "default-src 'none'" in html.unescape(page)
    for part in (
        "Heat map",
        "Means over languages",
        "Differences in R@10",
        "Published figures beside",
        "prefers-color-scheme: dark",
    ):
        assert part in page
