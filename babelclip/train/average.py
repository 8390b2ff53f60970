"""The exponential moving average of the weights, which smooths the last steps of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """The moving average of the weights of a run, by the names of its parameters."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Starts at the weights as they are."""
        self.parameters = parameters
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    def update(self, step: int) -> None:
        """Moves the average towards the weights after step number `step`, counted from 1.

        The decay grows as (1 + step) / (10 + step) up to the one that was set: otherwise the random start of a short
        run would weigh more than all that was learned.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, average in self.weights.items():
                average.lerp_(self.parameters[name].detach().to(average.dtype), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the average into the model for the time of the block."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._copy(self.weights)
        try:
            yield
        finally:
            self._copy(kept)

    def apply(self) -> None:
        """Puts the average into the model for good."""
        self._copy(self.weights)

    def _copy(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
