"""A regression of a few numbers as a training: what the tests of the loop run, on one process and on several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from babelclip.train import loop
from babelclip.train.batches import order
from babelclip.train.recipe import Train

SETTINGS = {"steps": 20, "lr": 0.01, "warmup_steps": 3, "precision": "fp32", "device": "cpu", "log_every": 1}


def rows_of_numbers(n: int = 64) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(1))
    return x, x @ torch.randn(5, 3, generator=torch.Generator().manual_seed(2))


class Rows:
    """Batches of a fixed size over some rows."""

    def __init__(self, batch_size: int = 8, seed: int = 0) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.x, self.y = rows_of_numbers()

    def plan(self, epoch: int) -> list[np.ndarray]:
        rows = order(epoch, self.seed, len(self.x))
        return [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]

    def load(self, rows: np.ndarray) -> dict[str, Tensor]:
        return {"x": self.x[rows], "y": self.y[rows], "row": torch.from_numpy(rows)}

    def tokens(self, rows: np.ndarray) -> int:
        return 5 * len(rows)


class Net(nn.Module):
    """A stack of equal layers, a head, a scalar: what towers consist of."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Dropout(dropout)) for _ in range(3))
        self.head = nn.Linear(5, 3)
        self.log_scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x) * self.log_scale.exp()


def squared_error(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    return (model(batch["x"]) - batch["y"]).square().mean(), {"seen": float(len(batch["x"]))}


def told_apart(model: nn.Module, batch: Mapping[str, Tensor], ranks: loop.Ranks) -> tuple[Tensor, dict[str, float]]:
    """InfoNCE both ways between outputs and targets of the whole batch."""
    outputs = model(batch["x"])
    everybody, targets = ranks.gather(outputs), ranks.gather(batch["y"])
    own = torch.arange(len(outputs)) + ranks.start
    forth = nn.functional.cross_entropy(outputs @ targets.T, own)
    back = nn.functional.cross_entropy(batch["y"] @ everybody.T, own)
    return (forth + back) / 2, {}


def in_two_parts(model: nn.Module, batch: Mapping[str, Tensor], ranks: loop.Ranks) -> tuple[Tensor, dict[str, float]]:
    """The same by a gradient cache: outputs first, then one half of the rows at a time."""
    with torch.no_grad():
        outputs = model(batch["x"])
    outputs.requires_grad_()
    loss, _ = told_apart(lambda _: outputs, batch, ranks)
    # Gradients of the own outputs in the losses of all processes, before the loop scales them by rows.
    (gradient,) = torch.autograd.grad(loss * (ranks.sizes[ranks.rank] * ranks.world), outputs)
    gradient = gradient / (ranks.sizes[ranks.rank] * ranks.world)
    half = len(outputs) // 2
    with ranks.part():
        ranks.backward((model(batch["x"][:half]) * gradient[:half]).sum())
    last = (model(batch["x"][half:]) * gradient[half:]).sum()
    return loss.detach() + last - last.detach(), {}


def spoiled(model: nn.Module, batch: Mapping[str, Tensor], ranks: loop.Ranks) -> tuple[Tensor, dict[str, float]]:
    """Not a number where row 5 is met by a process other than the first."""
    loss, figures = squared_error(model, batch)
    return loss * (float("nan") if ranks.rank and 5 in batch["row"] else 1.0), figures


LOSSES = {
    "spoiled": loop.WholeBatchLoss(spoiled),
    "mse": squared_error,
    "whole batch": loop.WholeBatchLoss(told_apart),
    "gradient cache": loop.WholeBatchLoss(in_two_parts),
}


def train(out: Path, *, loss: str = "mse", batch_size: int = 8, dropout: float = 0.0, **more: Any) -> loop.RunResult:
    """Trains a fresh `Net` and saves it as `out`.pt; settings and keywords of the loop in `more`."""
    keywords = {name: more.pop(name) for name in ("validate", "after_step", "resume") if name in more}
    model = Net(dropout).train()
    validate = keywords.pop("validate", False)
    x, y = rows_of_numbers()

    def error() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            return {"mse": (model(x) - y).square().mean().item()}

    result = loop.run(
        model,
        LOSSES[loss],
        Rows(batch_size),
        dict(model.named_parameters()),
        Train(**(SETTINGS | more)),
        out,
        validate=error if validate else None,
        progress=False,
        **keywords,
    )
    if result.processes == 1 or torch.distributed.get_rank() == 0:
        torch.save(model.state_dict(), out.with_suffix(".pt"))
    return result
