# SPDX-License-Identifier: MIT
"""The template's model in PyTorch computes what the numpy one does."""

import numpy as np
import pytest

from kofn.fed import learn
from kofn.fed.learn import Parameters

pytest.importorskip("torch", reason="PyTorch is not installed; it belongs to no extra of kofn")


def turned(parameters: Parameters) -> Parameters:
    """Return parameters as the other one lays them out: weights are transposed."""
    return [np.ascontiguousarray(array.T) for array in parameters]


@pytest.mark.parametrize("hidden", [0, 7])
@pytest.mark.parametrize("proximal_mu", [0.0, 0.3])
def test_both_models_measure_and_train_alike(hidden: int, proximal_mu: float) -> None:
    from kofn.fed.flower.template.kofnapp.torch_model import TorchModel

    rng = np.random.default_rng(5)
    x = rng.normal(size=(43, 6)).astype(np.float32)
    y = rng.integers(0, 3, size=43)
    model = TorchModel(6, 3, hidden)
    start = model.initial(9)
    assert all(np.array_equal(a, b) for a, b in zip(start, TorchModel(6, 3, hidden).initial(9)))  # noqa: B905
    losses, accuracy = model.losses(start, x, y)
    expected, share = learn.sample_losses(turned(start), x, y)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert accuracy == pytest.approx(share)
    how = {"epochs": 2, "rate": 0.1, "batch": 10, "proximal_mu": proximal_mu}
    trained = model.train(start, x, y, rng=np.random.default_rng(2), **how)  # type: ignore[arg-type]
    other = learn.train(turned(start), x, y, rng=np.random.default_rng(2), **how)  # type: ignore[arg-type]
    # The numpy model takes FedProx's pull first and goes back through the pulled weights: a step
    # of second order in the rate apart.
    atol = 2e-3 if proximal_mu and hidden else 1e-5
    for ours, theirs in zip(turned(trained), other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=atol)
    for before, now in zip(start, model.initial(9), strict=True):
        np.testing.assert_array_equal(before, now)
