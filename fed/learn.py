# SPDX-License-Identifier: MIT
r"""Models in plain numpy: softmax regression and a perceptron with one hidden layer.

Parameters travel as a list of float32 arrays, layer by layer (weights, bias). Local training is
stochastic gradient descent on the mean cross-entropy, with FedProx's term on request:

.. math:: w \leftarrow w - \eta (\nabla F_i(w) + \mu (w - w_0))

======  =============  ==========================================
symbol  name           meaning
======  =============  ==========================================
eta     rate           step size
mu      proximal_mu    weight of the term, arXiv 1812.06127
======  =============  ==========================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.fed.streams import stream

if TYPE_CHECKING:
    from collections.abc import Sequence

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Parameters = list[F32]


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network: `hidden` units between `n_features` and `n_classes`; 0 is softmax regression."""

    n_features: int
    n_classes: int
    hidden: int = 32

    def __post_init__(self) -> None:
        if self.n_features < 1 or self.n_classes < 2 or self.hidden < 0:
            raise InputError(
                f"a model of {self.n_features} features, {self.hidden} hidden units and "
                f"{self.n_classes} classes cannot be made"
            )

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the parameters."""
        if self.hidden == 0:
            return [(self.n_features, self.n_classes), (self.n_classes,)]
        return [
            (self.n_features, self.hidden),
            (self.hidden,),
            (self.hidden, self.n_classes),
            (self.n_classes,),
        ]

    @property
    def n_bytes(self) -> int:
        """Size of the parameters, bytes."""
        return 4 * sum(int(np.prod(shape)) for shape in self.shapes)

    def initial(self, seed: int) -> Parameters:
        """Return fresh parameters (He et al. 2015; zero biases, zero softmax weights)."""
        rng = stream(seed, "model")
        fresh: Parameters = []
        for shape in self.shapes:
            scale = np.sqrt(2 / shape[0]) if len(shape) == 2 and self.hidden else 0.0
            fresh.append((rng.standard_normal(shape) * scale).astype(np.float32))
        return fresh

    def check(self, parameters: Sequence[npt.NDArray[np.generic]]) -> None:
        """Raise InputError unless the parameters have this model's shapes."""
        shapes = [tuple(array.shape) for array in parameters]
        if shapes != self.shapes:
            raise InputError(f"parameters have shapes {shapes}, but the model has {self.shapes}")


def _logits(parameters: Parameters, x: F32) -> tuple[F32 | None, F32]:
    if len(parameters) == 2:
        return None, x @ parameters[0] + parameters[1]
    hidden = np.maximum(x @ parameters[0] + parameters[1], np.float32(0))
    return hidden, hidden @ parameters[2] + parameters[3]


def _log_softmax(logits: F32) -> F32:
    shifted = logits - logits.max(axis=1, keepdims=True)
    out: F32 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return out


def sample_losses(parameters: Parameters, x: F32, y: I64) -> tuple[F32, float]:
    """Return the cross-entropy of each sample, shape (N,), and the accuracy."""
    _, logits = _logits(parameters, x)
    losses: F32 = -_log_softmax(logits)[np.arange(len(y)), y]
    return losses, float((logits.argmax(axis=1) == y).mean())


def accuracy(parameters: Parameters, x: F32, y: I64) -> float:
    """Return the share of samples whose class is predicted."""
    return float((_logits(parameters, x)[1].argmax(axis=1) == y).mean())


def train(
    parameters: Parameters,
    x: F32,
    y: I64,
    *,
    epochs: int,
    rate: float,
    batch: int,
    rng: np.random.Generator,
    proximal_mu: float = 0.0,
) -> Parameters:
    """Return parameters after local training; those given are left as they are.

    Parameters
    ----------
    x, y : arrays, shapes (N, D) and (N,)
    epochs, batch : int
        Passes over the samples, and samples of one step.
    rate, proximal_mu : float
        eta and mu.
    rng : Generator
        Order of the samples; a client's own for each round.
    """
    w = [array.copy() for array in parameters]
    eye = np.eye(parameters[-1].shape[0], dtype=np.float32)
    for _ in range(epochs):
        order = rng.permutation(len(y))
        for begin in range(0, len(y), batch):
            rows = order[begin : begin + batch]
            xb = x[rows]
            hidden, logits = _logits(w, xb)
            delta = np.exp(_log_softmax(logits)) - eye[y[rows]]
            delta *= np.float32(rate / len(rows))
            if proximal_mu:
                pull = np.float32(rate * proximal_mu)
                for i, start in enumerate(parameters):
                    w[i] -= pull * (w[i] - start)
            if hidden is None:
                w[0] -= xb.T @ delta
                w[1] -= delta.sum(axis=0)
                continue
            back = (delta @ w[2].T) * (hidden > 0)
            w[2] -= hidden.T @ delta
            w[3] -= delta.sum(axis=0)
            w[0] -= xb.T @ back
            w[1] -= back.sum(axis=0)
    return w


def average(updates: Sequence[tuple[Parameters, float]]) -> Parameters:
    """Return the mean of parameters with the given weights (FedAvg)."""
    total = sum(weight for _, weight in updates)
    if not updates or total <= 0:
        raise InputError("there is nothing to average: no update has a positive weight")
    sums = [np.zeros(array.shape, dtype=np.float64) for array in updates[0][0]]
    for parameters, weight in updates:
        for i, array in enumerate(parameters):
            sums[i] += weight / total * array
    return [own.astype(np.float32) for own in sums]
