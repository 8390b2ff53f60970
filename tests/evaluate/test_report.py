"""Results reach the disk whole and tables say what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.report import markdown_table, read_results, table_values, write_results
from babelclip.evaluate.result import RunFacts
from babelclip.evaluate.retrieval import evaluate_features


def result(model, language, r10, dataset="photos", direction="t2i"):
    facts = RunFacts(model=model, dataset=dataset)
    features, groups = np.eye(3), np.arange(3)
    [one] = evaluate_features(
        features, features, groups, groups, facts=facts, language=language, directions=[direction], ks=(1, 10)
    )
    return {**one, "metrics": {**one["metrics"], "R@10": r10}}


def some_results():
    return [
        result("teacher", "en", 0.62),
        result("teacher", "sv", 0.111),
        result("teacher", "de", 0.161),
        result("student", "en", 0.6),
        result("student", "sv", 0.35449),
        result("student", "de", 0.4),
        result("student", "de", 0.9, direction="i2t"),
    ]


def test_markdown_table_is_the_one_on_paper():
    text = markdown_table(
        some_results(),
        rows={"teacher": "English teacher", "student": "taught | student"},
        taught=["en", "de"],
        means={"taught": ["en", "de"], "untaught": ["sv"]},
    )
    assert text == (
        "| model | en | de | sv* | taught | untaught |\n"
        "|---|--:|--:|--:|--:|--:|\n"
        "| English teacher | **62.0** | 16.1 | 11.1 | 39.1 | 11.1 |\n"
        "| taught \\| student | 60.0 | **40.0** | **35.4** | **50.0** | **35.4** |\n"
        "\n\\* a language without training text: what it reaches is transfer.\n"
    )


def test_columns_keep_the_order_asked_for_and_a_gap_is_no_zero():
    results = [*some_results(), result("other", "en", 0.6)]
    table = table_values(results, columns=["sv", "eng_Latn"], means={"both": ["en", "sv"]})
    assert table.columns == ("sv", "en", "both")
    assert table.values[2] == (None, 0.6, None)
    assert "| other | – | 60.0 | – |" in markdown_table(results, columns=["sv", "en"], means={"both": ["en", "sv"]})


def test_equal_figures_are_all_bold_and_a_single_row_is_not():
    results = [result("a", "en", 0.5001), result("b", "en", 0.50049), result("c", "en", 0.1)]
    assert markdown_table(results).count("**50.0**") == 2
    assert "**" not in markdown_table(results[:1])
    assert "**" not in markdown_table(results, bold_best=False)
    assert "0.500" in markdown_table(results, percent=False)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"metric": "R@20"}, "No metric is called 'R@20'.*R@"),
        ({"rows": ["studnet"]}, "Did you mean 'student'"),
        ({"dataset": "emoji"}, "dataset emoji.*photos/test t2i"),
        ({"columns": ["swedish"]}, "Did you mean sv"),
    ],
)
def test_a_wrong_choice_names_what_there_is(choices, message):
    with pytest.raises(BabelclipError, match=message):
        markdown_table(some_results(), **choices)


def test_two_results_for_one_cell_are_an_error():
    results = [*some_results(), result("student", "de", 0.4, dataset="emoji")]
    with pytest.raises(BabelclipError, match="Two results are of model 'student' and language 'de'"):
        markdown_table(results)
    assert markdown_table(results, dataset="emoji").count("\n") == 3


def test_results_come_back_as_they_were_and_are_never_overwritten_in_silence(tmp_path):
    path = tmp_path / "runs" / "results.json"
    results = some_results()
    assert write_results(results, path) == path
    assert read_results(path) == results
    with pytest.raises(BabelclipError, match=r"exists already.*overwrite=True"):
        write_results(results[:1], path)
    assert len(read_results(path)) == len(results)
    write_results(results[:1], path, overwrite=True)
    assert len(read_results(path)) == 1
    assert [item.name for item in path.parent.iterdir()] == ["results.json"]


def test_an_incomplete_result_writes_nothing(tmp_path):
    path = tmp_path / "results.json"
    broken = {key: value for key, value in some_results()[0].items() if key != "split"}
    with pytest.raises(BabelclipError, match="split is missing"):
        write_results([some_results()[0], broken], path)
    assert not path.exists()
    path.write_text("{}")
    with pytest.raises(BabelclipError, match="not a list of results"):
        read_results(path)
