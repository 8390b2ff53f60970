"""Pictures through the picture tower: the same vectors in the same order, whoever decodes and whichever lanes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from babelclip.errors import BabelclipError
from babelclip.models import decoding
from babelclip.models.decoding import EncodeReport
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import PictureError, open_picture
from tests.conftest import make_image_encoder

PICTURES = 23


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tower() -> ImageEncoder:
    return make_image_encoder()


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    made = []
    for n in range(PICTURES):
        pixels = rng.integers(0, 256, (40 + n, 60 - n, 3), dtype=np.uint8)
        made.append(folder / f"{n:02}.{('jpg', 'png')[n % 2]}")
        Image.fromarray(pixels).save(made[-1])
    return made


@pytest.fixture
def with_bad(paths, tmp_path) -> list[Path]:
    """The pictures, with a text at position 4, nothing at 5, and a file that breaks off at the end."""
    text, cut = tmp_path / "text.jpg", tmp_path / "cut.jpg"
    text.write_text("no picture")
    cut.write_bytes(paths[0].read_bytes()[:300])
    return [*paths[:4], text, tmp_path / "absent.png", *paths[4:], cut]


def one_by_one(tower: ImageEncoder, paths: list[Path]) -> np.ndarray:
    with torch.inference_mode():
        pixels = [torch.from_numpy(tower.preprocess(open_picture(path)))[None] for path in paths]
        return np.concatenate([tower(picture).numpy() for picture in pixels])


@pytest.mark.parametrize("devices", [None, ["cpu"], ["cpu", "cpu", "cpu"]])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_lanes_and_batches_change_nothing_but_rounding(two_threads, tower, paths, devices, batch_size):
    features = tower.encode(paths, normalize=False, batch_size=batch_size, devices=devices)
    np.testing.assert_allclose(features, one_by_one(tower, paths), atol=1e-5)
    assert torch.get_num_threads() == 2


def test_worker_processes_give_the_same_vectors_and_skip_the_same_pictures(two_threads, tower, with_bad):
    threads, skipped_by_threads = tower.encode_readable(with_bad, batch_size=4)
    processes, skipped_by_processes = tower.encode_readable(with_bad, batch_size=4, workers=2)
    np.testing.assert_allclose(processes, threads, atol=1e-5)
    assert skipped_by_processes == skipped_by_threads
    assert not multiprocessing.active_children()


def test_unreadable_pictures_are_named_in_input_order_and_the_others_keep_theirs(two_threads, tower, paths, with_bad):
    features, skipped = tower.encode_readable(with_bad, normalize=False, batch_size=2)
    assert [(item.position, Path(item.name).name) for item in skipped] == [
        (4, "text.jpg"),
        (5, "absent.png"),
        (25, "cut.jpg"),
    ]
    assert "does not exist" in skipped[1].reason
    np.testing.assert_allclose(features, one_by_one(tower, paths), atol=1e-5)


def test_nothing_readable_and_nothing_at_all_give_no_rows(tower, with_bad):
    features, skipped = tower.encode_readable(with_bad[4:6])
    assert features.shape == (0, tower.embed_dim)
    assert len(skipped) == 2
    assert tower.encode([]).shape == (0, tower.embed_dim)
    assert tower.encode([], before_head=True).shape == (0, 32)


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_stops_at_a_bad_picture_and_leaves_nothing_behind(two_threads, tower, with_bad, workers):
    # Which of the bad ones is met first hangs on the threads.
    with pytest.raises(PictureError, match=r"text\.jpg|absent\.png|cut\.jpg"):
        tower.encode(with_bad, batch_size=5, workers=workers)
    assert not multiprocessing.active_children()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_decoding_stays_a_fixed_number_of_pictures_ahead_of_the_model(two_threads, tower, paths, monkeypatch):
    lock, batch_size, lanes = threading.Lock(), 2, 2
    counts = {"decoded": 0, "encoded": 0, "most": 0}
    decode, forward = decoding._decode, tower.forward

    def counted(preprocess, picture):
        with lock:
            counts["decoded"] += 1
            counts["most"] = max(counts["most"], counts["decoded"] - counts["encoded"])
        return decode(preprocess, picture)

    def slow(pixels):
        time.sleep(0.02)
        result = forward(pixels)
        with lock:
            counts["encoded"] += len(pixels)
        return result

    monkeypatch.setattr(decoding, "_decode", counted)
    monkeypatch.setattr(tower, "forward", slow)
    tower.encode(paths * 4, batch_size=batch_size)
    assert counts["encoded"] == 4 * PICTURES
    assert counts["most"] <= (decoding._BATCHES_AHEAD + lanes) * batch_size


def test_the_report_counts_and_names_the_side_that_was_waited_for(two_threads, tower, with_bad, monkeypatch):
    reports: list[EncodeReport] = []
    decode, forward = decoding._decode, tower.forward
    monkeypatch.setattr(decoding, "_decode", lambda *given: (time.sleep(0.02), decode(*given))[1])
    tower.encode_readable(with_bad, batch_size=4, report=reports.append)
    monkeypatch.setattr(decoding, "_decode", decode)
    monkeypatch.setattr(tower, "forward", lambda pixels: (time.sleep(0.1), forward(pixels))[1])
    tower.encode_readable(with_bad, batch_size=4, report=reports.append)
    assert [(report.pictures, report.skipped) for report in reports] == [(PICTURES, 3)] * 2
    assert [report.bottleneck for report in reports] == ["decode", "model"]
    assert "bottleneck: decode" in str(reports[0])
    assert reports[0].pictures_per_second == pytest.approx(PICTURES / reports[0].seconds)


def test_a_report_of_nothing_divides_by_nothing(tower):
    reports: list[EncodeReport] = []
    tower.encode([], report=reports.append)
    assert reports[0].pictures == 0
    assert EncodeReport(0, 0, 0.0, 0.0, 0.0).pictures_per_second == 0.0


@pytest.mark.parametrize(
    ("keywords", "named"),
    [({"batch_size": 0}, "batch_size is 0"), ({"workers": -1}, "workers=-1"), ({"devices": ["cuda:99"]}, "cuda:99")],
)
def test_impossible_settings_are_refused(tower, paths, keywords, named):
    with pytest.raises(BabelclipError, match=named):
        tower.encode(paths, **keywords)


def test_a_worker_that_dies_is_an_error_and_not_a_hang(tower, paths, monkeypatch):
    monkeypatch.setattr(decoding, "_start_worker", os._exit)  # called without its argument: the worker ends at once
    with pytest.raises(BabelclipError, match="worker process died"):
        tower.encode(paths, workers=1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_within_the_model_ends_the_decoders(two_threads, tower, paths, monkeypatch, workers):
    def interrupted(_pixels):
        raise KeyboardInterrupt

    monkeypatch.setattr(tower, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tower.encode(paths, batch_size=2, workers=workers)
    assert not multiprocessing.active_children()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


# Without a tower: torch would take seconds to import.
_ENDLESS = """
import multiprocessing, signal, sys, time
from babelclip.models.decoding import DecodedBatches, decoder_pool
from babelclip.models.preprocess import Preprocess

if __name__ == "__main__":
    # A job in the background of a shell, as the suite may be, inherits that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with decoder_pool(2, 5000) as pool:
        batches = DecodedBatches(pool, Preprocess(), [sys.argv[1]] * 5000, 4)
        while True:
            batches.take()
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            time.sleep(0.1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_leave_no_process_behind(paths, tmp_path, how):
    script = tmp_path / "endless.py"
    script.write_text(_ENDLESS)
    root = Path(__file__).parents[2]
    job = subprocess.Popen(
        [sys.executable, str(script), str(paths[0])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "2"},
        start_new_session=True,
    )
    with job:
        workers = [int(pid) for pid in job.stdout.readline().split()]
        if how == signal.SIGINT:
            os.killpg(job.pid, how)  # as a terminal does
        else:
            job.kill()
        job.communicate(timeout=20)
    assert len(workers) == 2
    assert job.returncode != 0
    deadline = time.monotonic() + 10
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may be there to reap an orphan
