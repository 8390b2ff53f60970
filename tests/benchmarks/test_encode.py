"""`benchmarks/encode.py` runs from start to end with a tiny model and without the peers' environment."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.conftest import make_tokenizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--layers", "1", "--width", "32", "--heads", "4", "--mlp", "64", "--dim", "16"]


@pytest.fixture(scope="module")
def encode():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("encode")


@pytest.fixture(scope="module")
def record(encode, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the script writes. Its rows run in this process: seven imports of torch would take most of a minute."""

    class RowHere:
        def __init__(self, python: Path, row: str, settings: dict) -> None:
            assert python == Path(sys.executable)
            self.settings = json.loads(json.dumps(settings))
            self.row, self.opened = encode.encode_rows.opening(row, self.settings)

        def ask(self, **command: object) -> dict:
            return json.loads(json.dumps(encode.encode_rows.reply(self.row, self.settings, command)))

        def close(self) -> None:
            del self.row

    folder = tmp_path_factory.mktemp("encode")
    (folder / "tokenizer.json").write_text(make_tokenizer().to_json(), encoding="utf-8")
    (folder / "captions.txt").write_text("two dogs\na red circle\nhundar\na a a a a a a\n", encoding="utf-8")
    given = [*TINY, "--texts", "400", "--rounds", "1", "--warm-up", "4", "--out", str(folder / "results.json")]
    given += ["--tokenizer", str(folder / "tokenizer.json"), "--captions", str(folder / "captions.txt")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "Server", RowHere)
        build = encode.encode_models.build
        patch.setattr(encode, "write_models", lambda place, chosen: build(place, chosen.size, chosen.tokenizer))
        assert encode.main(given) == 0
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_every_row_of_ours_is_measured_and_equals_the_original(record: dict) -> None:
    exact = record["rows"]["babelclip float32"]
    assert exact["min_cosine"] > 1 - 1e-9
    assert exact["texts_per_second"] > 0
    assert exact["padded_per_real"] < record["rows"]["M-CLIP original"]["padded_per_real"]


def test_what_is_missing_is_said_with_its_reason(record: dict) -> None:
    assert "peers" in record["missing"]["sentence-transformers"]
    assert all(record["missing"].values())


def test_bars_that_were_not_measured_are_not_called_met(record: dict) -> None:
    verdicts = {bar["bar"]: bar["verdict"] for bar in record["bars"]}
    assert verdicts["babelclip float32 / sentence-transformers"] == "not measured"
    assert {bar["verdict"] for bar in record["bars"] if bar["value"] is None}.isdisjoint({"met"})


def test_one_query_is_timed_against_the_bare_model(record: dict) -> None:
    assert record["query"]["overhead"] > 0
    assert record["query"]["forward"] > 0


def test_int8_is_judged_like_the_others(record: dict) -> None:
    int8, exact = record["rows"]["babelclip int8"], record["rows"]["babelclip float32"]
    assert int8["dtype"] == "int8"
    assert int8["weights"] < exact["weights"] / 2
    assert 0.9 < int8["min_cosine"] < exact["min_cosine"]


def test_a_row_runs_in_a_process_of_its_own_and_says_why_it_fails(encode, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text("[]")
    settings = {"texts": str(tmp_path / "texts.json"), "shapes": [[8, 8, 8]], "device": "cpu"}
    row = encode.Server(Path(sys.executable), "matmul", settings)
    assert row.ask(do="encode", count=0)["rates"][0] > 0
    row.close()
    absent = encode.Server(Path(sys.executable), "no such row", settings)
    absent.close()
    assert "no such row" in absent.opened["failed"]
