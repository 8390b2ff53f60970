"""The arithmetic of `benchmarks/scale.py` in cases that were worked out by hand, and its sources."""

import importlib
import json
import math
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scale():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("scale")


@pytest.fixture(scope="module")
def arithmetic(scale):
    return scale.scale_plans


@pytest.fixture
def rates(scale) -> dict[str, float]:
    """Round numbers, so that every result below can be checked in the head."""
    loaded = {name: rate.value for name, rate in scale.load_rates(scale.RESULTS, {}).items()}
    round_ones = {
        "gpu_pictures": 100.0, "gpus_a_machine": 8.0, "cores_a_machine": 10.0, "decode_core": 50.0, "network": 1e9,
        "picture_bytes": 1e5, "busy": 0.5, "ray_share": 0.8, "gpu_price": 2.0, "cpu_price": 1.0, "storage_price": 0.02,
        "dim": 800.0, "row_bytes": 6800.0, "index_overhead": 15.0, "shard_rows": 1000.0, "failures": 1e-3,
        "partition_rows": 7500.0, "sample_rate": 256.0, "iterations": 50.0, "gflops": 200.0, "index_core_seconds": 1e-3,
        "memory_a_machine": 1e11, "translations_core": 20.0, "gpu_translations": 125.0, "target_bytes": 1600.0,
        "student_gpu_hours": 192.0, "text_bytes": 80.0, "query_seconds": 0.08, "search_core": 100.0,
        "known_queries": 0.5, "qps": 100.0, "probes": 64.0, "nvme": 1e9, "cpu_pictures": 25.0,
    }  # fmt: skip
    return loaded | round_ones


def value(plan, name: str) -> float:
    return plan.figures[name][0]


def test_slowest_of_decoding_encoding_and_network_decides(arithmetic, rates):
    # 8 GPUs encode 800 a second, 10 cores decode 500, the network brings 10,000: 500 x 0.5 = 250 a second.
    plan = arithmetic.embed(1e6, 1, rates)
    assert value(plan, "one machine encodes") == 250
    assert plan.hours == pytest.approx(1e6 / 250 / 3600)
    # An hour of the machine is 8 GPUs x 2 USD.
    assert plan.cost == pytest.approx(16 * 4000 / 3600)
    assert plan.worst()[0].what == "decoding"
    assert plan.worst()[0].share == 800 / 500
    slow = arithmetic.embed(1e6, 1, rates | {"network": 1e7})
    assert value(slow, "one machine encodes") == 100 * 0.5


def test_several_machines_pay_for_the_launcher(arithmetic, rates):
    # 4 machines x 500 x 0.5 x 0.8 = 800 a second.
    plan = arithmetic.embed(2.88e6, 4, rates)
    assert value(plan, "all machines encode") == pytest.approx(800)
    assert plan.hours == pytest.approx(1.0)
    assert plan.cost == pytest.approx(64.0)
    assert value(plan, "failures expected") == pytest.approx(4e-3)


def test_bytes_of_a_million_pictures(arithmetic, rates):
    plan = arithmetic.embed(1e6, 1, rates)
    assert value(plan, "pictures to read") == 1e11
    assert value(plan, "vectors") == 3.2e9
    assert value(plan, "rows with thumbnails") == 1e10
    # 800 / 8 + 15 bytes a row, and 1,000 centroids of 3,200 bytes.
    assert value(plan, "index") == 115e6 + 3.2e6
    assert value(plan, "stored a month") == pytest.approx((10 + 0.1182) * 0.02)
    assert value(plan, "shards") == 1000


def test_machine_without_gpu_is_the_measuring_machine(arithmetic, rates):
    plan = arithmetic.embed(1e6, 1, rates, gpu=False)
    assert value(plan, "one machine encodes") == 12.5
    assert plan.cost == pytest.approx(1e6 / 12.5 / 3600)


@pytest.mark.parametrize(
    ("rows", "partitions"), [(49_999, 0), (50_000, 224), (200_000, 447), (1e7, 3162), (1e8, 13_333), (5e9, 666_666)]
)
def test_partitions_follow_the_policy_of_the_index(arithmetic, rates, rows, partitions):
    from babelclip.search.lance_index import NO_INDEX_BELOW, default_partitions

    assert arithmetic.partitions_of(rows, rates) == partitions
    assert NO_INDEX_BELOW == arithmetic.NO_INDEX_BELOW
    if rows >= NO_INDEX_BELOW:
        assert default_partitions(int(rows)) == partitions


def test_index_of_the_specification_is_nearly_half_a_terabyte(arithmetic, rates):
    # The specification: 5 x 10^9 rows of 640 numbers, 0.48 TB without centroids.
    size = arithmetic.index_bytes(5e9, rates | {"dim": 640.0})
    assert size == pytest.approx(5e9 * 95 + 666_666 * 2560)
    assert 0.475e12 < size < 0.48e12


def test_training_an_index_outgrows_the_driver(arithmetic, rates):
    # 666,666 partitions x 256 samples x 800 x 4 bytes.
    plan = arithmetic.index(5e9, 10, rates)
    assert value(plan, "sampled for training") == 666_666 * 256 * 3200
    # 2 x samples x partitions x dim x 50 operations on 10 cores of 100 GFLOP/s.
    flop = 2 * 666_666 * 256 * 666_666 * 800 * 50
    assert value(plan, "training on the driver") == pytest.approx(flop / 1e12 / 3600)
    assert value(plan, "writing") == pytest.approx(5e9 * 1e-3 / 100 / 3600)
    assert {limit.what for limit in plan.limits if limit.share > 1} == {"memory of the driver", "hours of the driver"}
    # The figure of the specification's open risks: 65,536 partitions of 640 numbers are 43 GB.
    few = arithmetic.index(65_536 * 7500.0, 10, rates | {"dim": 640.0})
    assert value(few, "sampled for training") == pytest.approx(43e9, rel=0.01)


def test_replicas_follow_from_core_seconds(arithmetic, rates):
    # Half of the queries are encoded, 0.08 core-seconds each; a search takes 0.01: 0.05 a query. 16 cores x 0.5 / 0.05.
    plan = arithmetic.serve(1e6, rates)
    assert value(plan, "core-seconds of a query") == pytest.approx(0.05)
    assert value(plan, "queries a second of a replica") == pytest.approx(160)
    assert plan.machines == 2  # one would do, and one is never enough
    assert arithmetic.serve(1e6, rates | {"qps": 1000.0}).machines == math.ceil(1000 / 160)
    assert plan.cost == pytest.approx(2 * 720)


def test_cold_queries_read_their_partitions(arithmetic, rates):
    plan = arithmetic.serve(7500 * 1e5, rates)
    read = 64 * (7500 * 115 + 3200)
    assert value(plan, "read for a query that finds nothing in memory") == pytest.approx(read)
    disk = next(limit for limit in plan.limits if limit.what == "disk of a replica")
    assert disk.share == pytest.approx(50 * read / 1e9)


def test_seven_million_captions_in_48_languages(arithmetic, rates):
    plan = arithmetic.translate(7e6, 48, 2, rates, gpu=False)
    assert value(plan, "texts to make") == 329e6
    # 2 machines x 10 cores x 20 a second x 0.5 = 200 a second.
    assert plan.hours == pytest.approx(329e6 / 200 / 3600)
    # 16 cores are 1 USD an hour, so a machine of 10 is 0.625.
    assert plan.cost == pytest.approx(plan.hours * 2 * 0.625)
    assert value(plan, "their bytes") == 336e6 * 80
    assert value(plan, "targets, one a source caption") == 7e6 * 1600
    assert arithmetic.translate(7e6, 48, 1, rates, gpu=True).hours == pytest.approx(329e6 / (1000 * 0.5) / 3600)


def test_targets_of_the_specification_are_10_8_gb(scale, arithmetic):
    rates = {name: rate.value for name, rate in scale.load_rates(scale.RESULTS, {}).items()}
    assert value(arithmetic.translate(7e6, 48, 1, rates, gpu=True), "targets, one a source caption") == pytest.approx(
        10.8e9, rel=0.01
    )


def large(rates: dict[str, float]) -> dict[str, float]:
    return rates | {
        "gpu_pictures": 500.0, "image_gflop": 100.0, "text_gflop": 50.0, "samples_seen": 9e9, "weights": 600e6,
        "word_vectors": 200e6, "activation_bytes": 1e8, "gpu_memory": 80e9, "interconnect": 1e10,
        "checkpoint_hours": 2.0,
    }  # fmt: skip


def test_batch_of_90_000_on_100_gpus(arithmetic, rates):
    # 50 TFLOP/s a GPU; 900 pairs x 150 GFLOP forward. 80 GB - 12.8 GB of weights - 0.972 GB leave 66.2 GB for 90 GB.
    plan = arithmetic.contrastive(90_000, 100, large(rates), locked=False)
    assert value(plan, "steps") == 100_000
    assert value(plan, "pairs of a GPU") == 900
    assert value(plan, "parts of them (gradient cache)") == 2
    # Cut into parts, everything runs forward once more: 4 passes instead of 3.
    assert value(plan, "computing, a step") == pytest.approx(900 * 150e9 * 4 / 50e12)
    assert value(plan, "gathering vectors, a step") == pytest.approx(4 * 90_000 * 3200 / 1e10)
    assert value(plan, "averaging gradients, a step") == pytest.approx(2 * 800e6 * 4 / 1e10)
    step = 10.8 + 0.1152 + 0.64
    work = 100_000 * step / 0.5 / 3600
    # 13 machines fail 0.013 times an hour, and each failure costs an hour of work.
    assert plan.hours == pytest.approx(work * (1 + 0.013))
    assert plan.cost == pytest.approx(plan.hours * 200)
    assert plan.worst()[0].what == "memory of a GPU, without parts"


def test_locked_pictures_cost_neither_time_nor_reading(arithmetic, rates):
    plan = arithmetic.contrastive(90_000, 100, large(rates), locked=True)
    # A third of the operations, so a third of the memory: the batch is whole, and 3 passes are enough.
    assert value(plan, "parts of them (gradient cache)") == 1
    assert value(plan, "computing, a step") == pytest.approx(900 * 50e9 * 3 / 50e12)
    assert value(plan, "pictures read") == 0


@pytest.mark.parametrize(
    ("number", "said"), [(1e6, "10^6"), (5e9, "5 x 10^9"), (1e8, "10^8"), (7e6, "7 million"), (538, "538")]
)
def test_numbers_are_said_as_people_say_them(arithmetic, number, said):
    assert arithmetic.count(number) == said


def test_rates_say_where_they_come_from(scale):
    rates = scale.load_rates(scale.RESULTS, {"gpu_price": 1.5})
    assert rates["gpu_price"].kind == "given"
    assert rates["gpu_price"].value == 1.5
    measured = [rate for rate in rates.values() if rate.kind == "measured"]
    assert len(measured) >= 10
    for rate in measured:
        assert (scale.RESULTS / rate.source).exists()
    assert rates["gpu_pictures"].kind == "published"
    # What LAION and img2dataset published, from its parts.
    assert rates["picture_bytes"].value == pytest.approx(41_379, abs=1)
    assert 10 * rates["download_pictures"].value == pytest.approx(9_590, abs=10)


def test_measured_rate_comes_from_the_newest_file_that_has_it(scale, tmp_path):
    for file in scale.RESULTS.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for date, bytes_a_row in (("2030-01-02", 5.0), ("2029-12-31", 4.0)):
        content = {"bytes_a_row_beside_the_vector": bytes_a_row}
        (tmp_path / f"scale-rows-{date}.json").write_text(json.dumps(content))
    (tmp_path / "scale-rows-2031-01-01.json").write_text("{}")
    rate = scale.load_rates(tmp_path, {})["row_bytes"]
    assert (rate.value, rate.source) == (5.0, "scale-rows-2030-01-02.json")


def test_missing_figures_and_wrong_settings_are_told_with_the_cure(scale, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"No file encode-pictures-\*\.json .* --set decode_core=VALUE"):
        scale.load_rates(tmp_path, {})
    with pytest.raises(ValueError, match="--set names gpu_prize"):
        scale.load_rates(scale.RESULTS, {"gpu_prize": 1.0})
    with pytest.raises(ValueError, match="must be above 0"):
        scale.load_rates(scale.RESULTS, {"gpu_price": 0.0})
    with pytest.raises(SystemExit, match="must be NAME=VALUE"):
        scale.main(["--set", "gpu_price"])


def test_command_prints_tables_then_one_line_of_json_and_writes_it(scale, tmp_path, capsys):
    scale.main(["--plan", "5e9", "--plan", "batch", "--set", "gpu_price=3", "--out", str(tmp_path / "scale.json")])
    printed = capsys.readouterr().out
    record = json.loads(printed.splitlines()[-1])
    assert record == json.loads((tmp_path / "scale.json").read_text())
    assert set(record["plans"]) == {"5e9", "batch"}
    assert record["rates"]["gpu_price"] == {"value": 3.0, "unit": record["rates"]["gpu_price"]["unit"],
                                            "kind": "given", "source": "--set"}  # fmt: skip
    assert "BREAKS hours of the driver" in printed
    assert "5 x 10^9 pictures: 32 machines" in printed
    shares = [limit["share"] for limit in record["plans"]["5e9"][1]["limits"]]
    assert shares == sorted(shares, reverse=True)


def test_bytes_of_rows_are_measured(scale, tmp_path):
    pytest.importorskip("lancedb")
    from tests.conftest import make_clip
    from tests.search.serving import make_collection

    facts = scale.row_bytes(str(make_collection(make_clip(), tmp_path)))
    assert facts["rows"] == 96
    assert facts["bytes_a_row"]["thumbnail"] > 300
    assert "vector" not in facts["bytes_a_row"]
    assert facts["bytes_a_row_beside_the_vector"] == pytest.approx(sum(facts["bytes_a_row"].values()), abs=1)
