"""AdamW, by itself: `torch.optim` loads the compiler of torch when it makes its first optimiser, which takes longer than loading torch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: decay of the running mean of the gradients, and of their squares
DECAY = (0.9, 0.999)
EPSILON = 1e-8


class AdamW:
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2).

    Weights and state after every step are bit for bit those of `torch.optim.AdamW` for one parameter at a time
    (`foreach=False, fused=False`).

    Args:
        parameters: trained, of float32; one without a gradient is left alone.
        weight_decay: share of the weights that is taken off in a step, times the learning rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self.parameters, self.weight_decay = list(parameters), weight_decay
        self._steps = [0] * len(self.parameters)
        self._means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every parameter along its gradient, and drop the gradient."""
        for i, (parameter, mean, square) in enumerate(zip(self.parameters, self._means, self._squares, strict=True)):
            gradient = parameter.grad
            if gradient is None:
                continue
            self._steps[i] += 1
            parameter.mul_(1 - learning_rate * self.weight_decay)
            mean.lerp_(gradient, 1 - DECAY[0])
            square.mul_(DECAY[1]).addcmul_(gradient, gradient, value=1 - DECAY[1])
            unbiased_mean, unbiased_square = 1 - DECAY[0] ** self._steps[i], 1 - DECAY[1] ** self._steps[i]
            scale = (square.sqrt() / unbiased_square**0.5).add_(EPSILON)
            parameter.addcdiv_(mean, scale, value=-learning_rate / unbiased_mean)
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on beside the weights, by name."""
        named = {"steps": torch.tensor(self._steps)}
        for i, (mean, square) in enumerate(zip(self._means, self._squares, strict=True)):
            named |= {f"{i}.mean": mean, f"{i}.square": square}
        return named

    def restore(self, named: dict[str, Tensor]) -> None:
        """Take up the state of an optimiser of the same parameters.

        Raises:
            KeyError: `named` is not one.
        """
        self._steps = [int(step) for step in named["steps"]]
        for i, (mean, square) in enumerate(zip(self._means, self._squares, strict=True)):
            mean.copy_(named[f"{i}.mean"])
            square.copy_(named[f"{i}.square"])
