# SPDX-License-Identifier: MIT
"""The same perceptron in PyTorch: an example of a model from a framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from kofn.fed.learn import F32, I64, Parameters


class TorchModel:
    """A perceptron with one hidden layer; parameters travel as numpy arrays."""

    def __init__(self, n_features: int, n_classes: int, hidden: int) -> None:
        layers: list[Any] = [torch.nn.Linear(n_features, hidden or n_classes)]
        if hidden:
            layers += [torch.nn.ReLU(), torch.nn.Linear(hidden, n_classes)]
        self._net = torch.nn.Sequential(*layers)

    def initial(self, seed: int) -> Parameters:
        """Return fresh parameters."""
        # A generator of its own: the global one belongs to nobody in a process of many clients.
        generator = torch.Generator().manual_seed(seed % 2**63)
        with torch.no_grad():
            for layer in self._net:
                if isinstance(layer, torch.nn.Linear):
                    scale = (2 / layer.in_features) ** 0.5
                    layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator))
                    layer.bias.zero_()
        return self._take()

    def losses(self, parameters: Parameters, x: F32, y: I64) -> tuple[F32, float]:
        """Return the loss of each sample, and the accuracy."""
        self._put(parameters)
        with torch.no_grad():
            logits = self._net(torch.from_numpy(np.ascontiguousarray(x)))
            target = torch.from_numpy(y)
            losses = functional.cross_entropy(logits, target, reduction="none")
            accuracy = (logits.argmax(dim=1) == target).float().mean()
        return losses.numpy(), float(accuracy)

    def train(
        self,
        parameters: Parameters,
        x: F32,
        y: I64,
        *,
        epochs: int,
        rate: float,
        batch: int,
        proximal_mu: float,
        rng: np.random.Generator,
    ) -> Parameters:
        """Return trained parameters."""
        self._put(parameters)
        start = [weight.detach().clone() for weight in self._net.parameters()]
        optimiser = torch.optim.SGD(self._net.parameters(), lr=rate)
        for _ in range(epochs):
            order = rng.permutation(len(y))
            for begin in range(0, len(y), batch):
                rows = order[begin : begin + batch]
                optimiser.zero_grad()
                logits = self._net(torch.from_numpy(np.ascontiguousarray(x[rows])))
                loss = functional.cross_entropy(logits, torch.from_numpy(y[rows]))
                if proximal_mu:
                    pairs = zip(self._net.parameters(), start, strict=True)
                    loss = loss + proximal_mu / 2 * sum(((w - s) ** 2).sum() for w, s in pairs)
                loss.backward()
                optimiser.step()
        return self._take()

    def _put(self, parameters: Parameters) -> None:
        with torch.no_grad():
            for weight, array in zip(self._net.parameters(), parameters, strict=True):
                weight.copy_(torch.from_numpy(np.array(array)))

    def _take(self) -> Parameters:
        return [weight.detach().numpy().copy() for weight in self._net.parameters()]
