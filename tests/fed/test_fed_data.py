# SPDX-License-Identifier: MIT
"""Data without a network, partitions that lose nothing, and models that learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.fed.data import (
    Dataset,
    check_partition,
    client_names,
    load_dataset,
    partition,
    synthetic,
)
from kofn.fed.learn import Model, accuracy, average, sample_losses, train
from kofn.fed.streams import stream


def made(n: int = 600, classes: int = 5) -> Dataset:
    rng = np.random.default_rng(0)
    y = rng.integers(classes, size=n)
    x = (np.eye(classes)[y] + 0.3 * rng.standard_normal((n, classes))).astype(np.float32)
    return Dataset("made", x, y, x[:50], y[:50])


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40),
    how=st.sampled_from(["iid", "dirichlet:0.05", "dirichlet:0.5", "dirichlet:100", "shards:2"]),
    seed=st.integers(0, 1000),
)
def test_every_sample_belongs_to_exactly_one_client_and_nobody_is_left_empty(
    n: int, how: str, seed: int
) -> None:
    data = made()
    parts = partition(data, n, how, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(data.y)))
    assert min(map(len, parts)) >= 8
    again = partition(data, n, how, seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_a_smaller_alpha_makes_clients_less_alike() -> None:
    data = made()

    def purity(how: str) -> float:
        parts = partition(data, 20, how, seed=3)
        return float(np.mean([np.bincount(data.y[p]).max() / len(p) for p in parts]))

    assert purity("iid") < purity("dirichlet:0.5") < purity("dirichlet:0.05")
    assert purity("shards:1") > 0.9


@pytest.mark.parametrize(
    ("how", "n", "sentence"),
    [
        ("dirichlet:-1", 5, "needs a positive number"),
        ("dirichlet:x", 5, "needs a positive number"),
        ("zipf:2", 5, "there is no partition 'zipf:2'"),
        ("natural", 5, "does not say whose"),
        ("iid", 500, "do not fit the 600 training samples"),
        ("shards:400", 5, "cannot have 400 shards each"),
    ],
)
def test_a_bad_partition_is_one_sentence(how: str, n: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        partition(made(), n, how, seed=0)


def test_an_empty_client_is_named() -> None:
    with pytest.raises(InputError, match="leaves client-001 without a training sample"):
        check_partition([np.arange(3), np.arange(0)], client_names(2))


def test_a_user_loader_is_a_function_of_the_seed(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        "import numpy as np\n"
        "from kofn.fed.data import Dataset\n"
        "def flowers(seed):\n"
        "    x = np.full((20, 3), seed, dtype=np.float32)\n"
        "    y = np.arange(20) % 2\n"
        "    return Dataset('flowers', x, y, x, y)\n"
        "def wrong(seed):\n"
        "    return 3\n"
    )
    import pathlib

    pathlib.Path(str(tmp_path), "own_flowers.py").write_text(source)
    assert load_dataset("own_flowers:flowers", seed=4).x[0, 0] == 4
    with pytest.raises(InputError, match="returned int, not a Dataset"):
        load_dataset("own_flowers:wrong")
    with pytest.raises(InputError, match="no_such_module"):
        load_dataset("no_such_module:f")
    with pytest.raises(InputError, match="there is no data set 'cifar'"):
        load_dataset("cifar")


def test_mnist_is_real_and_split_the_same_each_time(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, cached = load_dataset("mnist-5k"), load_dataset("mnist-5k")
    assert first.x.shape == (4000, 784)
    assert first.x_test.shape == (1000, 784)
    assert np.array_equal(first.x, cached.x)
    assert np.array_equal(np.bincount(first.y_test), np.full(10, 100))


def test_synthetic_clients_differ_and_own_their_samples() -> None:
    data = synthetic(seed=1, n_clients=12)
    parts = partition(data, 12, "natural", seed=0)
    assert sum(map(len, parts)) == len(data.y)
    means = np.array([data.x[p].mean() for p in parts])
    assert means.std() > 0.3
    with pytest.raises(InputError, match="belongs to 12 clients, not to 10"):
        partition(data, 10, "natural", seed=0)


@pytest.mark.parametrize("hidden", [0, 16])
def test_a_training_step_is_the_gradient_of_the_loss(hidden: int) -> None:
    data = made(60)
    model = Model(n_features=5, n_classes=5, hidden=hidden)
    start = [w + np.float32(0.05) for w in model.initial(3)]
    rate = 1e-3
    after = train(
        start, data.x, data.y, epochs=1, rate=rate, batch=60, rng=np.random.default_rng(0)
    )
    rng = np.random.default_rng(1)
    for layer, shape in enumerate(model.shapes):
        index = tuple(int(rng.integers(size)) for size in shape)
        gradient = (start[layer][index] - after[layer][index]) / rate
        losses = []
        for sign in (1, -1):
            moved = [w.astype(np.float64) for w in start]
            moved[layer][index] += sign * 1e-3
            losses.append(sample_losses(moved, data.x, data.y)[0].mean())  # type: ignore[arg-type]
        assert gradient == pytest.approx((losses[0] - losses[1]) / 2e-3, abs=2e-3)


def test_local_training_learns_and_leaves_what_it_was_given() -> None:
    data = made()
    model = Model(n_features=5, n_classes=5, hidden=16)
    start = model.initial(0)
    kept = [w.copy() for w in start]
    rng = stream(0, "train", "client-000", 1)
    after = train(start, data.x, data.y, epochs=20, rate=0.1, batch=20, rng=rng)
    assert accuracy(after, data.x_test, data.y_test) > 0.9
    assert all(np.array_equal(a, b) for a, b in zip(start, kept, strict=True))
    near = train(
        start, data.x, data.y, epochs=20, rate=0.1, batch=20, proximal_mu=5.0,
        rng=stream(0, "train", "client-000", 1),
    )  # fmt: skip

    def distance(w: list[np.ndarray]) -> float:
        return float(sum(((a - b) ** 2).sum() for a, b in zip(w, start, strict=True)))

    assert distance(near) < 0.5 * distance(after)


def test_averaging_weighs_by_samples() -> None:
    one, two = [np.ones(2, np.float32)], [np.full(2, 4, np.float32)]
    assert average([(one, 2), (two, 1)])[0].tolist() == [2.0, 2.0]
    with pytest.raises(InputError, match="nothing to average"):
        average([(one, 0)])


def test_streams_are_keyed_by_name_alone() -> None:
    assert stream(1, "train", "a", 3).random() == stream(1, "train", "a", 3).random()
    draws = {
        stream(*keys).random()
        for keys in (
            (1, "train", "a", 3),
            (1, "train", "a", 4),
            (1, "train", "b", 3),
            (2, "train", "a", 3),
        )
    }
    assert len(draws) == 4
