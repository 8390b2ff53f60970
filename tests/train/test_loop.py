"""The loop on a small regression: no texts, no pictures, only what the loop itself promises."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.files import lock_file
from babelclip.train import checkpoint, loop
from babelclip.train.batches import order
from babelclip.train.log import read_log
from babelclip.train.recipe import Train

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
Y = X @ torch.randn(5, 3, generator=torch.Generator().manual_seed(2))


class Rows:
    """Batches of a fixed size over X and Y."""

    def __init__(self, batch_size: int = 8, seed: int = 0, y: torch.Tensor = Y) -> None:
        self.batch_size, self.seed, self.y = batch_size, seed, y

    def plan(self, epoch: int) -> list[np.ndarray]:
        rows = order(epoch, self.seed, len(X))
        return [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]

    def load(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {"x": X[rows], "y": self.y[rows]}

    def tokens(self, rows: np.ndarray) -> int:
        return 5 * len(rows)


def small_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def squared_error(model: nn.Module, batch: dict[str, torch.Tensor]):
    return (model(batch["x"]) - batch["y"]).square().mean(), {"seen": float(len(batch["x"]))}


def start(out: Path, model: nn.Module | None = None, batches: Rows | None = None, **more):
    model = small_model() if model is None else model
    keywords = {name: more.pop(name) for name in ("validate", "after_step", "resume", "facts") if name in more}
    settings = Train(**({"steps": 20, "lr": 0.01, "warmup_steps": 3, "precision": "fp32", "log_every": 1} | more))
    parameters = dict(model.named_parameters())
    result = loop.run(model, squared_error, batches or Rows(), parameters, settings, out, progress=False, **keywords)
    return model, result


def losses_of(out: Path) -> list[float]:
    return [line["loss"] for line in read_log(out / "log.jsonl") if line["event"] == "train"]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_warm_up_is_linear_and_reaches_the_peak_at_its_last_step():
    factors = [loop.lr_at(step, steps=10, warmup_steps=4, schedule="constant") for step in range(10)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    assert loop.lr_at(0, steps=10, warmup_steps=0, schedule="constant") == 1


def test_linear_and_cosine_fall_from_one_to_zero():
    for schedule, middle in (("linear", 0.5), ("cosine", 0.5)):
        factors = [loop.lr_at(step, steps=12, warmup_steps=2, schedule=schedule) for step in range(2, 13)]
        assert factors[0] == 1
        assert factors[5] == pytest.approx(middle)
        assert factors[-1] == pytest.approx(0, abs=1e-12)
        assert factors == sorted(factors, reverse=True)


def test_a_run_equals_a_hand_written_loop(tmp_path: Path):
    trained, result = start(tmp_path, weight_decay=0.1, head_lr=None, clip_norm=0.5, schedule="linear")
    model = small_model()
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False))
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    rows, expected, step = Rows(), [], 0
    for epoch in range(3):
        for batch in rows.plan(epoch):
            if step == 20:
                break
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * ((step + 1) / 3 if step < 3 else 1 - (step - 3) / 17)
            loss, _ = squared_error(model, rows.load(batch))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            expected.append(loss.item())
            step += 1
    assert losses_of(tmp_path) == pytest.approx(expected, rel=1e-6)
    for ours, theirs in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (result.status, result.step, result.examples, result.tokens) == ("finished", 20, 160, 800)


def test_accumulated_batches_of_unequal_size_give_the_step_of_one_large_batch(tmp_path: Path):
    whole, _ = start(tmp_path / "whole", batches=Rows(64), steps=4)
    parts, _ = start(tmp_path / "parts", batches=Rows(24), steps=4, accumulation=3)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_seed_repeats_and_two_seeds_differ(tmp_path: Path):
    runs = [
        start(tmp_path / name, small_model(0.2).train(), Rows(seed=s), seed=s)[0]
        for name, s in zip("abc", (0, 0, 1), strict=True)
    ]
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])


def test_resuming_from_any_checkpoint_ends_bit_equal_also_with_dropout(tmp_path: Path):
    def validate() -> dict[str, float]:
        return {"mse": random.random() + torch.rand(1).item()}  # draws, and must not disturb the training

    options = {"save_every": 6, "validate_every": 4, "log_every": 3, "accumulation": 2, "validate": validate}
    whole, _ = start(tmp_path / "whole", small_model(0.2).train(), **options)
    calls = []

    def stop_at_9() -> None:
        calls.append(1)
        if len(calls) == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    _, first = start(tmp_path / "cut", small_model(0.2).train(), after_step=stop_at_9, **options)
    assert (first.status, first.step, checkpoint.saved_steps(tmp_path / "cut")[-1]) == ("interrupted", 9, 9)
    torch.manual_seed(99)
    resumed, second = start(tmp_path / "cut", small_model(0.2).train(), resume=True, **options)
    assert (second.status, second.step) == ("finished", 20)
    assert same_weights(whole, resumed)
    timing = {"seconds", "tokens_per_second"}
    logs = [
        [{k: v for k, v in line.items() if k not in timing} for line in read_log(tmp_path / name / "log.jsonl")]
        for name in ("whole", "cut")
    ]
    assert [line for line in logs[0] if line["event"] == "train"] == [
        line for line in logs[1] if line["event"] == "train"
    ]


def test_a_finished_run_that_is_resumed_does_nothing_and_a_longer_one_goes_on(tmp_path: Path):
    model, _ = start(tmp_path / "a", steps=10)
    again, result = start(tmp_path / "a", steps=10, resume=True)
    assert same_weights(model, again)
    assert result.step == 10
    longer, _ = start(tmp_path / "a", steps=15, resume=True)
    straight, _ = start(tmp_path / "b", steps=15)
    assert same_weights(longer, straight)


def test_one_run_at_a_time_writes_a_folder(tmp_path):
    give_back = lock_file(tmp_path / ".lock")
    with pytest.raises(BabelclipError, match=rf"is being trained into by process {os.getpid()}\. One run at a time"):
        start(tmp_path, steps=5)
    assert [item.name for item in tmp_path.iterdir()] == [".lock"]
    give_back()
    start(tmp_path, steps=5)
    assert start(tmp_path, steps=5, resume=True)[1].step == 5


def test_a_folder_is_free_again_after_a_run_that_failed(tmp_path):
    def broken(model, batch):
        raise RuntimeError("of the loss")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="of the loss"):
            loop.run(small_model(), broken, Rows(), dict(small_model().named_parameters()), Train(steps=5), tmp_path)


def test_several_machines_wait_for_the_lock_of_one_that_is_gone(tmp_path):
    give_back = lock_file(tmp_path / ".lock")
    threading.Timer(0.5, give_back).start()
    loop._lock(tmp_path, 20.0)()


def test_a_run_is_not_overwritten_nor_resumed_with_another_recipe(tmp_path: Path):
    start(tmp_path, steps=5, schedule="cosine")
    with pytest.raises(BabelclipError, match=r"already holds a run at step 5.*--resume"):
        start(tmp_path, steps=5)
    with pytest.raises(BabelclipError, match=r"train\.lr was 0\.01 and is 0\.02"):
        start(tmp_path, steps=5, schedule="cosine", lr=0.02, resume=True)
    with pytest.raises(BabelclipError, match=r"train\.steps was 5 and is 9"):
        start(tmp_path, steps=9, schedule="cosine", resume=True)
    with pytest.raises(BabelclipError, match="data was None and is 7"):
        start(tmp_path, steps=5, schedule="cosine", facts={"data": 7}, resume=True)


def test_resume_without_a_checkpoint_starts(tmp_path: Path):
    _, result = start(tmp_path / "new", resume=True)
    assert result.step == 20


@pytest.mark.parametrize("content", ["{}", "[5]", '{"step": "five"}', '{"step": 1e999}', "{", "[" * 5000])
def test_a_damaged_pointer_to_the_best_checkpoint_is_named(tmp_path: Path, content):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.json").write_text(content)
    with pytest.raises(BabelclipError, match=r"best\.json"):
        checkpoint.best_step(tmp_path)


def test_last_two_and_best_checkpoints_stay(tmp_path: Path):
    figures = iter([5.0, 1.0, 3.0, 4.0, 2.0, 6.0])
    model, result = start(
        tmp_path, save_every=2, validate_every=4, keep="best", validate=lambda: {"mse": next(figures)}
    )
    assert checkpoint.saved_steps(tmp_path) == [4, 18, 20]
    assert (result.best_step, result.best_value) == (4, 1.0)
    pointers = {
        name: json.loads((tmp_path / "checkpoints" / f"{name}.json").read_text())["step"] for name in ("best", "last")
    }
    assert pointers == {"best": 4, "last": 20}
    weights, _, _ = checkpoint.load(tmp_path, 4)
    assert torch.equal(weights["0.weight"], model[0].weight), "keep = best puts the best weights into the model"


def test_the_start_may_be_the_best_step_and_is_then_kept(tmp_path: Path):
    figures = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    model, result = start(
        tmp_path, save_every=2, validate_every=4, keep="best", validate=lambda: {"mse": next(figures)}
    )
    assert (result.best_step, checkpoint.saved_steps(tmp_path)) == (0, [0, 18, 20])
    assert torch.equal(checkpoint.load(tmp_path, 0)[0]["0.weight"], model[0].weight)


def test_highest_can_be_best_and_an_unmeasured_metric_is_named(tmp_path: Path):
    figures = iter([0.1, 0.3, 0.2])
    _, result = start(tmp_path / "a", validate_every=10, best_is="highest", validate=lambda: {"R@10": next(figures)})
    assert result.best_step == 10
    with pytest.raises(BabelclipError, match=r"Did you mean 'R@10'"):
        start(tmp_path / "b", validate_every=10, best_metric="R@1", validate=lambda: {"R@10": 1.0})


def test_validation_leaves_modes_as_they_were(tmp_path: Path):
    model = small_model(0.1).train()
    model[0].eval()

    def validate() -> dict[str, float]:
        model.eval()
        model.train()
        return {"mse": 1.0}

    start(tmp_path, model, steps=2, validate_every=1, validate=validate)
    assert (model.training, model[0].training) == (True, False)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_the_last_checkpoint_is_usable(tmp_path: Path, bad: float):
    y = Y.clone()
    rows = Rows(y=y)

    def spoil() -> None:
        spoil.steps += 1
        if spoil.steps == 7:
            y[:] = bad

    spoil.steps = 0
    with pytest.raises(loop.LossError, match=r"at step 8.*step-00000005.*train\.lr"):
        start(tmp_path, batches=rows, save_every=5, after_step=spoil)
    resumed, result = start(tmp_path, save_every=5, resume=True)
    straight, _ = start(tmp_path / "straight", save_every=5)
    assert result.step == 20
    assert same_weights(resumed, straight)


def test_a_checkpoint_that_cannot_be_written_names_the_last_usable_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = checkpoint.save_file

    def full_disk(tensors: dict, path: Path) -> None:
        if "00000010" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(BabelclipError, match=r"No space left.*usable checkpoint is .*step-00000005"):
        start(tmp_path, save_every=5)
    assert checkpoint.saved_steps(tmp_path) == [5]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    start(tmp_path, steps=5)
    (tmp_path / "checkpoints" / "step-00000005" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(BabelclipError, match="step-00000005 is damaged"):
        start(tmp_path, steps=5, resume=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    start(tmp_path, steps=5)
    with pytest.raises(BabelclipError, match="differ in"):
        start(tmp_path, nn.Sequential(nn.Linear(5, 3)), steps=5, resume=True)


def test_what_does_not_train_is_not_in_the_checkpoint(tmp_path: Path):
    model = small_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loop.run(model, squared_error, Rows(), trained, Train(steps=3, precision="fp32"), tmp_path, progress=False)
    weights, inner, _ = checkpoint.load(tmp_path, 3)
    assert set(weights) == {"3.weight", "3.bias"}
    assert len(inner["optimizer"]["state"]) == 2
    assert torch.equal(before, model[0].weight)


def test_running_statistics_beside_trained_weights_are_kept(tmp_path: Path):
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).train()

    whole, _ = start(tmp_path / "whole", model())
    start(tmp_path / "cut", model(), steps=11)
    resumed, _ = start(tmp_path / "cut", model(), resume=True)
    assert same_weights(whole, resumed)


def test_bf16_learns_and_keeps_weights_in_float32(tmp_path: Path):
    model, result = start(tmp_path, precision="bf16", steps=60, lr=0.03)
    assert result.precision == "bf16"
    assert next(model.parameters()).dtype == torch.float32
    assert losses_of(tmp_path)[-1] < 0.5 * losses_of(tmp_path)[0]
    assert not hasattr(model, "_original_forward")


def test_fp16_on_a_cpu_is_refused_with_what_to_use(tmp_path: Path):
    with pytest.raises(BabelclipError, match="needs a GPU"):
        start(tmp_path, precision="fp16", device="cpu")


def test_tensorboard_files_are_written_if_asked(tmp_path: Path):
    pytest.importorskip("tensorboard")
    start(tmp_path, steps=3, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_run_in_a_thread_needs_no_signals(tmp_path: Path):
    results = []
    thread = threading.Thread(target=lambda: results.append(start(tmp_path, steps=2)[1].status))
    thread.start()
    thread.join()
    assert results == ["finished"]


def test_no_rows_is_a_clear_error(tmp_path: Path):
    class Empty(Rows):
        def plan(self, epoch: int) -> list[np.ndarray]:
            return []

    with pytest.raises(BabelclipError, match="no caption to train on"):
        start(tmp_path, batches=Empty())


def test_nothing_is_printed_where_no_person_looks(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    model = small_model()
    loop.run(model, squared_error, Rows(), dict(model.named_parameters()), Train(steps=2, precision="fp32"), tmp_path)
    assert capfd.readouterr() == ("", "")
