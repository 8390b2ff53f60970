"""`benchmarks/encode_pictures.py` runs from start to end with four pictures and a tower of one layer."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--layers", "1", "--width", "32", "--heads", "4", "--mlp", "64", "--dim", "16"]


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("encode_pictures")


@pytest.fixture(scope="module")
def record(bench, tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("pictures") / "results.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SIZES", ((96, 64), (400, 300)))
        # Processes take seconds to start; the rows in threads are enough here.
        assert bench.main([*TINY, "--pictures", "4", "--rounds", "1", "--workers", "0", "--out", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_every_part_is_measured_beside_transformers(record: dict) -> None:
    small, large = (record["sizes"][title]["rows"] for title in ("96x64", "400x300"))
    for name in ("decode, 1 thread", "preprocess, ours, 1 thread", "preprocess, transformers, one call",
                 "encode_image, threads", "encode_image, one lane", "transformers, processor and forward"):  # fmt: skip
        assert small[name]["pictures_per_second"] > 0
        assert large[name]["pictures_per_second"] > 0
    assert {"model, ours", "model, plain torch forward"} <= set(small)


def test_pixels_are_equal_and_vectors_too_before_anything_is_timed(record: dict) -> None:
    assert all(size["bit_equal"] and size["min_cosine"] > 0.9999 for size in record["sizes"].values())


def test_other_pixels_stop_the_run(bench, tmp_path: Path) -> None:
    files = bench.write_pictures(tmp_path, 1, 64, 48)
    run = bench.Bench(files, bench.build(dict.fromkeys(bench.BASE, 1) | {"width": 8, "dim": 4}), 1, 0)
    with bench.ThreadPoolExecutor(1) as pool:
        rows = run.rows(pool, model=False)
        rows["preprocess, ours, 1 thread"] = lambda: np.zeros((1, 3, 224, 224), np.float32)
        with pytest.raises(SystemExit, match="not those of transformers' processor"):
            run.check(rows)


def test_bars_say_whether_they_are_met(record: dict) -> None:
    assert len(record["bars"]) >= 2
    assert all(bar["verdict"] == ("met" if bar["value"] >= 2 else "not met") for bar in record["bars"])


def test_the_record_tells_how_it_was_made(record: dict) -> None:
    assert set(record["versions"]) == {"python", "torch", "transformers", "pillow", "numpy"}
    assert record["processor"].rpartition(".")[2].startswith("CLIPImageProcessor")
    assert record["command"].startswith("python")
