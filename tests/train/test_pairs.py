from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.train.pairs import LABELS, NO_LABEL, read_nli, read_scored

HEAD = "main-captions\tMSRvid\t2012test\t0001\t"


def written(folder: Path, content: str | bytes, name: str = "sts-dev.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_files_of_the_benchmark_are_read_by_their_first_seven_fields(tmp_path: Path):
    lines = [
        f"{HEAD}5.000\tA plane is taking off.\tAn air plane is taking off.",
        f'{HEAD}2.5\tHe said "no.\tShe said: \'yes".\tSource\tLicence',
        f"{HEAD}0\ttwo  hundar\t två hundar ",
    ]
    pairs = read_scored(written(tmp_path, "\n".join(lines) + "\n"), strict=True)
    assert pairs.scores.tolist() == [5, 2.5, 0]
    assert pairs.first == ("A plane is taking off.", 'He said "no.', "two  hundar")
    assert pairs.second == ("An air plane is taking off.", "She said: 'yes\".", "två hundar")
    assert (len(pairs), pairs.skipped) == (3, {})


def test_line_ends_of_windows_a_byte_order_mark_and_gzip_change_nothing(tmp_path: Path):
    text = f"{HEAD}1\ta dog\ta cat\r\n{HEAD}4\ta dog\tthe dog\r\n"
    plain = read_scored(written(tmp_path, "\ufeff" + text))
    packed = read_scored(written(tmp_path, gzip.compress(text.encode()), "sts.tsv.gz"))
    assert plain.second == packed.second == ("a cat", "the dog")
    assert np.array_equal(plain.scores, packed.scores)


def test_a_header_and_json_lines_are_read_by_name(tmp_path: Path):
    header = written(tmp_path, "index\tsentence1\tscore\tsentence2\n0\ta dog\t3.8\tdogs\n", "dev.tsv")
    rows = [{"sentence1": "a dog", "sentence2": "dogs", "score": 3.8}, {"sentence1": "x", "score": 1}]
    lines = written(tmp_path, "\n".join(map(json.dumps, rows)), "dev.jsonl")
    both = read_scored(header, lines)
    assert both.first == ("a dog", "a dog")
    assert both.second == ("dogs", "dogs")
    assert both.scores.tolist() == [3.8, 3.8]
    assert both.skipped == {"a sentence is empty": 1}


def test_rows_that_cannot_be_used_are_counted_or_stop_a_strict_reading(tmp_path: Path):
    good = f"{HEAD}1\ta dog\ta cat"
    bad = [f"{HEAD}x\ta\tb", f"{HEAD}5.5\ta\tb", f"{HEAD}1\ta\t ", f"{HEAD}1\ta", f"{HEAD}nan\ta\tb", ""]
    path = written(tmp_path, "\n".join([good, *bad]).encode() + b"\n" + HEAD.encode() + b"1\t\xff\tb\n")
    pairs = read_scored(path)
    assert pairs.skipped == {
        "the score is no number from 0 to 5": 3,
        "a sentence is empty": 1,
        "too few fields": 1,
        "blank line": 1,
        "not UTF-8": 1,
    }
    assert len(pairs) == 1
    with pytest.raises(BabelclipError, match="line 2: the score is no number"):
        read_scored(path, strict=True)


def test_files_of_another_kind_are_named_with_what_is_allowed(tmp_path: Path):
    with pytest.raises(BabelclipError, match=r"no usable pair .*seven tab-separated fields"):
        read_scored(written(tmp_path, "genre,score,a,b\n1,2,3,4\n"))
    with pytest.raises(BabelclipError, match="it is empty"):
        read_scored(written(tmp_path, ""))
    with pytest.raises(BabelclipError, match="sts-nowhere"):
        read_scored(tmp_path / "sts-nowhere.csv")
    with pytest.raises(BabelclipError, match="name at least one"):
        read_scored()
    with pytest.raises(BabelclipError, match="Multiply them by 5"):
        read_scored(written(tmp_path, "\n".join(f"{HEAD}{i / 120}\ta\tb" for i in range(120))))
    with pytest.raises(BabelclipError, match="names sentence1, sentence2"):
        read_scored(written(tmp_path, "sentence1\tsentence2\n", "half.tsv"))


def test_nli_labels_are_words_or_numbers_and_rows_without_one_are_counted(tmp_path: Path):
    rows = [
        {"premise": "a dog runs", "hypothesis": "a dog moves", "label": 0},
        {"premise": "a dog runs", "hypothesis": "a cat runs", "label": "neutral"},
        {"premise": "a dog runs", "hypothesis": "a dog sleeps", "label": 2},
        {"premise": "a dog runs", "hypothesis": "unclear", "label": -1},
    ]
    lines = written(tmp_path, "\n".join(map(json.dumps, rows)), "nli.jsonl")
    tabbed = written(tmp_path, "gold_label\tsentence1\tsentence2\nContradiction\ta\tb\n-\tc\td\n", "nli.tsv")
    pairs = read_nli(lines, tabbed, strict=True)
    assert [LABELS[label] for label in pairs.labels] == ["entailment", "neutral", "contradiction", "contradiction"]
    assert pairs.labels.dtype == np.int64
    assert pairs.skipped == {NO_LABEL: 2}
    with pytest.raises(BabelclipError, match="label is none of entailment"):
        read_nli(written(tmp_path, "label\tsentence1\tsentence2\nmaybe\ta\tb\n", "odd.tsv"), strict=True)
    with pytest.raises(BabelclipError, match=r"The first line of .* names"):
        read_nli(written(tmp_path, f"{HEAD}1\ta\tb\n"))
