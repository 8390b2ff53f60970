"""What the settings of [train] do, each against a closed form or a hand-written loop."""

from __future__ import annotations

import io
import json
import logging
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.train import checkpoint, loop
from babelclip.train import step as one_step
from babelclip.train.average import Average
from babelclip.train.layers import layer_stacks, recomputed
from babelclip.train.log import RunLog, _bar_on, read_log
from babelclip.train.optimizer import build_optimizer, lr_at
from babelclip.train.recipe import Train
from tests.conftest import make_text_encoder
from tests.train.regression import SETTINGS, Net, Rows, rows_of_numbers, squared_error, train

OPTIMIZERS = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "adam": {"optimizer": "adam", "betas": (0.8, 0.9)},
    "rmsprop": {"optimizer": "rmsprop", "momentum": 0.5},
}


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out.with_suffix(".pt"), weights_only=True)


def same(a: Path, b: Path) -> bool:
    left, right = weights_of(a), weights_of(b)
    return all(torch.equal(left[name], right[name]) for name in left)


def run(out: Path, model: nn.Module | None = None, **more) -> tuple[nn.Module, loop.RunResult]:
    model = Net() if model is None else model
    keywords = {name: more.pop(name) for name in ("validate", "after_step", "resume") if name in more}
    settings = Train(**(SETTINGS | more))
    parameters = dict(model.named_parameters())
    return model, loop.run(model, squared_error, Rows(), parameters, settings, out, progress=False, **keywords)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_at_any_step_is_bit_equal_for_every_optimiser(tmp_path: Path, name: str, ema: float):
    options = {**OPTIMIZERS[name], "ema": ema, "dropout": 0.2, "validate": True, "validate_every": 5, "steps": 12}
    train(tmp_path / "whole", **options)
    for last in (1, 5, 11) if name == "adamw" else (5,):
        out = tmp_path / f"cut at {last}"
        train(out, **options | {"steps": last})  # constant schedule: a longer run goes on
        train(out, **options, resume=True)
        assert same(tmp_path / "whole", out)
        saved = [checkpoint.load(folder, 12) for folder in (tmp_path / "whole", out)]
        assert all(torch.equal(tensor, saved[1][0][key]) for key, tensor in saved[0][0].items())
        losses = [
            [line["loss"] for line in read_log(folder / "log.jsonl") if line["event"] == "train"]
            for folder in (tmp_path / "whole", out)
        ]
        assert losses[0] == losses[1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimiser_equals_torch_by_hand(tmp_path: Path, name: str):
    run(tmp_path / "ours", **OPTIMIZERS[name], steps=6, clip_norm=0.0)[0]
    ours = checkpoint.load(tmp_path / "ours", 6)[0]
    model, rows = Net(), Rows()
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False))
    optimizer = {
        "adamw": lambda: torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=0.01
        ),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.9)),
        "rmsprop": lambda: torch.optim.RMSprop(model.parameters(), lr=0.01, alpha=0.9, momentum=0.5),
    }[name]()
    for step, batch in enumerate(rows.plan(0)[:6]):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * min((step + 1) / 3, 1)
        optimizer.zero_grad()
        squared_error(model, rows.load(batch))[0].backward()
        optimizer.step()
    for key, tensor in model.named_parameters():
        torch.testing.assert_close(ours[key], tensor.detach(), rtol=1e-5, atol=1e-7)


def test_adam_and_rmsprop_take_no_decay_for_a_term_in_the_gradient():
    for name in ("adam", "rmsprop"):
        groups = build_optimizer(dict(Net().named_parameters()), Train(optimizer=name, weight_decay=0.1)).param_groups
        assert [group["weight_decay"] for group in groups] == [0.0] * len(groups)


def test_rates_by_step_are_those_of_contrastive_tension():
    rates = {"500": 8e-6, "1000": 6e-6, "1500": 4e-6, "2000": 2e-6}
    for step, rate in ((0, 1e-5), (499, 1e-5), (500, 8e-6), (1499, 6e-6), (1500, 4e-6), (4999, 2e-6)):
        factor = lr_at(step, steps=5000, warmup_steps=0, schedule="steps", lr=1e-5, lr_steps=rates)
        assert factor * 1e-5 == pytest.approx(rate)


def test_rates_by_step_reach_the_optimiser_and_the_log(tmp_path: Path):
    run(tmp_path, steps=6, warmup_steps=2, schedule="steps", lr_steps={"3": 0.004, "5": 0.001})
    rates = [line["lr"] for line in read_log(tmp_path / "log.jsonl")]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.004, 0.004, 0.001])


def test_epochs_count_passes_over_the_data(tmp_path: Path):
    # 64 rows in batches of 8, two batches a step: four steps a pass.
    _, result = run(tmp_path, epochs=1.5, accumulation=2)
    assert (result.step, result.steps, result.examples) == (6, 6, 96)


def test_the_moving_average_follows_its_closed_form():
    model = nn.Linear(1, 1, bias=False)
    average = Average(dict(model.named_parameters()), 0.75)
    expected = model.weight.item()
    for step in range(1, 40):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(step)
        decay = min(0.75, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-6)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 39


def test_the_average_is_what_is_validated_and_what_the_model_holds_at_the_end(tmp_path: Path):
    x, y = rows_of_numbers()
    model = Net()

    def error() -> dict[str, float]:
        with torch.no_grad():
            return {"mse": (model(x) - y).square().mean().item()}

    _, result = run(tmp_path, model, ema=0.9, validate=error, validate_every=5)
    raw, average = checkpoint.load(tmp_path, 20)[0], checkpoint.load_average(tmp_path, 20)
    assert average is not None
    held = dict(model.named_parameters())
    assert all(torch.equal(average[name], held[name]) for name in held)
    assert not torch.equal(raw["head.weight"], average["head.weight"])
    assert result.validation["mse"] == error()["mse"]
    loop.load_weights(model, dict(model.named_parameters()), tmp_path, 20, loop.connect(Train(device="cpu")))
    assert error()["mse"] == result.validation["mse"]


def test_batches_read_ahead_change_nothing_and_a_failed_read_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {"steps": 14, "accumulation": 2, "dropout": 0.2}
    train(tmp_path / "plain", **options)
    monkeypatch.setattr(one_step, "steps_ahead", lambda _device: 2)
    train(tmp_path / "ahead", **options)
    assert same(tmp_path / "plain", tmp_path / "ahead")
    train(tmp_path / "cut", **options | {"steps": 5})
    train(tmp_path / "cut", **options, resume=True)
    assert same(tmp_path / "plain", tmp_path / "cut")

    def torn(self: Rows, rows: np.ndarray) -> None:
        raise OSError("shard is torn")

    monkeypatch.setattr(Rows, "load", torn)
    with pytest.raises(OSError, match="torn"):
        train(tmp_path / "torn", **options)


def test_early_stop_ends_after_as_many_validations_without_a_better_one(tmp_path: Path):
    found = iter([5.0, 3.0, 4.0, 2.0, 2.0, 9.0, 1.0])
    settings = {"validate_every": 2, "early_stop": 2, "keep": "best"}
    model, result = run(tmp_path, validate=lambda: {"mse": next(found)}, **settings)
    assert (result.status, result.step, result.steps) == ("finished", 10, 20)
    assert (result.best_step, result.best_value) == (6, 2.0)
    assert torch.equal(checkpoint.load(tmp_path, 6)[0]["head.weight"], model.head.weight)
    again, resumed = run(tmp_path, validate=lambda: {"mse": next(found)}, resume=True, **settings)
    assert resumed.step == 10, "a run that was stopped early is over"
    assert torch.equal(again.head.weight, model.head.weight)


def test_recomputed_layers_give_the_same_gradients_also_with_dropout_and_run_twice():
    x, y = rows_of_numbers()
    gradients, calls = [], []
    for again in (False, True):
        model = Net(0.3).train()
        model.layers[0].requires_grad_(False)
        model.layers[1].register_forward_pre_hook(lambda *_: calls.append("hook"))
        model.layers[1][0].register_forward_hook(lambda *_: calls.append("inside"))
        torch.manual_seed(5)
        if again:
            with recomputed(model) as layers:
                assert layers == 2, "the lowest layer does not train, and nothing below it does"
                (model(x) - y).square().mean().backward()
            assert "forward" not in vars(model.layers[1])
        else:
            (model(x) - y).square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert calls.count("inside") == 3, "once, then once forward and once backward"


def test_layers_of_a_transformer_are_found_and_recomputed_without_dropout():
    student = make_text_encoder().eval()
    (layers,) = layer_stacks(student)
    assert layers == list(student.backbone.encoder.layer)
    ids, mask = torch.randint(5, 20, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    student(ids, mask).square().sum().backward()
    plain = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    student.zero_grad()
    with recomputed(student):
        student(ids, mask).square().sum().backward()
    again = [p.grad for p in student.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_run_of_before_these_settings_is_resumed(tmp_path: Path):
    run(tmp_path, steps=4)
    path = checkpoint.folder_of(tmp_path, 4) / "state.json"
    content = json.loads(path.read_text())
    for name in ("epochs", "optimizer", "alpha", "momentum", "ema", "lr_steps", "micro_batch", "parallel", "wandb"):
        del content["facts"]["train"][name]
    del content["stale"]
    path.write_text(json.dumps(content))
    assert run(tmp_path, steps=6, resume=True)[1].step == 6
    with pytest.raises(BabelclipError, match=r"train\.optimizer was 'adamw' and is 'adam'"):
        run(tmp_path, steps=6, resume=True, optimizer="adam")


def test_a_log_on_a_full_disk_names_the_last_usable_checkpoint(tmp_path: Path):
    log = RunLog(tmp_path, Train(), resumed_step=0, usable=lambda: "The last usable checkpoint is X.")
    log._file.close()
    log._file = Path("/dev/full").open("a") if Path("/dev/full").exists() else pytest.skip("no /dev/full")
    with pytest.raises(
        BabelclipError, match=r"log\.jsonl could not be written .*No space left.*usable checkpoint is X"
    ):
        log.write("train", 1, {"loss": 1.0})
    log.close()


def test_wandb_gets_the_figures_if_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logged, begun = [], {}
    fake = types.ModuleType("wandb")
    fake.log = lambda values, step: logged.append((step, values))  # type: ignore[attr-defined]
    fake.finish = lambda: logged.append("finished")  # type: ignore[attr-defined]
    fake.init = lambda **options: begun.update(options) or fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run(tmp_path, steps=2, wandb=True)
    assert [step for step, _ in logged[:-1]] == [1, 2]
    assert logged[0][1]["train/loss"] > 0
    assert logged[-1] == "finished"
    assert begun["config"]["steps"] == 2
    assert begun["resume"] == "allow"


def test_wandb_that_is_not_installed_is_said_and_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path, steps=2, wandb=True)[1].step == 2
    assert "wandb is not installed" in caplog.text


def test_a_person_reads_step_loss_rate_speed_time_left_and_the_last_validation():
    from rich.console import Console

    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    with _bar_on(console, 1000, 100) as bar:
        bar.validated("validation at step 100: mse 0.0123, best 0.0123 at step 100")
        bar.step(0.51234, 1e-4, 5000)
        bar.step(0.41234, 1e-4, 5000)
    text = console.export_text()
    for part in ("step 102/1,000", "loss 0.4123", "lr 0.0001", "tokens/s", "left", "mse 0.0123, best 0.0123"):
        assert part in text


def test_nothing_is_left_of_a_run_that_ends_in_an_error(tmp_path: Path):
    model = Net()

    def fail() -> None:
        raise KeyError("no such thing")

    with pytest.raises(KeyError):
        run(tmp_path, model, after_step=fail, gradient_checkpointing=True)
    assert "forward" not in vars(model.layers[0])
    assert model.head.weight.isfinite().all()
